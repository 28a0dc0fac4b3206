"""Small Keras models, and files as Keras 2 wrote them."""

import json
from pathlib import Path

import h5py
import keras
from keras import layers
from pydantic import JsonValue


def network(
    *shape: int,
    units: int = 3,
    activation: str | None = None,
    scale: float | None = None,
    dtype: str = "float32",
    batch: int | None = None,
) -> keras.Model:
    """Return a convolution for images `(height, width, channels)`, or dense layers for rows."""
    keras.utils.set_random_seed(0)
    value = images = layers.Input(shape, dtype=dtype, batch_size=batch)
    if scale:
        value = layers.Rescaling(scale)(value)
    if len(shape) == 3:
        value = layers.Conv2D(4, 3, activation="relu", kernel_initializer="he_normal")(value)
        value = layers.BatchNormalization()(value)
        value = layers.Flatten()(value)
    value = layers.Dense(8, activation="relu")(value)
    return keras.Model(images, layers.Dense(units, activation=activation)(value))


def as_keras_2(path: Path) -> Path:
    """Rewrite the description in an `.h5` file as Keras 2.9 wrote it."""
    with h5py.File(path, "r+") as file:
        config = _older(json.loads(file.attrs["model_config"]))
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = "2.9.0"
    return path


def _older(value: JsonValue) -> JsonValue:
    if isinstance(value, list):
        return [_older(each) for each in value]
    if not isinstance(value, dict):
        return value
    if value.get("class_name") == "DTypePolicy":
        config = value["config"]
        assert isinstance(config, dict)
        return config["name"]
    newer = ("module", "registered_name", "build_config", "optional", "shared_object_id")
    renamed = {"batch_shape": "batch_input_shape"}
    return {
        renamed.get(name, name): _older(each) for name, each in value.items() if name not in newer
    }
