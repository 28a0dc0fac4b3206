"""Exported models load in the programs they are for, and answer as in the store."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import keras
import numpy as np
import onnxruntime as ort
import pytest
import yaml
from google.protobuf import text_format
from tritonclient.grpc.model_config_pb2 import TYPE_FP32, TYPE_UINT8, ModelConfig

from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.card import ModelCard
from loupe.models.engines.loading import load_engine
from loupe.models.exporting.formats import CLASSES_FILE, FORMATS
from loupe.models.store import StoredModel, find_model
from tests.support import pictures
from tests.support.command import Ended, Loupe
from tests.support.onnx_models import convolution
from tests.support.stores import copied, damage

Export = Callable[..., Ended]
IMAGES = pictures.digits(20)


@pytest.fixture
def export(loupe: Loupe) -> Export:
    """Return a function that runs `loupe models export …`."""
    return partial(loupe, "models", "export")


def run_onnx(path: Path, images: UInt8Array) -> Float32Array:
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    answers: Float32Array = session.run(None, {session.get_inputs()[0].name: images})[0]
    return answers


def check(answers: object, model: StoredModel, images: UInt8Array = IMAGES) -> None:
    expected = load_engine(model).predict(images)
    np.testing.assert_allclose(np.asarray(answers), expected, atol=1e-4)


def test_onnx(digits_model: StoredModel, tmp_path: Path, export: Export) -> None:
    ended = export(digits_model.tag, tmp_path / "out")

    assert ended.code == 0
    assert "model.onnx" in ended.out
    check(run_onnx(tmp_path / "out/model.onnx", IMAGES), digits_model)
    assert ModelCard.load(tmp_path / "out") == digits_model.card
    assert (tmp_path / "out" / CLASSES_FILE).read_text() == "".join(f"{n}\n" for n in range(10))


def test_keras(digits_model: StoredModel, tmp_path: Path, export: Export) -> None:
    assert export(digits_model.tag, tmp_path / "out", "--format", "keras").code == 0

    model = keras.models.load_model(tmp_path / "out/model.keras", compile=False)
    check(model(IMAGES, training=False), digits_model)


def test_mlflow(digits_model: StoredModel, tmp_path: Path, export: Export) -> None:
    assert export(digits_model.tag, tmp_path / "out", "--format", "mlflow").code == 0

    about = yaml.safe_load((tmp_path / "out/MLmodel").read_text())
    flavour = about["flavors"]["python_function"]
    assert flavour["loader_module"] == "mlflow.onnx"
    check(run_onnx(tmp_path / "out" / flavour["data"], IMAGES), digits_model)
    (inputs,) = json.loads(about["signature"]["inputs"])
    assert inputs["tensor-spec"] == {"dtype": "uint8", "shape": [-1, 28, 28]}
    assert ModelCard.model_validate(about["metadata"]["loupe"]) == digits_model.card


def test_mlflow_loads_and_runs_it(
    digits_model: StoredModel, tmp_path: Path, export: Export
) -> None:
    mlflow = pytest.importorskip("mlflow", reason="needs mlflow-skinny")
    export(digits_model.tag, tmp_path / "out", "--format", "mlflow")

    answers = mlflow.pyfunc.load_model(str(tmp_path / "out")).predict(IMAGES)
    (probabilities,) = answers.values()
    check(probabilities, digits_model)


def test_triton(digits_model: StoredModel, tmp_path: Path, export: Export) -> None:
    assert export(digits_model.tag, tmp_path / "out", "--format", "triton").code == 0

    config = text_format.Parse((tmp_path / "out/config.pbtxt").read_text(), ModelConfig())
    session = ort.InferenceSession(tmp_path / "out/1/model.onnx")
    (images,), (probabilities,) = config.input, config.output
    assert (images.data_type, list(images.dims)) == (TYPE_UINT8, [28, 28])
    assert (probabilities.data_type, list(probabilities.dims)) == (TYPE_FP32, [10])
    assert (images.name, probabilities.name) == (
        session.get_inputs()[0].name,
        session.get_outputs()[0].name,
    )
    assert (tmp_path / "out" / probabilities.label_filename).read_text().split() == [
        str(number) for number in range(10)
    ]
    assert config.max_batch_size > 0
    check(run_onnx(tmp_path / "out/1/model.onnx", IMAGES), digits_model)


def test_huggingface(digits_model: StoredModel, tmp_path: Path, export: Export) -> None:
    assert export(digits_model.tag, tmp_path / "out", "--format", "huggingface").code == 0

    _, front, text = (tmp_path / "out/README.md").read_text().split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata["pipeline_tag"] == "image-classification"
    (result,) = metadata["model-index"][0]["results"]
    figures = {each["type"]: each["value"] for each in result["metrics"]}
    assert figures["accuracy"] == digits_model.card.measured.accuracy
    assert "## Limits" in text  # of the model card that training wrote
    config = json.loads((tmp_path / "out/config.json").read_text())
    assert config["id2label"]["7"] == "7"
    assert (config["image_size"], config["num_channels"]) == ([28, 28], 1)
    preprocessing = json.loads((tmp_path / "out/preprocessor_config.json").read_text())
    assert preprocessing["size"] == {"height": 28, "width": 28}
    check(run_onnx(tmp_path / "out/model.onnx", IMAGES), digits_model)
    check(
        keras.models.load_model(tmp_path / "out/model.keras", compile=False)(IMAGES), digits_model
    )


def test_the_program_in_the_card_of_huggingface_runs(
    digits_model: StoredModel, tmp_path: Path, export: Export, monkeypatch: pytest.MonkeyPatch
) -> None:
    export(digits_model.tag, tmp_path / "out", "--format", "huggingface")
    monkeypatch.chdir(tmp_path / "out")
    Path("picture.png").write_bytes(pictures.png(IMAGES[0]))
    text = Path("README.md").read_text()
    program = text.partition("```python\n")[2].partition("```")[0]
    names: dict[str, object] = {}
    exec(program, names)  # noqa: S102

    check(names["probabilities"], digits_model, IMAGES[:1])


@pytest.mark.parametrize("format_", [each for each in FORMATS if each != "keras"])
def test_models_in_colour_and_from_onnx(
    format_: str, store: Path, tmp_path: Path, loupe: Loupe, export: Export
) -> None:
    path = convolution(tmp_path / "m.onnx", shape=(1, 3, 32, 24), flat=(1, -1))
    loupe("models", "import", path, "--classes", "a,b,c", "--input", "0..1")
    assert export("m", tmp_path / "out", "--format", format_).code == 0

    images = np.random.default_rng(0).integers(0, 256, (5, 32, 24, 3)).astype(np.uint8)
    (file,) = (tmp_path / "out").rglob("model.onnx")
    check(run_onnx(file, images), find_model("m"), images)


def test_onnx_does_not_become_keras(
    store: Path, tmp_path: Path, loupe: Loupe, export: Export
) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 3, 16, 16))
    loupe("models", "import", path, "--classes", "a,b,c", "--input", "0..1")
    ended = export("m", tmp_path / "out", "--format", "keras")

    assert ended.err.startswith("error: format_unavailable: ")
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", ["full folder", "file"])
def test_nothing_is_overwritten(
    kind: str, digits_model: StoredModel, tmp_path: Path, export: Export
) -> None:
    target = tmp_path / "out"
    kept = target / "mine" if kind == "full folder" else target
    kept.parent.mkdir(exist_ok=True)
    kept.write_text("mine")
    ended = export(digits_model.tag, target)

    assert ended.err.startswith("error: folder_not_empty: ")
    assert ended.code == 2
    assert kept.read_text() == "mine"


def test_an_empty_folder_is_filled(
    digits_model: StoredModel, tmp_path: Path, export: Export
) -> None:
    (tmp_path / "out").mkdir()

    assert export(digits_model.tag, tmp_path / "out").code == 0
    assert (tmp_path / "out/model.onnx").is_file()


def test_a_damaged_model_is_not_exported(
    digits_model: StoredModel, store: Path, tmp_path: Path, export: Export
) -> None:
    model = copied(digits_model, store)
    damage(model.folder / "model.onnx")

    assert export(model.tag, tmp_path / "out").err.startswith("error: model_corrupted: ")
    assert not (tmp_path / "out").exists()


def test_a_folder_below_a_file_cannot_be_written(
    digits_model: StoredModel, tmp_path: Path, export: Export
) -> None:
    (tmp_path / "file").write_text("")
    ended = export(digits_model.tag, tmp_path / "file" / "out")

    assert ended.err.startswith("error: file_not_writable: ")
