"""Stored models without training: they tell the mean colours of images of any size."""

import shutil
from datetime import UTC, datetime

from loupe.images.spec import ImageSpec
from loupe.models.card import Figures, ModelCard
from loupe.models.saving import new_model
from loupe.models.store import StoredModel, find_model

COLOURS = ("red", "green", "blue")
SHADES = ("dark", "light")
STEEP = 20.0  # logits of a full colour, so that answers are clear


def store_averages(name: str, spec: ImageSpec, steep: float = STEEP) -> StoredModel:
    """Store a model that names the strongest colour of an image, or whether a grey one is light.

    With a negative `steep`, it is always wrong.
    """
    from train.tensorflow import import_tensorflow

    import_tensorflow()
    import keras
    import numpy as np

    from train.fit.export import add_softmax, exported

    classes = COLOURS if spec.channels == 3 else SHADES
    images = keras.layers.Input(spec.shape, dtype="uint8", name="images")
    pixels = keras.layers.Rescaling(1 / 255)(images)
    pixels = keras.layers.Reshape((spec.height, spec.width, spec.channels))(pixels)
    means = keras.layers.GlobalAveragePooling2D()(pixels)  # (n, channels)
    logits = keras.layers.Dense(len(classes), name="logits")
    model = keras.Model(images, logits(means))
    signs = np.eye(3) if spec.channels == 3 else np.array([[-1, 1]])
    bias = np.zeros(3) if spec.channels == 3 else np.array([steep, 0])
    logits.set_weights([steep * signs, bias])
    sample = np.random.default_rng(0).integers(0, 256, (8, *spec.shape), dtype=np.uint8)
    with exported(add_softmax(model, 1.0), spec, sample) as files:
        card = ModelCard(
            dataset=name,
            class_names=classes,
            input=spec,
            figures=Figures(
                test_images=8,
                test_digest=name,
                accuracy=1.0,
                loss=0.1,
                train_accuracy=1.0,
                calibration_error=0.0,
                engines_difference=files.difference,
                training_seconds=0.0,
            ),
            files=files.digests,
            config={"architecture": "averages"},
            made_with={"keras": keras.__version__},
            created=datetime.now(UTC),
        )
        with new_model(name, card) as stored:
            for file in files.digests:
                shutil.copy(files.folder / file, stored.path_of(file))
    return find_model(str(stored.tag))
