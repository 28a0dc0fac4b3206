"""Load a stored model into the engine that was chosen."""

import numpy as np

from loupe.errors import ProgramFailed
from loupe.images.spec import UInt8Array
from loupe.models.engines.engine import Engine, Outputs, run_size
from loupe.models.engines.onnx import OnnxEngine
from loupe.models.engines.openvino import OpenvinoEngine
from loupe.models.engines.tensorflow import TensorflowEngine
from loupe.models.explaining.nearest import References
from loupe.models.significance import margin
from loupe.models.store import KERAS_FILE, ONNX_FILE, StoredModel, verify
from loupe.settings import EngineName

WARM_UP_SIZES = (1, 2, 8, 32)  # images; the first run of each size allocates its memory
CHECKED_IMAGES = 32  # of one run
MAX_OTHERS = 0.002  # share of the pictures that two engines answer differently
MAX_DIFFERENCE = 0.1  # of the familiarity


def load_engine(
    model: StoredModel, name: EngineName = "onnx", threads: int | None = None
) -> Engine:
    """Load a stored model, verify it against its card, and warm it up.

    Args:
        model: The model to run.
        name: The engine.
        threads: Cores to use; by default all that the process may use.

    Raises:
        ModelCorrupted: If a file differs from the one that was saved.
        ProgramFailed: If the engine is not installed, or not exact enough.
    """
    verify(model)
    engine = _load(model, name, threads)
    for size in WARM_UP_SIZES:
        engine.run(model.card.input.zeros(run_size(model.card.input, size)))
    return engine


def _load(model: StoredModel, name: EngineName, threads: int | None) -> Engine:
    spec, familiarity = model.card.input, model.card.familiarity
    if name == "tensorflow":
        if KERAS_FILE not in model.card.files:
            raise _unavailable(f"{model.tag} was imported from ONNX, so TensorFlow cannot run it.")
        return TensorflowEngine(model.folder / KERAS_FILE, spec)
    exact = OnnxEngine(model.folder / ONNX_FILE, spec, threads, familiarity)
    if name == "onnx":
        return exact
    quick = OpenvinoEngine(model.folder / ONNX_FILE, spec, threads, familiarity)
    check_exactness(model, quick, exact)
    return quick


def check_exactness(model: StoredModel, quick: Engine, exact: Engine) -> None:
    """Compare the answers of two engines to pictures that the model learnt.

    Raises:
        ProgramFailed: If more than one in 500 has another class or familiarity, if the accuracy is
            lower by more than two standard errors, or if the model has no such pictures.
    """
    known = References.load(model)
    if known is None:
        raise _unavailable(f"{model.tag} has no pictures to check the engine with.")
    found, expected = (_answers(engine, known.images) for engine in (quick, exact))
    classes, right_classes = (each.probabilities.argmax(axis=1) for each in (found, expected))
    others = classes != right_classes
    if expected.known:
        others |= np.abs(found.familiarity - expected.familiarity) > MAX_DIFFERENCE
    accuracy, expected_accuracy = (
        float((each == known.labels).mean()) for each in (classes, right_classes)
    )
    lost = expected_accuracy - accuracy
    if others.mean() > MAX_OTHERS or lost > margin(expected_accuracy, len(others)):
        raise _unavailable(
            f"OpenVINO answers {others.mean():.2%} of {len(others):,} pictures of {model.tag} "
            f"differently from ONNX Runtime, and {max(lost, 0):.2%} fewer are right."
        )


def _answers(engine: Engine, images: UInt8Array) -> Outputs:
    starts = range(0, len(images), CHECKED_IMAGES)
    return Outputs.joined([engine.run(images[start : start + CHECKED_IMAGES]) for start in starts])


def _unavailable(problem: str) -> ProgramFailed:
    return ProgramFailed(f"{problem} Use the engine 'onnx'.", code="engine_unavailable")
