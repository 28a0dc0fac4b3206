"""Keras models of both formats answer in the store as before."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path

import h5py
import keras
import numpy as np
import pytest
from keras import layers

from loupe.images.spec import UInt8Array
from loupe.models.engines.loading import load_engine
from loupe.models.store import KERAS_FILE, ONNX_FILE, find_model, list_models
from loupe.settings import EngineName
from tests.support.command import Loupe
from tests.support.keras_models import as_keras_2, network
from tests.support.onnx_models import TOLERANCE, photos, softmax

GREY = ("--look", "ink")
Prepare = Callable[[UInt8Array], np.ndarray]


def in_0_1(images: UInt8Array) -> np.ndarray:
    return images / np.float32(255)


def adapted() -> keras.Model:
    normalization = layers.Normalization()
    normalization.adapt(photos(16, 16, 1, count=20))
    return keras.Sequential(
        [layers.Input((16, 16, 1)), normalization, layers.Flatten(), layers.Dense(3)]
    )


def transformer_of_patches() -> keras.Model:
    images = layers.Input((16, 16, 3))
    patches = layers.Reshape((16, 8))(layers.Conv2D(8, 4, 4, activation="gelu")(images))
    patches = layers.LayerNormalization()(
        patches + layers.MultiHeadAttention(2, 4)(patches, patches)
    )
    return keras.Model(images, layers.Dense(3)(layers.Flatten()(patches)))


CASES: dict[str, tuple[Callable[[], keras.Model], tuple[str, ...], Prepare]] = {
    "grey in 0..1": (
        lambda: network(28, 28, 1, activation="softmax"),
        (*GREY, "--input", "0..1"),
        lambda images: in_0_1(images)[..., np.newaxis],
    ),
    "colour with its own scale": (
        lambda: network(24, 32, 3, scale=1 / 255),
        (),
        lambda images: images.astype(np.float32),
    ),
    "bytes": (
        lambda: network(16, 16, 3, scale=1 / 127.5, dtype="uint8"),
        (),
        lambda images: images,
    ),
    "rows": (
        lambda: network(784, units=1, activation="sigmoid"),
        (*GREY, "--input", "-1..1"),
        lambda images: (images / np.float32(127.5) - 1).reshape(-1, 784),
    ),
    "a fixed batch size": (
        lambda: network(16, 16, 3, batch=4),
        ("--input", "mean=0.5,0.4,0.3 std=0.2"),
        lambda images: ((images / 255 - np.array([0.5, 0.4, 0.3])) / 0.2).astype(np.float32),
    ),
    "fixed mean and variance": (
        lambda: keras.Sequential(
            [
                layers.Input((16, 16, 3)),
                layers.Rescaling(1 / 255),
                layers.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.05, 0.04, 0.06]),
                layers.Conv2D(2, 3),
                layers.Flatten(),
                layers.Dense(3),
            ]
        ),
        (),
        lambda images: images.astype(np.float32),
    ),
    "adapted mean and variance": (
        adapted,
        (*GREY, "--input", "0..255"),
        lambda images: images[..., np.newaxis].astype(np.float32),
    ),
    "attention and GELU": (
        transformer_of_patches,
        ("--input", "0..1"),
        in_0_1,
    ),
    "convolutions in groups": (
        lambda: keras.Sequential(
            [
                layers.Input((16, 16, 3)),
                layers.Conv2D(8, 3),
                layers.Conv2D(8, 5, padding="same", groups=8, bias_initializer="uniform"),
                layers.Conv2D(12, 3, groups=4, bias_initializer="uniform"),
                layers.Flatten(),
                layers.Dense(3),
            ]
        ),
        ("--input", "0..1"),
        in_0_1,
    ),
    "models within models": (
        lambda: keras.Sequential(
            [
                layers.Input((16, 16, 3)),
                layers.RandomFlip("horizontal"),
                keras.Sequential([layers.Rescaling(1 / 127.5, -1), layers.Conv2D(2, 3)]),
                layers.GlobalAveragePooling2D(),
                layers.Dense(3),
            ]
        ),
        (),
        lambda images: images.astype(np.float32),
    ),
}


@pytest.mark.parametrize("kind", ["keras", "h5", "folder"])
@pytest.mark.parametrize("case", CASES)
def test_answers_stay_the_same(
    case: str, kind: str, store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    make, options, prepare = CASES[case]
    if kind != "keras" and case not in ("grey in 0..1", "colour with its own scale"):
        pytest.skip("one format is enough for this one")
    given = make()
    path = tmp_path / {"keras": "m.keras", "h5": "m.h5", "folder": "m"}[kind]
    if kind == "folder":
        given.save(tmp_path / "m.keras")
        with zipfile.ZipFile(tmp_path / "m.keras") as archive:
            archive.extractall(path)  # as bentoml.keras stores it
    else:
        given.save(path)
    names = "0,1" if given.output_shape[-1] == 1 else "0-2"
    ended = loupe("models", "import", path, "--classes", names, *options)
    assert ended.code == 0, ended.err
    model = find_model("m")

    images = photos(*model.card.input.shape)
    inputs = prepare(images)
    size = given.input_shape[0] or len(images)
    outputs = np.concatenate(
        [
            np.asarray(given(inputs[at : at + size], training=False))
            for at in range(0, len(inputs), size)
        ]
    )
    if outputs.shape[1] == 1:
        expected = np.concatenate([1 - outputs, outputs], axis=1)
    else:
        probabilities = model.card.config["output"] == "probabilities"
        expected = outputs if probabilities else softmax(outputs)
    engines: tuple[EngineName, ...] = ("onnx", "tensorflow")
    for name in engines:
        answers = load_engine(model, name).predict(images)
        np.testing.assert_allclose(answers, expected, atol=TOLERANCE)
    assert set(model.card.files) == {KERAS_FILE, ONNX_FILE}


def test_a_file_of_keras_2(store: Path, tmp_path: Path, loupe: Loupe) -> None:
    given = network(28, 28, 1, activation="softmax")
    given.save(tmp_path / "m.h5")
    path = as_keras_2(tmp_path / "m.h5")
    ended = loupe("models", "import", path, "--classes", "0-2", *GREY, "--input", "0..1")
    assert ended.code == 0, ended.err

    images = photos(28, 28)
    expected = np.asarray(given(in_0_1(images)[..., np.newaxis]))
    answers = load_engine(find_model("m")).predict(images)
    np.testing.assert_allclose(answers, expected, atol=TOLERANCE)


def test_calibrated_probabilities_are_the_same_in_both_files(
    store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    given = network(28, 28, 1, units=10, activation="softmax", scale=1 / 255)
    last = given.layers[-1]
    last.set_weights([30 * weights for weights in last.get_weights()])  # much too sure
    given.save(tmp_path / "m.keras")
    ended = loupe(
        *("models", "import", tmp_path / "m.keras", "--classes", "0-9", *GREY, "--calibrate"),
        *("--test", "digits", "--min-accuracy", 0),
    )
    assert ended.code == 0, ended.err
    model = find_model("m")

    assert model.card.config["temperature"] != 1
    images = photos(28, 28)
    np.testing.assert_allclose(
        load_engine(model, "tensorflow").predict(images),
        load_engine(model).predict(images),
        atol=TOLERANCE,
    )


def with_lambda(path: Path) -> None:
    model = keras.Sequential([layers.Input((16, 16, 3)), layers.Flatten(), layers.Dense(3)])
    model.add(layers.Lambda(lambda value: value))
    model.save(path)


def with_own_layer(path: Path) -> None:
    @keras.saving.register_keras_serializable("mine")
    class Own(layers.Layer):
        def call(self, inputs: keras.KerasTensor) -> keras.KerasTensor:
            return inputs

    keras.Sequential([layers.Input((16, 16, 3)), layers.Flatten(), Own(), layers.Dense(3)]).save(
        path
    )


def with_two_inputs(path: Path) -> None:
    inputs = [layers.Input((16, 16, 3)), layers.Input((16, 16, 3))]
    value = layers.Flatten()(layers.Add()(inputs))
    keras.Model(inputs, layers.Dense(3)(value)).save(path)


def recurrent(path: Path) -> None:
    keras.Sequential([layers.Input((28, 28)), layers.LSTM(4), layers.Dense(3)]).save(path)


def of_words(path: Path) -> None:
    network_of_words = [layers.Input((64,)), layers.Embedding(9, 4), layers.Flatten()]
    keras.Sequential([*network_of_words, layers.Dense(3)]).save(path)


def transformer(path: Path) -> None:
    network(16, 16, 3).save_weights(path.with_suffix(".weights.h5"))
    path.with_suffix(".weights.h5").rename(path)


def truncated(path: Path) -> None:
    network(16, 16, 3).save(path)
    path.write_bytes(path.read_bytes()[:-5000])


def elsewhere(path: Path) -> None:
    """Write a model whose weights are in another file."""
    network(16, 16, 3).save(path.parent / "whole.h5")
    with h5py.File(path.parent / "whole.h5", "r+") as file:
        file.move("model_weights", "there")
        file["model_weights"] = h5py.ExternalLink("other.h5", "/model_weights")
    (path.parent / "whole.h5").rename(path)


def reads_files(path: Path) -> None:
    """Write a `.keras` file whose layer would read a file of words."""
    network(16, 16, 3).save(path.parent / "whole.keras")
    with zipfile.ZipFile(path.parent / "whole.keras") as whole, zipfile.ZipFile(path, "w") as file:
        config = json.loads(whole.read("config.json"))
        config["config"]["layers"].append(
            {
                "module": "keras.layers",
                "class_name": "StringLookup",
                "config": {"vocabulary": "/etc/passwd"},
                "registered_name": None,
            }
        )
        for name in whole.namelist():
            data = json.dumps(config) if name == "config.json" else whole.read(name)
            file.writestr(name, data)


def bomb(path: Path) -> None:
    """Write a `.keras` file that unpacks to more than a GiB of zeros."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        file.writestr("config.json", "{}")
        with file.open("model.weights.h5", "w", force_zip64=True) as weights:
            for _ in range(1025):
                weights.write(bytes(2**20))


@pytest.mark.parametrize(
    ("write", "name", "code"),
    [
        (with_lambda, "m.keras", "unsafe_model"),
        (with_lambda, "m.h5", "unsafe_model"),
        (reads_files, "m.keras", "unsafe_model"),
        (with_own_layer, "m.keras", "custom_layers"),
        (with_own_layer, "m.h5", "custom_layers"),
        (with_two_inputs, "m.keras", "not_an_image_model"),
        (recurrent, "m.keras", "not_an_image_model"),
        (recurrent, "m.h5", "not_an_image_model"),
        (of_words, "m.keras", "not_an_image_model"),
        (transformer, "m.h5", "weights_only"),
        (truncated, "m.keras", "model_unreadable"),
        (truncated, "m.h5", "model_unreadable"),
        (elsewhere, "m.h5", "external_data"),
        (bomb, "m.keras", "model_too_large"),
    ],
)
def test_files_that_cannot_be_imported(
    write: Callable[[Path], None], name: str, code: str, store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    write(tmp_path / name)
    ended = loupe("models", "import", tmp_path / name, "--classes", "0-2", "--input", "0..1")

    assert ended.err.startswith(f"error: {code}: ")
    assert ended.err.count("\n") == 1
    assert ended.code in (1, 2)
    assert not list_models()
