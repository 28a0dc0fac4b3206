"""Train a classifier, measure it on the test split, and save it with its card."""

import logging
import sys
import time
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib.metadata import version

import keras

from loupe.card import Figures, ModelCard
from loupe.store import StoredModel
from train import architectures, export
from train.calibration import expected_calibration_error
from train.datasets import Dataset

logger = logging.getLogger(__name__)

EVALUATION_BATCH = 512  # images; only a matter of speed
PACKAGES = (
    "keras",
    "tensorflow",
    "onnx",
    "onnxruntime",
    "numpy",
)


@dataclass(frozen=True)
class TrainConfig:
    """The hyperparameters of one training run; they are kept in the model card.

    Attributes:
        epochs: Times every training image is seen.
        batch_size: Images per step.
        learning_rate: Of Adam at the first step; it falls to zero along a cosine.
        validation_fraction: Share, 0..1, of the training split held back to watch over-fitting.
        seed: Makes weights, order and dropout the same again on the same machine.
    """

    epochs: int = 6
    batch_size: int = 128
    learning_rate: float = 3e-3
    validation_fraction: float = 0.1
    seed: int = 0


def train(dataset: Dataset, config: TrainConfig) -> StoredModel:
    """Train, evaluate, export, check and save one model.

    Raises:
        EnginesDisagree: If the two exported files answer differently; nothing is saved.
    """
    model, seconds = fit(dataset, config)
    loss, accuracy = model.evaluate(dataset.test.images, dataset.test.labels, batch_size=EVALUATION_BATCH, verbose=0)
    _, train_accuracy = model.evaluate(
        dataset.train.images, dataset.train.labels, batch_size=EVALUATION_BATCH, verbose=0
    )
    probabilities = model.predict(dataset.test.images, batch_size=EVALUATION_BATCH, verbose=0)
    logger.info("%s: test accuracy %.4f, loss %.4f, %.0f s", dataset.name, accuracy, loss, seconds)
    with export.exported(model, dataset.test.images) as (folder, digests, difference):
        card = ModelCard(
            dataset=dataset.name,
            class_names=dataset.class_names,
            look=dataset.look,
            source=dataset.source,
            licence=dataset.licence,
            figures=Figures(
                test_images=len(dataset.test.images),
                test_digest=dataset.test.digest(),
                accuracy=accuracy,
                loss=loss,
                train_accuracy=train_accuracy,
                calibration_error=expected_calibration_error(probabilities, dataset.test.labels),
                engines_difference=difference,
                training_seconds=seconds,
            ),
            files=digests,
            config={"architecture": model.name, **asdict(config)},
            made_with={package: version(package) for package in PACKAGES},
            created=datetime.now(timezone.utc),
        )
        return export.save(dataset.name, folder, card)


def fit(dataset: Dataset, config: TrainConfig) -> tuple[keras.Model, float]:
    """A trained model and the seconds it took, with Keras's progress bar on standard output."""
    keras.utils.set_random_seed(config.seed)
    model = architectures.cnn(len(dataset.class_names))
    held_back = round(len(dataset.train.images) * config.validation_fraction)
    split = len(dataset.train.images) - held_back
    steps = -(-split // config.batch_size) * config.epochs
    model.compile(
        optimizer=keras.optimizers.Adam(keras.optimizers.schedules.CosineDecay(config.learning_rate, steps)),
        loss="sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    started = time.monotonic()
    model.fit(
        dataset.train.images[:split],
        dataset.train.labels[:split],
        validation_data=(dataset.train.images[split:], dataset.train.labels[split:]) if held_back else None,
        batch_size=config.batch_size,
        epochs=config.epochs,
        verbose=1 if sys.stdout.isatty() else 2,  # a bar that moves is for terminals
    )
    return model, time.monotonic() - started
