"""Models and options that cannot be imported are refused in one line, and nothing is saved."""

import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto

from loupe.models.store import list_models
from tests.support.command import Loupe
from tests.support.onnx_models import convolution, single

FLOAT = TensorProto.FLOAT
CLASSES = ("--classes", "a,b,c")
GREY = (*CLASSES, "--look", "ink", "--input", "0..1")
COLOUR = (*CLASSES, "--input", "0..1")

Write = Callable[[Path], object]


def external(location: str) -> Write:
    """Return what writes a model whose weights are elsewhere."""

    def write(path: Path) -> None:
        model = onnx.load(convolution(path, shape=("n", 3, 16, 16)))
        (path.parent.parent / "outside.bin").write_bytes(bytes(10**6))
        (path.parent / "link.bin").symlink_to(path.parent.parent / "outside.bin")
        (path.parent / "short.bin").write_bytes(b"too short")
        tensor = model.graph.initializer[0]
        length = len(tensor.raw_data)
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        target = location.replace("ROOT", str(path.parent.parent))
        for key, value in (("location", target), ("length", str(length))):
            tensor.external_data.add(key=key, value=value)
        path.write_bytes(model.SerializeToString())

    return write


def truncated(path: Path) -> None:
    convolution(path, shape=("n", 3, 16, 16))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])


def pytorch(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("model/data.pkl", pickle.dumps({"weights": 1}))


def huge(path: Path) -> None:
    path.touch()
    os.truncate(path, 2**30 + 1)


FILES: dict[str, tuple[Write, str]] = {
    "truncated": (truncated, "model_unreadable"),
    "no model": (lambda path: path.write_bytes(b"hello, I am no model"), "model_unreadable"),
    "empty": (lambda path: path.write_bytes(b""), "model_unreadable"),
    "too large": (huge, "model_too_large"),
    "pickle": (lambda path: path.write_bytes(pickle.dumps({"weights": 1})), "unsafe_model"),
    "folder": (lambda path: path.mkdir(), "unknown_model_format"),
    "custom operator": (
        lambda path: single(path, "Magic", [(FLOAT, ("n", 3, 16, 16))], ("n", 3), domain="mine"),
        "custom_operators",
    ),
    "unknown operator": (
        lambda path: single(path, "Magic", [(FLOAT, ("n", 3, 16, 16))], ("n", 3)),
        "model_unsupported",
    ),
    "numbers that ONNX Runtime cannot convolve": (
        lambda path: convolution(path, shape=("n", 3, 16, 16), dtype=TensorProto.DOUBLE),
        "model_unsupported",
    ),
    "recurrent": (
        lambda path: single(
            path, "LSTM", [(FLOAT, (28, 1, 28)), (FLOAT, (1, 4, 28)), (FLOAT, (1, 4, 1))], (1, 1)
        ),
        "not_an_image_model",
    ),
    "two inputs": (
        lambda path: single(path, "Add", [(FLOAT, ("n", 3, 16, 16))] * 2, ("n", 3, 16, 16)),
        "not_an_image_model",
    ),
    "two outputs": (
        lambda path: single(path, "Split", [(FLOAT, (2, 3, 16, 16))], (1, 3, 16, 16), outputs=2),
        "not_an_image_model",
    ),
    "tokens": (
        lambda path: single(path, "Cast", [(TensorProto.INT64, ("n", 128))], ("n", 128), to=FLOAT),
        "not_an_image_model",
    ),
    "one axis": (
        lambda path: single(path, "Relu", [(FLOAT, (784,))], (784,)),
        "not_an_image_model",
    ),
    "4 channels": (
        lambda path: convolution(path, shape=("n", 4, 16, 16)),
        "not_an_image_model",
    ),
    "too large images": (
        lambda path: convolution(path, shape=("n", 3, 224, 224)),
        "not_an_image_model",
    ),
    "images as answers": (
        lambda path: single(path, "Relu", [(FLOAT, ("n", 3, 16, 16))], ("n", 3, 16, 16)),
        "not_a_classifier",
    ),
    "a sigmoid for each class": (
        lambda path: convolution(path, shape=("n", 3, 16, 16), tail=("Sigmoid",)),
        "not_a_classifier",
    ),
    "the best class only": (
        lambda path: single(
            path, "ArgMax", [(FLOAT, ("n", 3, 16, 16))], ("n", 1, 16, 16), result=TensorProto.INT64
        ),
        "not_a_classifier",
    ),
    "a list of tensors": (
        lambda path: single(
            path, "SequenceConstruct", [(FLOAT, ("n", 3, 16, 16))], (), result=None
        ),
        "not_a_classifier",
    ),
    "a file of PyTorch": (pytorch, "unsafe_model"),
    "infinity": (
        lambda path: convolution(path, shape=("n", 3, 16, 16), tail=("Exp",), scale=1e6),
        "invalid_logits",
    ),
    "old operators and a fixed batch": (
        lambda path: convolution(path, shape=(4, 3, 16, 16), flat=(4, -1), opset=9),
        "fixed_batch",
    ),
    "weights above": (external("../outside.bin"), "external_data"),
    "weights anywhere": (external("ROOT/outside.bin"), "external_data"),
    "weights behind a link": (external("link.bin"), "external_data"),
    "weights that are missing": (external("missing.bin"), "external_data"),
    "weights that are truncated": (external("short.bin"), "external_data"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_cannot_be_imported(
    case: str, store: Path, tmp_path: Path, loupe: Loupe
) -> None:
    write, code = FILES[case]
    (tmp_path / "given").mkdir()
    path = tmp_path / "given" / "m.onnx"
    write(path)
    ended = loupe("models", "import", path, *COLOUR)

    assert ended.err.startswith(f"error: {code}: ")
    assert ended.err.count("\n") == 1
    assert ended.code in (1, 2)
    assert not list_models()


OPTIONS: dict[str, tuple[tuple[int | str, ...], tuple[str, ...], str]] = {
    "no range": (("n", 3, 16, 16), CLASSES, "input_unclear"),
    "no look": (("n", 1, 16, 16), (*CLASSES, "--input", "0..1"), "look_needed"),
    "colour in ink": (("n", 3, 16, 16), (*COLOUR, "--look", "ink"), "look_needed"),
    "no size": (("n", 3, "h", "w"), COLOUR, "input_unclear"),
    "no word": (("n", 3, 16, 16), (*CLASSES, "--input", "0-1"), "input_unclear"),
    "half a range": (
        ("n", 3, 16, 16),
        (*CLASSES, "--input", "mean=1"),
        "input_unclear",
    ),
    "other size": (
        ("n", 3, 16, 16),
        (*CLASSES, "--input", "0..1 32x32"),
        "input_unclear",
    ),
    "other type": (("n", 3, 16, 16), (*CLASSES, "--input", "uint8"), "input_unclear"),
    "other layout": (
        ("n", 3, 16, 16),
        (*CLASSES, "--input", "NHWC 0..1"),
        "not_an_image_model",
    ),
    "zero deviation": (
        ("n", 3, 16, 16),
        (*CLASSES, "--input", "mean=0 std=0"),
        "input_unclear",
    ),
    "two deviations": (
        ("n", 3, 16, 16),
        (*CLASSES, "--input", "mean=0,0 std=1,1"),
        "input_unclear",
    ),
    "four classes": (
        ("n", 3, 16, 16),
        ("--classes", "a,b,c,d", "--input", "0..1"),
        "classes_differ",
    ),
    "one class": (("n", 3, 16, 16), ("--classes", "0-0", "--input", "0..1"), "invalid_class_names"),
    "equal classes": (
        ("n", 3, 16, 16),
        ("--classes", "a,b,a", "--input", "0..1"),
        "invalid_class_names",
    ),
    "no file of classes": (
        ("n", 3, 16, 16),
        ("--classes", "nowhere.txt", "--input", "0..1"),
        "invalid_class_names",
    ),
    "probabilities": (("n", 3, 16, 16), (*COLOUR, "--output", "probabilities"), "not_a_classifier"),
    "slashes": (("n", 3, 16, 16), (*COLOUR, "--name", "../x/y"), "invalid_model_name"),
    "calibration without images": (
        ("n", 3, 16, 16),
        (*COLOUR, "--calibrate"),
        "calibration_needs_test",
    ),
    "unknown images": (("n", 3, 16, 16), (*COLOUR, "--test", "nothing"), "unknown_dataset"),
    "images of another size": (("n", 1, 16, 16), (*GREY, "--test", "digits"), "test_set_differs"),
    "fit of ink": (("n", 1, 16, 16), (*GREY, "--fit", "pad"), "invalid_usage"),
}


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_be_used(case: str, store: Path, tmp_path: Path, loupe: Loupe) -> None:
    shape, options, code = OPTIONS[case]
    path = tmp_path / "m.onnx"
    convolution(path, shape=(1, 3, 16, 16) if "h" in shape else shape)
    if "h" in shape:
        model = onnx.load(path)
        for side, name in zip(model.graph.input[0].type.tensor_type.shape.dim, shape, strict=True):
            if isinstance(name, str):
                side.dim_param = name
        onnx.save_model(model, path)
    ended = loupe("models", "import", path, *options)

    assert ended.err.startswith(f"error: {code}: ")
    assert ended.err.count("\n") == 1
    assert ended.code in (1, 2)
    assert not list_models()


def test_an_unclear_input_lists_the_choices(store: Path, tmp_path: Path, loupe: Loupe) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 3, 16, 16))
    error = loupe("models", "import", path, "--classes", "a,b,c").err

    for choice in ("NCHW", "NHWC", "0..1", "-1..1", "0..255", "mean=", "float32 (any, 3, 16, 16)"):
        assert choice in error


@pytest.mark.parametrize("name", ["nowhere.onnx", "a:b:c", "x" * 5000, "../nowhere", ""])
def test_a_missing_file_is_named(name: str, store: Path, loupe: Loupe) -> None:
    ended = loupe("models", "import", name, *COLOUR)

    assert ended.code in (1, 2)
    assert ended.err.startswith(("error: model_file_not_found: ", "error: unknown_model_format: "))
    assert name in ended.err
