"""Export of a model to a Keras file and an ONNX file, which must agree."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import keras

from loupe.images.spec import ImageSpec, UInt8Array
from loupe.models.card import digest
from loupe.models.certainty import Familiarity
from loupe.models.engines.onnx import OnnxEngine
from loupe.models.engines.tensorflow import TensorflowEngine
from loupe.models.store import KERAS_FILE, ONNX_FILE
from train.evaluate.gate import compare
from train.familiarity.fitting import add_familiarity
from train.tensorflow import quiet


@dataclass(frozen=True)
class ExportedFiles:
    """A model's two files, and what the card says about them.

    Attributes:
        folder: Where they are.
        digests: SHA-256 by name.
        difference: Largest difference between their probabilities.
        familiarity: `None` if the model does not know it.
    """

    folder: Path
    digests: dict[str, str]
    difference: float
    familiarity: Familiarity | None


def add_softmax(model: keras.Model, temperature: float) -> keras.Model:
    """Add layers that divide the logits by a temperature and apply softmax.

    As layers, they give the same calibrated probabilities in every engine.
    """
    logits = keras.layers.Rescaling(1 / temperature, name="temperature")(model.outputs[0])
    probabilities = keras.layers.Softmax(dtype="float32", name="probabilities")(logits)
    return keras.Model(model.inputs[0], probabilities, name=model.name)


def write_files(model: keras.Model, folder: Path, images: UInt8Array) -> None:
    """Write a model's two files; `images` are a few that it takes."""
    model(images)  # Keras exports only models that have been called
    model.save(folder / KERAS_FILE)
    with quiet():
        model.export(folder / ONNX_FILE, format="onnx", verbose=False)


@contextmanager
def exported(
    model: keras.Model,
    spec: ImageSpec,
    images: UInt8Array,
    known: tuple[UInt8Array, UInt8Array] | None = None,
) -> Iterator[ExportedFiles]:
    """Export a model to a temporary folder, and `compare` both files on `images`.

    `known` are images that it learnt, and validation images, to tell how familiar others are.
    """
    with tempfile.TemporaryDirectory(prefix="loupe-export-") as name:
        folder = Path(name)
        write_files(model, folder, images[:1])
        familiarity = add_familiarity(folder / ONNX_FILE, *known) if known else None
        reference = TensorflowEngine(folder / KERAS_FILE, spec)
        difference = compare(reference, OnnxEngine(folder / ONNX_FILE, spec), images)
        digests = {file: digest(folder / file) for file in (KERAS_FILE, ONNX_FILE)}
        yield ExportedFiles(folder, digests, difference, familiarity)
