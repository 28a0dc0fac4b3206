"""Export of a model to a Keras file and an ONNX file, which must agree."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from loupe.errors import ProgramFailed
from loupe.images.spec import Float32Array, ImageSpec, UInt8Array
from loupe.models.card import digest
from loupe.models.engine import Engine, OnnxEngine, TensorflowEngine
from loupe.models.store import KERAS_FILE, ONNX_FILE
from train.tensorflow import quiet

TOLERANCE = 1e-4  # maximum difference of probabilities; float32 rounding is a hundred times less
COMPARISON_BATCH = 512  # images


@dataclass(frozen=True)
class ExportedFiles:
    """A model's two files, and the largest difference between their probabilities."""

    folder: Path
    digests: dict[str, str]
    difference: float


def add_softmax(model: keras.Model, temperature: float) -> keras.Model:
    """Add layers that divide the logits by a temperature and apply softmax.

    As layers, they give the same calibrated probabilities in every engine.
    """
    logits = keras.layers.Rescaling(1 / temperature, name="temperature")(model.outputs[0])
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(logits)
    return keras.Model(model.inputs[0], probabilities, name=model.name)


@contextmanager
def exported(model: keras.Model, spec: ImageSpec, images: UInt8Array) -> Iterator[ExportedFiles]:
    """Export a model to a temporary folder, and `compare` both files on `images`."""
    with tempfile.TemporaryDirectory(prefix="loupe-export-") as name:
        folder = Path(name)
        model(images[:1])  # Keras exports only models that have been called
        model.save(folder / KERAS_FILE)
        with quiet():
            model.export(folder / ONNX_FILE, format="onnx", verbose=False)
        reference = TensorflowEngine(folder / KERAS_FILE, spec)
        difference = compare(reference, OnnxEngine(folder / ONNX_FILE, spec), images)
        digests = {file: digest(folder / file) for file in (KERAS_FILE, ONNX_FILE)}
        yield ExportedFiles(folder, digests, difference)


def compare(reference: Engine, engine: Engine, images: UInt8Array) -> float:
    """Return the largest difference between two engines' probabilities.

    Raises:
        ProgramFailed: If it exceeds `TOLERANCE`, or a label differs although the reference's two
            best classes are further apart than that.
    """
    expected, received = _predict(reference, images), _predict(engine, images)
    difference = float(np.abs(expected - received).max(initial=0.0))
    best_two = np.sort(expected, axis=1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > TOLERANCE
    labels = int((expected.argmax(axis=1) != received.argmax(axis=1))[clear].sum())
    if not difference <= TOLERANCE or labels:  # `not <=` refuses NaN too
        raise ProgramFailed(
            f"ONNX Runtime and Keras disagree on the test images: probabilities differ by "
            f"{difference:.2g} (at most {TOLERANCE:g} is allowed), and {labels} labels differ. "
            "The model was not saved.",
            code="engines_disagree",
        )
    return difference


def _predict(engine: Engine, images: UInt8Array) -> Float32Array:
    starts = range(0, len(images), COMPARISON_BATCH)
    batches = [images[start : start + COMPARISON_BATCH] for start in starts]
    return np.concatenate([engine.predict(batch) for batch in batches])
