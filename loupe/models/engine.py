"""Engines run stored models.

ONNX Runtime serves and scores. TensorFlow is the reference, imported only when it is chosen.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import numpy as np
import onnxruntime as ort

from loupe.errors import ProgramFailed
from loupe.images.spec import Float32Array, ImageSpec, UInt8Array
from loupe.models.certainty import DISTANCE, Familiarity
from loupe.models.store import KERAS_FILE, ONNX_FILE, StoredModel, verify
from loupe.runtime.cores import available_cores

EngineName = Literal["onnx", "tensorflow"]
WARM_UP_SIZES = (1, 2, 8, 32)  # images; the first run of each size allocates its memory
MAX_RUN_BYTES = 2**19  # of the images of one run; its layers take many times as much


def run_size(spec: ImageSpec, most: int) -> int:
    """Return how many images one run takes: at most `most`, fewer of large images."""
    return max(1, min(most, MAX_RUN_BYTES // spec.nbytes))


class Outputs(NamedTuple):
    """The outputs of an engine for a batch.

    Attributes:
        probabilities: float32, shape `(n, classes)`; rows sum to 1, columns follow the class names.
        familiarity: float32, shape `(n,)`, 0..1; NaN if it is not known.
    """

    probabilities: Float32Array
    familiarity: Float32Array

    @property
    def known(self) -> bool:
        """True if the familiarity is known, or there is no image."""
        return not len(self.familiarity) or not np.isnan(self.familiarity).all()

    @classmethod
    def of(cls, probabilities: Float32Array) -> "Outputs":
        """Return the outputs of an engine that knows no familiarity."""
        return cls(probabilities, np.full(len(probabilities), np.nan, np.float32))

    @classmethod
    def joined(cls, parts: Sequence["Outputs"]) -> "Outputs":
        """Return the outputs of one or more batches as those of one."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))

    def part(self, start: int, stop: int) -> "Outputs":
        """Return the outputs of some images."""
        return Outputs(self.probabilities[start:stop], self.familiarity[start:stop])


class Classifier(Protocol):
    """An engine, or a model in its own framework."""

    def predict(self, images: UInt8Array) -> Float32Array:
        """Return class probabilities for a batch of images.

        Args:
            images: uint8, shape `(n, *card.input.shape)`. `n` may be 0.

        Returns:
            float32, shape `(n, classes)`; rows sum to 1, columns follow `card.class_names`.

        Raises:
            InvalidPixels: If dtype or shape differ.
        """


class Engine(Classifier, Protocol):
    """A stored model ready to run.

    Attributes:
        classes: Number of columns of the probabilities.
        familiarity: The card's, if this engine computes it.
        has_features: Whether it can compute `features`.
    """

    classes: int

    familiarity: Familiarity | None

    has_features: bool

    def run(self, images: UInt8Array) -> Outputs:
        """Return probabilities, as `predict`, and familiarity."""

    def features(self, images: UInt8Array) -> Float32Array:
        """Return what the last layer takes for at least one image, float32 `(n, d)`."""


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
