"""A given model in Keras, run by TensorFlow."""

from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import onnx
import tensorflow as tf
from keras import layers
from numpy.typing import NDArray

from loupe.errors import InvalidModel
from loupe.models.engines.onnx import OnnxEngine
from loupe.models.store import KERAS_FILE, ONNX_FILE
from loupe.text import one_line
from train.fit.export import add_softmax, write_files
from train.importing.formats.given import GivenModel, OutputHint, Signature
from train.importing.formats.keras_files import checked_keras
from train.importing.formats.onnx_graph import replace_erfc
from train.importing.formats.onnx_model import MIN_DIVISOR
from train.importing.wiring import TINY, Inputs, Outputs, Wiring
from train.tensorflow import quiet

PASSED_ON = (
    *(layers.InputLayer, layers.Reshape, layers.Permute, layers.ZeroPadding2D, layers.Identity),
)
AUGMENTATION = ("Random", "Rand", "MixUp", "CutMix", "AugMix")  # how names of its layers begin


class KerasModel(GivenModel):
    """A model of a Keras file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with checked_keras(path) as safe:
            self._model = self._load(safe)
        self.format = f"Keras {keras.__version__}"
        self.batch_size = self._model.inputs[0].shape[0]
        self.parameters = int(self._model.count_params())
        self.made_with = {"keras": keras.__version__, "tensorflow": tf.__version__}
        first = next(self._layers(), None)
        if isinstance(first, layers.Embedding):
            raise InvalidModel(
                f"'{path}' begins with an Embedding: it reads numbers of words, not images.",
                code="not_an_image_model",
            )

    def _load(self, path: Path) -> keras.Model:
        try:
            with quiet(on_failure=True):
                model = keras.models.load_model(path, compile=False, safe_mode=True)
            if not model.inputs:
                raise ValueError("its input is not known; it has never been built")
            return _for_inference(model)
        except Exception as error:  # Keras raises every kind for files of other versions
            line = one_line(" ".join(str(error).split())[:300])
            raise InvalidModel(
                f"Keras cannot load '{self._path}': {line}", code="model_unsupported"
            ) from error

    @property
    def signature(self) -> Signature:
        """See `GivenModel.signature`."""
        inputs, outputs = self._model.inputs, self._model.outputs
        names = [each.name for each in inputs], [each.name for each in outputs]
        return Signature(*names, str(inputs[0].dtype), tuple(inputs[0].shape))

    @property
    def takes_bytes(self) -> bool:
        """See `GivenModel.takes_bytes`: look for a `Rescaling` near the input."""
        first = next((each for each in self._layers() if not isinstance(each, PASSED_ON)), None)
        return isinstance(first, layers.Rescaling) and bool(
            (np.asarray(first.scale) < 1 / MIN_DIVISOR).all()
        )

    @property
    def output_hint(self) -> OutputHint | None:
        """See `GivenModel.output_hint`: look at the last activation."""
        *_, last = self._layers()
        if isinstance(last, layers.Softmax):
            return "probabilities"
        activation = getattr(getattr(last, "activation", None), "__name__", "")
        hints: dict[str, OutputHint] = {
            "softmax": "probabilities",
            "log_softmax": "logits",
            "sigmoid": "sigmoid",
        }
        return hints.get(activation)

    def run_batch(self, inputs: Inputs) -> Outputs:
        """See `GivenModel.run_batch`."""
        try:
            return np.asarray(self._model(inputs, training=False), np.float32)
        except Exception as error:  # TensorFlow's errors have no common base but this one
            line = one_line(" ".join(str(error).split())[:300])
            raise InvalidModel(
                f"Keras cannot run '{self._path}': {line}", code="model_unsupported"
            ) from error

    def settle(self, inputs: Inputs) -> None:
        """See `GivenModel.settle`: a fixed batch size is no part of a network's layers."""
        if self.batch_size is None:
            return
        alone = self.run(inputs)
        given = self._model.inputs[0]
        free = layers.Input(given.shape[1:], dtype=given.dtype)
        try:
            copy = keras.models.clone_model(self._model, input_tensors=free)
            copy.set_weights(self._model.get_weights())
            together = np.asarray(copy(inputs, training=False), np.float32)
        except Exception as error:
            raise self._fixed(self.batch_size) from error
        if together.shape != alone.shape or not np.allclose(together, alone, atol=1e-4, rtol=1e-4):
            raise self._fixed(self.batch_size)
        self._model, self.batch_size = copy, None

    def _fixed(self, size: int) -> InvalidModel:
        return InvalidModel(
            f"'{self._path}' takes batches of {size} only. Save it with batch_size=None.",
            code="fixed_batch",
        )

    def save(self, folder: Path, wiring: Wiring, units: int, temperature: float) -> tuple[str, ...]:
        """See `GivenModel.save`."""
        wrapped = _wrap(self._model, wiring, units, temperature)
        try:
            with quiet(on_failure=True):
                write_files(wrapped, folder, wiring.spec.zeros(1))
                proto = onnx.load_model(folder / ONNX_FILE)
                replace_erfc(proto)
                onnx.save_model(proto, folder / ONNX_FILE)
                OnnxEngine(folder / ONNX_FILE, wiring.spec).predict(wiring.spec.zeros(1))
        except Exception as error:  # tf2onnx and ONNX Runtime raise every kind
            line = one_line(" ".join(str(error).split())[:300])
            raise InvalidModel(
                f"'{self._path}' has operations that cannot be converted to ONNX: {line}",
                code="model_unsupported",
            ) from error
        return KERAS_FILE, ONNX_FILE

    def _layers(self) -> Iterator[layers.Layer]:
        """Yield the layers in order, those of nested models in their place."""
        yield from _flattened(self._model)


def _flattened(model: keras.Model) -> Iterator[layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _flattened(layer)
        else:
            yield layer


def _for_inference(model: keras.Model) -> keras.Model:
    """Return the model without layers that ONNX does not need, or cannot have.

    Augmentation changes only training images. `Normalization` keeps its numbers where tf2onnx does
    not look for them, so it becomes a `Rescaling`. It cannot convert convolutions in groups: those
    with a group per channel have a separate layer, and others become plain convolutions.
    """
    if all(_replacement(each) is None for each in _flattened(model)):
        return model

    def clone(layer: layers.Layer) -> layers.Layer:
        return _replacement(layer) or type(layer).from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    for old, new in zip(_flattened(model), _flattened(copy), strict=True):
        if isinstance(new, layers.DepthwiseConv2D) and type(old) is layers.Conv2D:
            kernel, *bias = old.get_weights()  # (height, width, 1, channels)
            new.set_weights([kernel.transpose(0, 1, 3, 2), *bias])
        elif _has_groups(old):
            kernel, *bias = old.get_weights()
            new.set_weights([_without_groups(kernel, old.groups), *bias])
        elif type(new) is type(old):
            new.set_weights(old.get_weights())
    return copy


def _has_groups(layer: layers.Layer) -> bool:
    return type(layer) is layers.Conv2D and layer.groups > 1


def _without_groups(kernel: NDArray[np.generic], groups: int) -> NDArray[np.generic]:
    """Return the kernel of a plain convolution: 0 between channels of different groups.

    Args:
        kernel: `(height, width, channels / groups, filters)`.
        groups: Of the convolution.
    """
    height, width, channels, filters = kernel.shape
    plain = np.zeros((height, width, groups, channels, groups, filters // groups), kernel.dtype)
    grouped = kernel.reshape(height, width, channels, groups, filters // groups)
    for group in range(groups):
        plain[:, :, group, :, group] = grouped[:, :, :, group]
    return plain.reshape(height, width, groups * channels, filters)


def _replacement(layer: layers.Layer) -> layers.Layer | None:
    if type(layer).__name__.startswith(AUGMENTATION):
        return layers.Identity(name=layer.name)
    if _has_groups(layer):
        config = layer.get_config()
        if layer.filters != layer.groups or layer.kernel.shape[2] > 1:
            return layers.Conv2D.from_config(config | {"groups": 1})
        common = ("name", "kernel_size", "strides", "padding", "data_format", "dilation_rate")
        rest = ("activation", "use_bias")
        return layers.DepthwiseConv2D(**{name: config[name] for name in (*common, *rest)})
    if not isinstance(layer, layers.Normalization) or layer.invert:
        return None
    mean, variance = (np.asarray(each) for each in (layer.mean, layer.variance))
    if max(mean.shape, default=1) != mean.size:  # not along one axis
        return None
    std = np.maximum(np.sqrt(variance), keras.config.epsilon()).ravel()
    channels = mean.shape[-1:] == (mean.size,)
    if not channels and mean.size > 1:
        return None
    scale, offset = 1 / std, -mean.ravel() / std
    return layers.Rescaling(scale.tolist(), offset.tolist(), name=layer.name)


def _wrap(model: keras.Model, wiring: Wiring, units: int, temperature: float) -> keras.Model:
    """Return a model from uint8 images to probabilities, as `onnx_graph.wrap`."""
    images = layers.Input(wiring.spec.shape, dtype="uint8", name="images")
    value = layers.Reshape((*wiring.spec.shape[:2], wiring.spec.channels))(images)
    if wiring.dtype != "uint8":
        scale = [1 / std for std in wiring.std]
        offset = [-mean / std for mean, std in zip(*_equal(wiring.mean, wiring.std), strict=True)]
        value = layers.Rescaling(scale, offset, dtype="float32")(value)
    if wiring.channels_first:
        value = layers.Permute((3, 1, 2))(value)
    outputs = layers.Reshape((units,))(model(layers.Reshape(wiring.shape)(value)))
    probabilities = wiring.output == "probabilities"
    if units == 1:
        other = layers.Rescaling(-1.0, 1.0) if probabilities else layers.Rescaling(0.0)
        outputs = layers.Concatenate()([other(outputs), outputs])
    if probabilities and temperature == 1:
        outputs = layers.Activation("linear", dtype="float32", name="probabilities")(outputs)
        return keras.Model(images, outputs)
    if probabilities:
        outputs = keras.ops.log(keras.ops.add(outputs, TINY))
    return add_softmax(keras.Model(images, outputs), temperature)


def _equal(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and std with as many values."""
    length = max(len(mean), len(std))
    return mean * (length // len(mean)), std * (length // len(std))
