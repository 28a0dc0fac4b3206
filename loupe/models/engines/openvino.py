"""OpenVINO in bfloat16, on processors that have it: for bulk scoring."""

import threading
from pathlib import Path
from typing import Any

import numpy as np

from loupe.errors import ProgramFailed
from loupe.images.spec import Float32Array, ImageSpec, UInt8Array
from loupe.models.certainty import Familiarity
from loupe.models.engines.engine import Outputs
from loupe.runtime.cores import available_cores

PROBABILITIES, DISTANCE, FEATURES = range(3)  # outputs of the file; the last two may be missing


class OpenvinoEngine:
    """`model.onnx` on OpenVINO. Its answers differ a little from those of ONNX Runtime.

    Args:
        path: The model's file.
        spec: Its images.
        threads: Cores of one run; by default all that the process may use.
        familiarity: The card's.

    Raises:
        ProgramFailed: If OpenVINO is not installed, or the processor lacks bfloat16.
    """

    def __init__(
        self,
        path: Path,
        spec: ImageSpec,
        threads: int | None = None,
        familiarity: Familiarity | None = None,
    ) -> None:
        core = _core()
        model = core.read_model(path)
        self.familiarity = familiarity
        self.classes = model.output(PROBABILITIES).get_partial_shape()[-1].get_length()
        self.has_features = len(model.outputs) > FEATURES
        cores = available_cores()
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16",
            "INFERENCE_NUM_THREADS": cores,
            "NUM_STREAMS": max(1, cores // (threads or cores)),  # runs at the same time
            "ENABLE_CPU_PINNING": False,  # other threads and processes have the same cores
        }
        self._spec = spec
        self._compiled = core.compile_model(model, "CPU", settings)
        self._of_thread = threading.local()  # a request does one run at a time

    def predict(self, images: UInt8Array) -> Float32Array:
        """See `Engine.predict`."""
        return self.run(images).probabilities

    def run(self, images: UInt8Array) -> Outputs:
        """See `Engine.run`."""
        if not len(self._spec.check_batch(images)):
            return Outputs.of(np.empty((0, self.classes), np.float32))
        outputs = self._infer(images)
        if self.familiarity is None:
            return Outputs.of(outputs[PROBABILITIES])
        return Outputs(outputs[PROBABILITIES], self.familiarity.of(outputs[DISTANCE]))

    def features(self, images: UInt8Array) -> Float32Array:
        """See `Engine.features`."""
        return self._infer(images)[FEATURES]

    def _infer(self, images: UInt8Array) -> list[Float32Array]:
        if not hasattr(self._of_thread, "request"):
            self._of_thread.request = self._compiled.create_infer_request()
        return list(self._of_thread.request.infer({0: images}).values())


def _core() -> Any:
    """Return what compiles models, or raise `ProgramFailed` if it cannot in bfloat16."""
    try:
        import openvino
    except ImportError as error:
        raise ProgramFailed(
            "The engine 'openvino' is not installed. Install it: pip install -e '.[openvino]'",
            code="engine_unavailable",
        ) from error
    core = openvino.Core()
    if "BF16" not in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        raise ProgramFailed(
            "The engine 'openvino' needs a processor with bfloat16, and is slower without. Use the "
            "engine 'onnx'.",
            code="engine_unavailable",
        )
    return core
