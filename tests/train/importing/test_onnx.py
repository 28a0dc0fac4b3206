"""ONNX models of every layout, type, range and batch size answer in the store as before."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto
from onnx.external_data_helper import convert_model_to_external_data

from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.engines.loading import load_engine
from loupe.models.store import ONNX_FILE, StoredModel, find_model
from tests.support.command import Loupe
from tests.support.onnx_models import TOLERANCE, convolution, given_answers, photos, softmax
from tests.support.programs import environment


def answers(model: StoredModel, images: UInt8Array) -> Float32Array:
    """Return the stored model's answers, which must not depend on the size of the batch."""
    engine = load_engine(model, threads=1)
    together = engine.predict(images)
    for size in (1, 3, 5):
        np.testing.assert_allclose(engine.predict(images[:size]), together[:size], atol=1e-5)
    assert engine.predict(images[:0]).shape == (0, together.shape[1])
    np.testing.assert_allclose(together.sum(axis=1), 1, atol=1e-4)
    return together


def imported(loupe: Loupe, *arguments: object) -> StoredModel:
    ended = loupe("models", "import", *arguments)
    assert ended.code == 0, ended.err
    return find_model(ended.out.split()[-1])


RANGES = {
    "0..1": lambda pixels: pixels / 255,
    "-1..1": lambda pixels: pixels / 127.5 - 1,
    "0..255": lambda pixels: pixels,
    "mean=0.485,0.456,0.406 std=0.229,0.224,0.225": lambda pixels: (
        (pixels / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])
    ),
    "mean=0.5 std=0.25": lambda pixels: (pixels / 255 - 0.5) / 0.25,
}


@pytest.mark.parametrize("stated", RANGES)
def test_every_range_of_pixels(stated: str, store: Path, tmp_path: Path, loupe: Loupe) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 3, 32, 24))
    images = photos(32, 24, 3)
    inputs = RANGES[stated](images.astype(np.float64)).astype(np.float32).transpose(0, 3, 1, 2)
    model = imported(loupe, path, "--classes", "a,b,c", "--input", stated)

    expected = softmax(given_answers(path, inputs))
    np.testing.assert_allclose(answers(model, images), expected, atol=TOLERANCE)
    assert (model.card.input.shape, model.card.input.look) == ((32, 24, 3), "photo")
    assert model.card.figures is None
    assert model.card.config["input"] == f"float32 NCHW {stated}"


@pytest.mark.parametrize(
    ("shape", "flat", "batch"),
    [
        pytest.param(("n", 1, 28, 28), (0, -1), 1, id="any batch size"),
        pytest.param((1, 1, 28, 28), (0, -1), 1, id="fixed, but the graph takes more"),
        pytest.param((1, 1, 28, 28), (1, -1), 1, id="fixed to 1"),
        pytest.param((4, 1, 28, 28), (4, -1), 4, id="fixed to 4"),
        pytest.param(("n", 1, 28, 28), (1, -1), 1, id="fixed to 1, though it says any"),
        pytest.param(("n", 28, 28, 1), (0, -1), 1, id="channels last"),
    ],
)
def test_every_batch_size_of_grey_models(
    shape: tuple[int | str, ...],
    flat: tuple[int, ...],
    batch: int,
    store: Path,
    tmp_path: Path,
    loupe: Loupe,
) -> None:
    path = convolution(tmp_path / "m.onnx", shape=shape, flat=flat)
    images = photos(28, 28)
    arguments = ("--classes", "a,b,c", "--input", "0..1", "--look", "ink")
    model = imported(loupe, path, *arguments)

    inputs = (images / np.float32(255)).reshape(-1, *map(int, shape[1:]))
    expected = softmax(given_answers(path, inputs, batch))
    np.testing.assert_allclose(answers(model, images), expected, atol=TOLERANCE)
    assert model.card.input.look == "ink"


@pytest.mark.parametrize(
    ("tail", "units", "expected_output"),
    [
        (("Softmax",), 3, "probabilities"),
        (("LogSoftmax",), 3, "logits"),
        ((), 3, "logits"),
        (("Sigmoid",), 1, "probabilities"),
        ((), 1, "logits"),
        ((), 1000, "logits"),
        (("Softmax", "Identity"), 2, "probabilities"),
    ],
)
def test_every_kind_of_output(
    tail: tuple[str, ...],
    units: int,
    expected_output: str,
    store: Path,
    tmp_path: Path,
    loupe: Loupe,
) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 3, 16, 16), tail=tail, units=units)
    classes = f"0-{max(units, 2) - 1}"
    model = imported(loupe, path, "--classes", classes, "--input", "-1..1")
    images = photos(16, 16, 3)

    given = given_answers(path, (images / 127.5 - 1).astype(np.float32).transpose(0, 3, 1, 2))
    if units == 1 and tail:
        expected = np.concatenate([1 - given, given], axis=1)
    elif units == 1:
        expected = softmax(np.concatenate([0 * given, given], axis=1))
    else:
        expected = given if expected_output == "probabilities" else softmax(given)
    np.testing.assert_allclose(answers(model, images), expected, atol=TOLERANCE)
    assert model.card.config["output"] == expected_output
    assert len(model.card.class_names) == max(units, 2)


def test_a_model_of_half_precision(store: Path, tmp_path: Path, loupe: Loupe) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 3, 16, 16), dtype=TensorProto.FLOAT16)
    model = imported(loupe, path, "--classes", "a,b,c", "--input", "0..1")
    images = photos(16, 16, 3)

    inputs = (images / np.float32(255)).astype(np.float16).transpose(0, 3, 1, 2)
    expected = softmax(given_answers(path, inputs))
    np.testing.assert_allclose(answers(model, images), expected, atol=TOLERANCE)


@pytest.mark.parametrize("opset", [7, 9, 11, 13, 18])
def test_opset_and_weights_stay_as_they_are(
    opset: int, store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 1, 28, 28), opset=opset, ir_version=4)
    model = imported(
        loupe, path, "--classes", "a,b,c", "--input", "NCHW mean=0.1307 std=0.3081", "--look", "ink"
    )
    given, saved = onnx.load(path), onnx.load(model.folder / ONNX_FILE)

    assert [each.version for each in saved.opset_import] == [opset]
    kept = {each.name: each.raw_data for each in saved.graph.initializer}
    assert all(kept[each.name] == each.raw_data for each in given.graph.initializer)
    onnx.checker.check_model(saved)


def test_a_model_of_open_size_takes_the_stated_one(
    store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 3, 32, 24))
    model = onnx.load(path)
    for side in model.graph.input[0].type.tensor_type.shape.dim:
        side.dim_param = f"any_{side.dim_value}"
    onnx.save_model(model, path)
    stated = "float32 NCHW 0..1 32x24x3"
    saved = imported(loupe, path, "--classes", "a,b,c", "--input", stated)
    images = photos(32, 24, 3)

    inputs = (images / np.float32(255)).transpose(0, 3, 1, 2)
    expected = softmax(given_answers(path, inputs))
    np.testing.assert_allclose(answers(saved, images), expected, atol=TOLERANCE)


def test_a_name_keeps_its_classes(store: Path, tmp_path: Path, loupe: Loupe) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 3, 16, 16))
    imported(loupe, path, "--classes", "a,b,c", "--input", "0..1")
    other = (path, "--classes", "x,y,z", "--input", "0..1")

    assert loupe("models", "import", *other).err.startswith("error: name_in_use: ")
    assert imported(loupe, *other, "--replace-classes").card.class_names == ("x", "y", "z")


def test_a_loop_over_the_batch_passes_the_checks_of_onnx(
    store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    path = convolution(tmp_path / "m.onnx", shape=(4, 3, 16, 16), flat=(4, -1))
    model = imported(loupe, path, "--classes", "a,b,c", "--input", "0..1")

    onnx.checker.check_model(onnx.load(model.folder / ONNX_FILE), full_check=True)


def test_a_model_that_divides_by_255_itself_needs_no_input(
    store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 32, 32, 3), scale=1 / 255)
    model = imported(loupe, path, "--classes", "a,b,c")
    images = photos(32, 32, 3)

    expected = softmax(given_answers(path, images.astype(np.float32)))
    np.testing.assert_allclose(answers(model, images), expected, atol=TOLERANCE)
    assert model.card.config["input"] == "float32 NHWC 0..255"


def test_weights_in_a_file_beside_the_model_are_stored_with_it(
    store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 3, 16, 16))
    whole = onnx.load(path)
    convert_model_to_external_data(whole, location="weights.bin", size_threshold=100)
    onnx.save_model(whole, path)
    model = imported(loupe, path, "--classes", "a,b,c", "--input", "0..1")
    images = photos(16, 16, 3)

    inputs = (images / np.float32(255)).transpose(0, 3, 1, 2)
    expected = softmax(given_answers(path, inputs))
    np.testing.assert_allclose(answers(model, images), expected, atol=TOLERANCE)
    assert set(model.card.files) == {ONNX_FILE}


def test_onnx_files_need_no_tensorflow(
    digits_model: StoredModel, store: Path, tmp_path: Path
) -> None:
    program = (
        "import sys; sys.modules['tensorflow'] = sys.modules['keras'] = None; "
        "from loupe.cli.main import main; main()"
    )
    path = digits_model.folder / ONNX_FILE
    command = f"models import {path} --classes 0-9 --look ink --name mine --test digits"
    ended = subprocess.run(
        [sys.executable, "-c", program, *command.split()],
        env=environment(BENTOML_HOME=store),
        capture_output=True,
        text=True,
        check=False,
    )

    assert ended.returncode == 0, ended.stderr
    assert find_model("mine").card.measured.accuracy == digits_model.card.measured.accuracy


def test_a_model_of_loupe_answers_as_before(
    digits_model: StoredModel, store: Path, loupe: Loupe
) -> None:
    path = digits_model.folder / ONNX_FILE
    model = imported(loupe, path, "--classes", "0-9", "--look", "ink", "--name", "mine")
    images = photos(28, 28)

    expected = load_engine(digits_model).predict(images)
    np.testing.assert_allclose(answers(model, images), expected, atol=TOLERANCE)
    assert model.card.config["input"] == "uint8 NHW 0..255"
