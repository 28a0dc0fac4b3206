"""SavedModels, and models that BentoML stored, answer as before."""

import warnings
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers

from loupe.models.engines.loading import load_engine
from loupe.models.store import KERAS_FILE, ONNX_FILE, find_model, list_models
from tests.support.command import Loupe
from tests.support.keras_models import network
from tests.support.onnx_models import TOLERANCE, convolution, given_answers, photos, softmax
from tests.support.stores import stored

IMAGES = photos(24, 32, 3)


@pytest.fixture
def bento(store: Path) -> None:
    """Import the modules that BentoML calls deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import bentoml.keras
        import bentoml.onnx  # noqa: F401


@pytest.mark.parametrize("batch", [None, 4])
def test_saved_model_of_keras(batch: int | None, store: Path, tmp_path: Path, loupe: Loupe) -> None:
    given = network(24, 32, 3, scale=1 / 255, batch=batch)
    given.export(tmp_path / "m", verbose=False)
    ended = loupe("models", "import", tmp_path / "m", "--classes", "0-2")
    assert ended.code == 0, ended.err

    function = tf.saved_model.load(tmp_path / "m").signatures["serving_default"]
    inputs = np.split(IMAGES.astype(np.float32), len(IMAGES) // (batch or len(IMAGES)))
    outputs = [next(iter(function(tf.constant(each)).values())) for each in inputs]
    expected = softmax(np.concatenate(outputs))
    model = find_model("m")
    np.testing.assert_allclose(load_engine(model).predict(IMAGES), expected, atol=TOLERANCE)
    assert set(model.card.files) == {ONNX_FILE}
    assert model.card.config["input"] == "float32 NHWC 0..255"


def test_saved_model_of_tensorflow(store: Path, tmp_path: Path, loupe: Loupe) -> None:
    class Linear(tf.Module):  # type: ignore[misc, unused-ignore]
        def __init__(self) -> None:
            super().__init__()
            matrix = np.random.default_rng(0).normal(size=(784, 4)) / 20
            self.matrix = tf.Variable(matrix.astype(np.float32))

        @tf.function(input_signature=[tf.TensorSpec((None, 784), tf.float32)])  # type: ignore[untyped-decorator, unused-ignore]
        def __call__(self, pixels: tf.Tensor) -> tf.Tensor:
            return tf.matmul(pixels, self.matrix)

    given = Linear()
    tf.saved_model.save(given, str(tmp_path / "m"))
    ended = loupe(
        *("models", "import", tmp_path / "m", "--classes", "0-3", "--look", "ink"),
        *("--input", "0..1"),
    )
    assert ended.code == 0, ended.err

    images = photos(28, 28)
    expected = softmax(np.asarray(given((images / np.float32(255)).reshape(-1, 784))))
    answers = load_engine(find_model("m")).predict(images)
    np.testing.assert_allclose(answers, expected, atol=TOLERANCE)


def save(path: Path, change: Callable[[tf.Tensor], tf.Tensor], *shape: int) -> None:
    """Save a model that does something to its input first."""
    module = tf.Module()
    signature = [tf.TensorSpec((None, *shape), tf.float32)]

    def run(pixels: tf.Tensor) -> tf.Tensor:
        return tf.reshape(change(pixels), (-1, 16 * 16 * 3))[:, :3]

    module.run = tf.function(run, input_signature=signature)
    tf.saved_model.save(module, str(path), signatures=module.run)


def writing_files(path: Path) -> None:
    def write(pixels: tf.Tensor) -> tf.Tensor:
        tf.io.write_file(str(path.parent / "written"), "hello")
        return pixels

    save(path, write, 16, 16, 3)


def reading_files(path: Path) -> None:
    (path.parent / "secret").write_text("hello")

    def read(pixels: tf.Tensor) -> tf.Tensor:
        length = tf.strings.length(tf.io.read_file(str(path.parent / "secret")))
        return pixels * tf.cast(length, tf.float32)

    save(path, read, 16, 16, 3)


def saving_checkpoints(path: Path) -> None:
    def write(pixels: tf.Tensor) -> tf.Tensor:
        tf.raw_ops.SaveV2(
            prefix=str(path.parent / "written"),
            tensor_names=["pixels"],
            shape_and_slices=[""],
            tensors=[pixels],
        )
        return pixels

    save(path, write, 16, 16, 3)


def calling_python(path: Path) -> None:
    save(path, lambda pixels: tf.py_function(lambda x: x, [pixels], tf.float32), 16, 16, 3)


def truncated(path: Path) -> None:
    network(16, 16, 3).export(path, verbose=False)
    file = path / "saved_model.pb"
    file.write_bytes(file.read_bytes()[:1000])


def without_weights(path: Path) -> None:
    network(16, 16, 3).export(path, verbose=False)
    for file in (path / "variables").iterdir():
        file.unlink()


def with_links(path: Path) -> None:
    network(16, 16, 3).export(path, verbose=False)
    (path / "assets").mkdir(exist_ok=True)
    (path / "assets/link").symlink_to("/etc/passwd")


def with_two_inputs(path: Path) -> None:
    inputs = [layers.Input((16, 16, 3)), layers.Input((16, 16, 3))]
    value = layers.Flatten()(layers.Add()(inputs))
    keras.Model(inputs, layers.Dense(3)(value)).export(path, verbose=False)


def with_groups(path: Path) -> None:
    images = layers.Input((16, 16, 3))
    value = layers.Conv2D(4, 3, groups=2)(layers.Conv2D(4, 1)(images))
    keras.Model(images, layers.Dense(3)(layers.Flatten()(value))).export(path, verbose=False)


@pytest.mark.parametrize(
    ("write", "code"),
    [
        (writing_files, "unsafe_model"),
        (reading_files, "unsafe_model"),
        (saving_checkpoints, "unsafe_model"),
        (calling_python, "unsafe_model"),
        (truncated, "model_unreadable"),
        (without_weights, "model_unsupported"),
        (with_links, "external_data"),
        (with_two_inputs, "not_an_image_model"),
        (with_groups, "model_unsupported"),
    ],
)
def test_saved_models_that_cannot_be_imported(
    write: Callable[[Path], None], code: str, store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    write(tmp_path / "m")
    ended = loupe("models", "import", tmp_path / "m", "--classes", "0-2", "--input", "0..1")

    assert ended.err.startswith(f"error: {code}: ")
    assert ended.err.count("\n") == 1
    assert ("groups" in ended.err) == (write is with_groups)
    assert not list_models()
    assert not (tmp_path / "written").exists()


def test_a_model_of_bentoml_keras(bento: None, loupe: Loupe) -> None:
    import bentoml

    given = network(24, 32, 3, scale=1 / 255)
    tag = bentoml.keras.save_model("boots", given).tag
    ended = loupe("models", "import", tag, "--classes", "0-2")
    assert ended.code == 0, ended.err

    model = find_model("boots")
    expected = softmax(np.asarray(given(IMAGES.astype(np.float32), training=False)))
    np.testing.assert_allclose(load_engine(model).predict(IMAGES), expected, atol=TOLERANCE)
    assert set(model.card.files) == {KERAS_FILE, ONNX_FILE}


def test_a_model_of_bentoml_onnx(bento: None, tmp_path: Path, loupe: Loupe) -> None:
    import bentoml

    path = convolution(tmp_path / "m.onnx", shape=("n", 24, 32, 3))
    bentoml.onnx.save_model("boots", onnx.load(path))
    ended = loupe("models", "import", "boots", "--classes", "0-2", "--input", "0..1")
    assert ended.code == 0, ended.err

    expected = softmax(given_answers(path, IMAGES / np.float32(255)))
    answers = load_engine(find_model("boots")).predict(IMAGES)
    np.testing.assert_allclose(answers, expected, atol=TOLERANCE)


def test_a_model_that_loupe_stored_is_none_to_import(store: Path, loupe: Loupe) -> None:
    ended = loupe("models", "import", stored().tag, "--classes", "a,b")

    assert ended.err.startswith("error: unknown_model_format: ")
