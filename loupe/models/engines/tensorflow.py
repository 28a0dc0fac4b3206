"""TensorFlow, the slow reference."""

from pathlib import Path

import numpy as np

from loupe.errors import ProgramFailed
from loupe.images.spec import Float32Array, ImageSpec, UInt8Array
from loupe.models.certainty import Familiarity
from loupe.models.engines.engine import Outputs


class TensorflowEngine:
    """`model.keras` on TensorFlow, which has probabilities only."""

    familiarity: Familiarity | None = None
    has_features = False

    def __init__(self, path: Path, spec: ImageSpec) -> None:
        try:
            import keras
        except ImportError as error:
            raise ProgramFailed(
                "The engine 'tensorflow' is not installed. Install it: pip install -e '.[train]'",
                code="engine_unavailable",
            ) from error
        self._spec = spec
        self._model = keras.models.load_model(path, compile=False)
        self.classes = self._model.output_shape[-1]

    def predict(self, images: UInt8Array) -> Float32Array:
        """See `Engine.predict`."""
        if not len(self._spec.check_batch(images)):  # TensorFlow cannot convolve an empty batch
            return np.empty((0, self.classes), np.float32)
        return np.asarray(self._model(images, training=False), dtype=np.float32)

    def run(self, images: UInt8Array) -> Outputs:
        """See `Engine.run`."""
        return Outputs.of(self.predict(images))

    def features(self, images: UInt8Array) -> Float32Array:
        """Raise `NotImplementedError`; see `Engine.has_features`."""
        raise NotImplementedError
