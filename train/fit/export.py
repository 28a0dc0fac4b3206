"""Export one set of weights as a Keras file and an ONNX file, make sure they answer alike, and put them into the store."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras
import numpy as np

from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.card import ModelCard, digest
from loupe.models.engine import Engine, OnnxEngine, TensorflowEngine
from loupe.models.store import KERAS_FILE, ONNX_FILE, StoredModel, find_model, new_model
from loupe.old_errors.train import EnginesDisagree
from train.tensorflow import quiet

TOLERANCE = 1e-4  # largest difference between the engines' probabilities: float32 rounding stays a hundred times below
COMPARISON_BATCH = 512  # images


@dataclass(frozen=True)
class ExportedFiles:
    """A model's two files, and how far their answers differ at most."""

    folder: Path
    digests: dict[str, str]
    difference: float


def calibrated(model: keras.Model, temperature: float) -> keras.Model:
    """The model with probabilities instead of logits: divided by a temperature, then softmax.

    Both are layers of the model, so that every engine gives the same calibrated probabilities.
    """
    logits = keras.layers.Rescaling(1 / temperature, name="temperature")(model.outputs[0])
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(logits)
    return keras.Model(model.inputs[0], probabilities, name=model.name)


@contextmanager
def exported(model: keras.Model, images: UInt8Array) -> Iterator[ExportedFiles]:
    """The model's two files in a temporary folder, compared by their answers to `images`.

    Raises:
        EnginesDisagree: If these differ too much.
    """
    with tempfile.TemporaryDirectory(prefix="loupe-export-") as name:
        folder = Path(name)
        model(images[:1])  # Keras exports only what has been called
        model.save(folder / KERAS_FILE)
        with quiet():
            model.export(folder / ONNX_FILE, format="onnx", verbose=False)
        difference = compare(
            TensorflowEngine(folder / KERAS_FILE), OnnxEngine(folder / ONNX_FILE), images
        )
        yield ExportedFiles(
            folder, {file: digest(folder / file) for file in (KERAS_FILE, ONNX_FILE)}, difference
        )


def compare(reference: Engine, engine: Engine, images: UInt8Array) -> float:
    """The largest difference between two engines' probabilities.

    Raises:
        EnginesDisagree: If it is above `TOLERANCE`, or a label differs where the two best classes are further apart than that.
    """
    expected, received = _predict(reference, images), _predict(engine, images)
    difference = float(np.abs(expected - received).max(initial=0.0))
    best_two = np.sort(expected, axis=1)[:, -2:]
    clear = best_two[:, 1] - best_two[:, 0] > TOLERANCE
    labels = int((expected.argmax(axis=1) != received.argmax(axis=1))[clear].sum())
    if not difference <= TOLERANCE or labels:  # `not <=` refuses NaN too
        raise EnginesDisagree(difference, TOLERANCE, labels)
    return difference


def save(
    name: str, files: ExportedFiles, card: ModelCard, report: Callable[[Path, str], None]
) -> StoredModel:
    """Put a model's files, its card and its report into the store; the new version's full tag is in what comes back.

    Args:
        name: Of the model.
        files: What was exported.
        card: Of the model.
        report: Writes the report of a tag into a folder.
    """
    with new_model(name, card) as stored:
        for file in card.files:
            shutil.copy2(files.folder / file, stored.path_of(file))
        report(Path(stored.path), str(stored.tag))
    return find_model(str(stored.tag))


def _predict(engine: Engine, images: UInt8Array) -> Float32Array:
    batches = [
        images[start : start + COMPARISON_BATCH]
        for start in range(0, len(images), COMPARISON_BATCH)
    ]
    return np.concatenate([engine.predict(batch) for batch in batches])
