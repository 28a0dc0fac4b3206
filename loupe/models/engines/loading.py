"""Load a stored model into the engine that was chosen."""

from typing import Literal

from loupe.errors import ProgramFailed
from loupe.models.engines.engine import Engine, run_size
from loupe.models.engines.onnx import OnnxEngine
from loupe.models.engines.tensorflow import TensorflowEngine
from loupe.models.store import KERAS_FILE, ONNX_FILE, StoredModel, verify

EngineName = Literal["onnx", "tensorflow"]
WARM_UP_SIZES = (1, 2, 8, 32)  # images; the first run of each size allocates its memory


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
        ProgramFailed: If the engine is not installed.
    """
    verify(model)
    if name == "tensorflow" and KERAS_FILE not in model.card.files:
        raise ProgramFailed(
            f"{model.tag} was imported from ONNX, so TensorFlow cannot run it. Use the engine "
            "'onnx'.",
            code="engine_unavailable",
        )
    spec = model.card.input
    engine: Engine = (
        OnnxEngine(model.folder / ONNX_FILE, spec, threads, model.card.familiarity)
        if name == "onnx"
        else TensorflowEngine(model.folder / KERAS_FILE, spec)
    )
    for size in WARM_UP_SIZES:
        engine.run(spec.zeros(run_size(spec, size)))
    return engine
