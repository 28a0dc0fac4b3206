"""Pretrained backbones: weights from a file, preprocessing inside the model."""

from pathlib import Path

import keras
import numpy as np
import pytest

from loupe.errors import InvalidUsage
from loupe.models.engines.loading import load_engine
from tests.support import pictures
from train.config import PRETRAINED, Architecture, recipe
from train.fit.training import train
from train.nets.architectures import build
from train.nets.backbones import BACKBONES

SHAPE = (48, 40, 3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the random weights of each backbone, as `NAME.weights.h5`."""
    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(0)
    for name, network in BACKBONES.items():
        model = network(include_top=False, weights=None, input_shape=SHAPE)
        model.save_weights(folder / f"{name}.weights.h5")
    return folder


@pytest.mark.parametrize("name", PRETRAINED)
def test_a_model_has_the_features_of_its_backbone_on_raw_bytes(
    folder: Path, name: Architecture
) -> None:
    weights = folder / f"{name}.weights.h5"
    photos = np.random.default_rng(0).integers(0, 256, (3, *SHAPE), np.uint8)
    model = build(SHAPE, 4, recipe(name, pretrained=str(weights)))
    original = BACKBONES[name](
        include_top=False, weights=str(weights), input_shape=SHAPE, pooling="avg"
    )
    values = photos.astype(np.float32)
    if name == "efficientnet-b0":  # as Keras scales the weights that it downloads
        deviation = np.sqrt(np.array([0.229, 0.224, 0.225]))
        mean = 255 * np.array([0.485, 0.456, 0.406])
        values = ((values - mean) / deviation + mean).astype(np.float32)
    features = keras.Model(model.input, model.get_layer("logits").input)

    np.testing.assert_allclose(features(photos), original(values), rtol=1e-3, atol=1e-4)


def test_grey_images_are_taken_as_three_channels(folder: Path) -> None:
    name: Architecture = "mobilenet-v3-small"
    weights = folder / f"{name}.weights.h5"
    grey = np.random.default_rng(0).integers(0, 256, (2, *SHAPE[:2]), np.uint8)
    config = recipe(name, pretrained=str(weights))
    one, three = build(SHAPE[:2], 2, config), build(SHAPE, 2, config)
    three.set_weights(one.get_weights())

    np.testing.assert_allclose(one(grey), three(np.stack([grey] * 3, axis=-1)), atol=1e-5)


@pytest.mark.timeout(300)  # builds, trains and exports a hundred layers
def test_a_pretrained_model_is_trained_and_stored(store: Path, folder: Path) -> None:
    path = folder / "mobilenet-v3-small.weights.h5"
    photos = pictures.photos(32)
    config = recipe("mobilenet-v3-small", pretrained=str(path), epochs=1, batch_size=16)
    model = train(photos, config, min_accuracy=0)

    assert model.card.config["pretrained"] == path.name
    assert load_engine(model).predict(photos.test.images).shape == (16, 3)


@pytest.mark.parametrize(
    ("name", "given", "fact"),
    [
        ("resnet", True, "mobilenet-v3-small"),
        ("efficientnet-b0", False, "--pretrained"),
    ],
)
def test_only_pretrained_architectures_take_weights(
    tmp_path: Path, name: str, given: bool, fact: str
) -> None:
    file = tmp_path / "w.h5"
    file.touch()
    with pytest.raises(InvalidUsage, match=fact) as raised:
        recipe(name, pretrained=str(file) if given else None)

    assert raised.value.code == "invalid_training"


def test_missing_and_damaged_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidUsage, match="nowhere"):
        recipe("mobilenet-v3-small", pretrained=str(tmp_path / "nowhere.h5"))
    file = tmp_path / "w.weights.h5"
    file.write_bytes(b"no weights")
    config = recipe("mobilenet-v3-small", pretrained=str(file))
    with pytest.raises(InvalidUsage, match=r"w\.weights\.h5") as raised:
        build(SHAPE, 3, config)
    assert raised.value.code == "invalid_training"
    with pytest.raises(InvalidUsage, match="--size"):
        build((28, 28), 3, config)
