"""Architectures: plain functions from an image's shape and a number of classes to an untrained Keras model.

Every model takes raw `uint8` and gives logits, float32 `(n, classes)`; what turns logits into calibrated probabilities is added when the
trained model is exported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import keras
from keras import layers

from loupe.old_errors.train import InvalidTraining
from train.config import Architecture, TrainConfig
from train.nets.normalization import FusedBatchNormalization

UNITS: dict[Architecture, int] = {
    "mlp-small": 16
}  # values of 0..16, as scikit-learn's digits have them; 0..1 elsewhere
SQUEEZED = 8  # of how many channels one is left between

Shape = tuple[int, int]  # height and width, in pixels
Tensor: TypeAlias = "keras.KerasTensor"


def build(shape: Shape, classes: int, config: TrainConfig, full_ink: int = 255) -> keras.Model:
    """The untrained model that a configuration asks for.

    Args:
        shape: Height and width of the images, in pixels.
        classes: How many; at least 2.
        config: Names the architecture, the hidden sizes where it takes some, and how weights begin.
        full_ink: The images' highest value; the model's first layer scales it to 1, or to 16 for `mlp-small`.

    Returns:
        A model from uint8 `(n, height, width)`, 0 = background, 255 = full ink, to float32 logits `(n, classes)`.

    Raises:
        InvalidTraining: If the images are too small for the architecture.
    """
    images = layers.Input(shape, dtype="uint8", name="images")
    pixels = layers.Rescaling(UNITS.get(config.architecture, 1) / full_ink)(images)
    start = Start(keras.initializers.get(config.initializer.replace("-", "_")), config.bias)
    try:
        features = FEATURES[config.architecture](pixels, config.hidden, start)
    except ValueError as error:  # a convolution or a pool that is left with no pixels
        received = f"{config.architecture} with images of {shape[0]} × {shape[1]} pixels"
        raise InvalidTraining(
            "architecture", "one that images of this size go through", received
        ) from error
    logits = start.dense(classes, name="logits")(features)
    return keras.Model(images, logits, name=config.architecture)


@dataclass(frozen=True)
class Start:
    """How the weights of a new model begin."""

    kernel: keras.Initializer
    bias: float

    def dense(self, units: int, **options: str) -> layers.Dense:
        """A dense layer."""
        return layers.Dense(units, **self._initializers(), **options)

    def conv(self, filters: int, **options: str | bool) -> layers.Conv2D:
        """A convolution of 3 × 3."""
        return layers.Conv2D(filters, 3, **self._initializers(), **options)

    def _initializers(self) -> dict[str, keras.Initializer]:
        kernel = self.kernel.__class__.from_config(
            self.kernel.get_config()
        )  # one of its own for each layer
        return {
            "kernel_initializer": kernel,
            "bias_initializer": keras.initializers.Constant(self.bias),
        }


Features = Callable[[Tensor, tuple[int, ...], Start], Tensor]


def softmax(pixels: Tensor, hidden: tuple[int, ...], start: Start) -> Tensor:
    """Softmax regression: every pixel votes for every class, with nothing in between."""
    return layers.Flatten()(pixels)


def mlp(pixels: Tensor, hidden: tuple[int, ...], start: Start) -> Tensor:
    """Dense layers with relu."""
    return _dense(pixels, hidden, start)


def mlp_sigmoid(pixels: Tensor, hidden: tuple[int, ...], start: Start) -> Tensor:
    """Dense layers with sigmoid, as networks were before relu."""
    return _dense(pixels, hidden, start, activation="sigmoid")


def mlp_dropout(pixels: Tensor, hidden: tuple[int, ...], start: Start) -> Tensor:
    """Dense layers with relu, each followed by a dropout of 0.2."""
    return _dense(pixels, hidden, start, dropout=0.2)


def cnn_small(pixels: Tensor, hidden: tuple[int, ...], start: Start) -> Tensor:
    """Two small convolutions: quick to train, for first tries; 2.4 MFLOP an image of 28 × 28."""
    x = _image(pixels)
    x = start.conv(16, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D()(x)  # (n, 14, 14, 16)
    x = start.conv(32, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D()(x)  # (n, 7, 7, 32)
    x = FusedBatchNormalization(momentum=0.9)(x)  # settles within a hundred steps
    x = layers.Dropout(0.25)(layers.Flatten()(x))
    return start.dense(128, activation="relu")(x)


def cnn_classic(pixels: Tensor, hidden: tuple[int, ...], start: Start) -> Tensor:
    """The convolutional network of Keras's first examples; 24 MFLOP an image of 28 × 28."""
    x = _image(pixels)
    x = start.conv(32, activation="relu")(x)
    x = start.conv(64, activation="relu")(x)
    x = layers.Dropout(0.25)(layers.MaxPooling2D()(x))
    x = start.dense(128, activation="relu")(layers.Flatten()(x))
    return layers.Dropout(0.5)(x)


def cnn(pixels: Tensor, hidden: tuple[int, ...], start: Start) -> Tensor:
    """A small residual network with batch normalisation; 20 MFLOP an image of 28 × 28."""
    x = start.conv(16, padding="same", use_bias=False)(_image(pixels))
    x = _normal(
        layers.MaxPooling2D()(x)
    )  # (n, 14, 14, 16); a fourth of the work that normalising before the pool is
    x = _normal_conv(x, 48, start)
    x = layers.Add()([x, _normal_conv(x, 48, start)])
    x = _normal_conv(layers.MaxPooling2D()(x), 80, start)  # (n, 7, 7, 80)
    x = layers.Add()([x, _normal_conv(x, 80, start)])
    return layers.Dropout(0.4)(
        layers.Flatten()(x)
    )  # no pool over all places: where a thing is tells what it is


def resnet(pixels: Tensor, hidden: tuple[int, ...], start: Start) -> Tensor:
    """A residual network of ten layers that weighs its channels, for those who can wait: 236 MFLOP an image of 28 × 28."""
    x = start.conv(32, padding="same", use_bias=False)(_normal_conv(_image(pixels), 32, start))
    x = _normal(layers.MaxPooling2D()(x))  # (n, 14, 14, 32)
    x = _residual(_normal_conv(x, 96, start), start)
    x = _normal_conv(layers.MaxPooling2D()(x), 192, start)  # (n, 7, 7, 192)
    x = _residual(_residual(x, start), start)
    return layers.Dropout(0.4)(layers.Flatten()(x))


def _image(pixels: Tensor) -> Tensor:
    return layers.Reshape((*pixels.shape[1:], 1))(pixels)  # (n, height, width, 1)


def _dense(
    pixels: Tensor,
    hidden: tuple[int, ...],
    start: Start,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
) -> Tensor:
    x = layers.Flatten()(pixels)
    for units in hidden:
        x = start.dense(units, activation=activation)(x)
        if dropout:
            x = layers.Dropout(dropout)(x)
    return x


def _normal_conv(x: Tensor, filters: int, start: Start) -> Tensor:
    return _normal(start.conv(filters, padding="same", use_bias=False)(x))


def _residual(x: Tensor, start: Start) -> Tensor:
    """Two convolutions, beside which what comes in goes on unchanged.

    Each channel counts for as much as an average over the whole image says.
    Source: Hu et al., "Squeeze-and-Excitation Networks", 2018.
    """
    filters = x.shape[-1]
    y = _normal_conv(_normal_conv(x, filters, start), filters, start)
    squeezed = start.dense(filters // SQUEEZED, activation="relu")(
        layers.GlobalAveragePooling2D(keepdims=True)(y)
    )
    weights = start.dense(filters, activation="sigmoid")(squeezed)  # (n, 1, 1, filters)
    return layers.Add()([x, layers.Multiply()([y, weights])])


def _normal(x: Tensor) -> Tensor:
    return layers.ReLU()(FusedBatchNormalization(momentum=0.9)(x))


FEATURES: dict[Architecture, Features] = {
    "softmax": softmax,
    "mlp-sigmoid": mlp_sigmoid,
    "mlp": mlp,
    "mlp-512": mlp_dropout,
    "mlp-small": mlp,
    "cnn-small": cnn_small,
    "cnn-classic": cnn_classic,
    "cnn": cnn,
    "resnet": resnet,
}
