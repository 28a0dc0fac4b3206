"""ONNX Runtime, which serves and scores unless another engine is chosen."""

from pathlib import Path

import numpy as np
import onnxruntime as ort

from loupe.images.spec import Float32Array, ImageSpec, UInt8Array
from loupe.models.certainty import DISTANCE, Familiarity
from loupe.models.engines.engine import Outputs
from loupe.runtime.cores import available_cores


class OnnxEngine:
    """`model.onnx` on ONNX Runtime."""

    def __init__(
        self,
        path: Path,
        spec: ImageSpec,
        threads: int | None = None,
        familiarity: Familiarity | None = None,
    ) -> None:
        self.familiarity = familiarity
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or available_cores()
        options.inter_op_num_threads = 1
        # Spinning threads would take the core that the event loop or the image decoder needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._spec = spec
        output, *others = self._session.get_outputs()
        self._outputs, self.classes = [output.name], output.shape[-1]
        self._features = [each.name for each in others[1:]]
        self.has_features = bool(self._features)

    def predict(self, images: UInt8Array) -> Float32Array:
        """See `Engine.predict`."""
        if not len(self._spec.check_batch(images)):  # some operators cannot take an empty batch
            return np.empty((0, self.classes), np.float32)
        probabilities: Float32Array = self._session.run(self._outputs, {self._input: images})[0]
        return probabilities

    def run(self, images: UInt8Array) -> Outputs:
        """See `Engine.run`."""
        known = self.familiarity
        if known is None or not len(self._spec.check_batch(images)):
            return Outputs.of(self.predict(images))
        probabilities, distances = self._session.run(
            [*self._outputs, DISTANCE], {self._input: images}
        )
        return Outputs(probabilities, known.of(distances))

    def features(self, images: UInt8Array) -> Float32Array:
        """See `Engine.features`."""
        found: Float32Array = self._session.run(self._features, {self._input: images})[0]
        return found
