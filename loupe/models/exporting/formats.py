"""What each program wants to find in the folder of a model."""

import json
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

import onnxruntime as ort
import yaml
from pydantic import JsonValue

from loupe.errors import Conflict
from loupe.images.spec import ImageSpec
from loupe.models.card import ModelCard
from loupe.models.store import KERAS_FILE, ONNX_FILE, StoredModel
from loupe.text import one_line

Format = Literal["onnx", "keras", "mlflow", "triton", "huggingface"]

CLASSES_FILE = "classes.txt"
CARD_MARKDOWN = "MODEL_CARD.md"
MAX_BATCH = 256  # images that Triton puts together
PROVIDERS = ["CPUExecutionProvider"]


@dataclass(frozen=True)
class Tensors:
    """The names of a stored model's input and output.

    Attributes:
        images: The input.
        probabilities: The first output.
        others: Names and shapes of further outputs, float32, without the batch axis.
    """

    images: str
    probabilities: str
    others: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of(cls, model: StoredModel) -> "Tensors":
        """Read the names from a model's ONNX file."""
        session = ort.InferenceSession(model.folder / ONNX_FILE, providers=PROVIDERS)
        first, *others = session.get_outputs()
        shapes = tuple((each.name, tuple(each.shape[1:])) for each in others)
        return cls(session.get_inputs()[0].name, first.name, shapes)


def write_onnx(model: StoredModel, folder: Path) -> None:
    """Write the ONNX file, the card and the class names."""
    _copy(model, ONNX_FILE, folder / ONNX_FILE)
    model.card.save(folder)
    _write_classes(model.card, folder)


def write_keras(model: StoredModel, folder: Path) -> None:
    """Write the Keras file, the card and the class names.

    Raises:
        Conflict: If the model has no Keras file.
    """
    if KERAS_FILE not in model.card.files:
        raise Conflict(
            f"{model.tag} has no Keras file: it was imported from ONNX, and ONNX cannot be "
            "converted to Keras. Export it as onnx.",
            code="format_unavailable",
        )
    _copy(model, KERAS_FILE, folder / KERAS_FILE)
    model.card.save(folder)
    _write_classes(model.card, folder)


def write_mlflow(model: StoredModel, folder: Path) -> None:
    """Write a model of MLflow with the flavours `onnx` and `python_function`.

    Source: MLflow's documentation, "MLflow Models", section "Storage Format".
    """
    card, tensors = model.card, Tensors.of(model)
    _copy(model, ONNX_FILE, folder / ONNX_FILE)
    _write_classes(card, folder)
    packages = [f"{name}=={version(name)}" for name in ("onnxruntime", "numpy")]
    (folder / "requirements.txt").write_text("\n".join(["mlflow", "onnx", *packages, ""]))
    outputs = [(tensors.probabilities, (len(card.class_names),)), *tensors.others]
    environment = {"dependencies": ["-r requirements.txt"]}
    _write_yaml(folder / "python_env.yaml", environment)
    _write_yaml(
        folder / "MLmodel",
        {
            "flavors": {
                "onnx": {"data": ONNX_FILE, "providers": PROVIDERS},
                "python_function": {
                    "loader_module": "mlflow.onnx",
                    "data": ONNX_FILE,
                    "env": {"virtualenv": "python_env.yaml"},
                    "python_version": platform.python_version(),
                },
            },
            "signature": {
                "inputs": _tensors((tensors.images, "uint8", card.input.shape)),
                "outputs": _tensors(*((name, "float32", shape) for name, shape in outputs)),
            },
            "metadata": {"loupe": card.model_dump(mode="json")},
            "utc_time_created": f"{card.created:%Y-%m-%d %H:%M:%S.%f}",
            "model_uuid": model.version,
        },
    )


def write_triton(model: StoredModel, folder: Path) -> None:
    """Write a model of Triton's repository: `config.pbtxt`, class names, and version 1.

    Source: Triton Inference Server's documentation, "Model Configuration".
    """
    card, tensors = model.card, Tensors.of(model)
    (folder / "1").mkdir()
    _copy(model, ONNX_FILE, folder / "1" / ONNX_FILE)
    _write_classes(card, folder)
    sides = ", ".join(map(str, card.input.shape))
    text = f"""\
backend: "onnxruntime"
max_batch_size: {MAX_BATCH}
input [ {{ name: {json.dumps(tensors.images)} data_type: TYPE_UINT8 dims: [ {sides} ] }} ]
output [
  {{
    name: {json.dumps(tensors.probabilities)} data_type: TYPE_FP32 dims: [ {len(card.class_names)} ]
    label_filename: "{CLASSES_FILE}"
  }}
]
dynamic_batching {{ }}
"""
    (folder / "config.pbtxt").write_text(text, encoding="utf-8")


def write_huggingface(model: StoredModel, folder: Path) -> None:
    """Write a repository for the Hugging Face Hub: model card, configurations and files.

    Source: the Hub's documentation, "Model Cards" and "Model Card Metadata".
    """
    card = model.card
    for name in (ONNX_FILE, KERAS_FILE):
        if name in card.files:
            _copy(model, name, folder / name)
    _write_json(folder / "config.json", _configuration(card))
    _write_json(folder / "preprocessor_config.json", _preprocessing(card.input))
    front = yaml.safe_dump(_front_matter(model), sort_keys=False, allow_unicode=True)
    text = f"---\n{front}---\n\n{_usage(model)}"
    if written := model.file(CARD_MARKDOWN):
        text += "\n" + written.read_text(encoding="utf-8")
    (folder / "README.md").write_text(text, encoding="utf-8")


FORMATS: dict[Format, Callable[[StoredModel, Path], None]] = {
    "onnx": write_onnx,
    "keras": write_keras,
    "mlflow": write_mlflow,
    "triton": write_triton,
    "huggingface": write_huggingface,
}


def _configuration(card: ModelCard) -> dict[str, JsonValue]:
    """Return a network's description as Transformers names its parts."""
    return {
        "architectures": [str(card.config.get("architecture", "unknown"))],
        "image_size": [card.input.height, card.input.width],
        "num_channels": card.input.channels,
        "id2label": {str(index): name for index, name in enumerate(card.class_names)},
        "label2id": {name: index for index, name in enumerate(card.class_names)},
    }


def _preprocessing(spec: ImageSpec) -> dict[str, JsonValue]:
    """Return what Transformers does to pictures before a model: only their size and colours."""
    return {
        "do_resize": True,
        "size": {"height": spec.height, "width": spec.width},
        "do_convert_rgb": spec.channels == 3,
        "do_rescale": False,
        "do_normalize": False,
        "data_format": "channels_last",
    }


def _front_matter(model: StoredModel) -> dict[str, JsonValue]:
    """Return the metadata of a model card on the Hub."""
    card = model.card
    values: dict[str, JsonValue] = {
        "pipeline_tag": "image-classification",
        "library_name": "keras" if KERAS_FILE in card.files else "onnx",
        "tags": ["image-classification", "onnx", "loupe", card.input.look],
        "license": "other",
        "license_name": one_line(card.licence),
    }
    if card.figures is None:
        return values
    tested_on = str(card.config.get("tested_on") or card.dataset)
    data: JsonValue = {"name": tested_on, "type": tested_on, "split": "test"}
    metrics: JsonValue = [
        {"type": "accuracy", "value": card.figures.accuracy},
        {"type": "loss", "value": card.figures.loss},
        {"type": "expected_calibration_error", "value": card.figures.calibration_error},
    ]
    task: JsonValue = {"type": "image-classification"}
    result: JsonValue = {"task": task, "dataset": data, "metrics": metrics}
    return values | {"model-index": [{"name": model.name, "results": [result]}]}


def _usage(model: StoredModel) -> str:
    """Return how to run the model, as Markdown."""
    card, tensors = model.card, Tensors.of(model)
    mode = "RGB" if card.input.channels == 3 else "L"
    size = card.input.width, card.input.height
    ground = "" if card.input.look == "photo" else " Strokes and things are bright on black, 0."
    return f"""\
# {model.name}

The model takes `{tensors.images}`, uint8 of shape `(n, {", ".join(map(str, card.input.shape))})`,
and returns `{tensors.probabilities}`, float32 of shape `(n, {len(card.class_names)})`. Scaling is
part of it.{ground} The names of the classes are in `config.json`.

```python
import numpy as np, onnxruntime
from PIL import Image

picture = Image.open("picture.png").convert("{mode}").resize({size})
session = onnxruntime.InferenceSession("{ONNX_FILE}")
images = np.asarray(picture, np.uint8)[np.newaxis]
probabilities = session.run(None, {{"{tensors.images}": images}})[0]
```
"""


def _tensors(*described: tuple[str, str, tuple[int, ...]]) -> str:
    """Return names, dtypes and shapes of a signature's tensors as MLflow writes them."""
    return json.dumps(
        [
            {"name": name, "type": "tensor", "tensor-spec": {"dtype": dtype, "shape": [-1, *shape]}}
            for name, dtype, shape in described
        ]
    )


def _copy(model: StoredModel, name: str, target: Path) -> None:
    shutil.copyfile(model.folder / name, target)


def _write_classes(card: ModelCard, folder: Path) -> None:
    (folder / CLASSES_FILE).write_text("".join(f"{name}\n" for name in card.class_names), "utf-8")


def _write_json(path: Path, value: JsonValue) -> None:
    text = json.dumps(value, indent=2, ensure_ascii=False)
    path.write_text(f"{text}\n", encoding="utf-8")


def _write_yaml(path: Path, value: Mapping[str, object]) -> None:
    path.write_text(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), encoding="utf-8")
