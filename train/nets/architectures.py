"""Architectures: functions from an image's shape and a number of classes to an untrained model.

Every model takes raw `uint8` and returns logits, float32 `(n, classes)`. Temperature and softmax
are added when the trained model is exported.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import keras
from keras import layers

from loupe.errors import InvalidUsage
from train.config import Architecture, TrainConfig
from train.nets.backbones import BACKBONES, backbone
from train.nets.inference import FusedBatchNormalization

# Highest value after scaling; scikit-learn's digits, which mlp-small is for, have values of 0..16,
# and backbones scale 0..255 themselves.
SCALED_INK: dict[Architecture, int] = {"mlp-small": 16, **dict.fromkeys(BACKBONES, 255)}
SQUEEZE_RATIO = 8  # channels per unit of the squeeze layer

Shape = tuple[int, ...]  # (height, width) or (height, width, 3), in pixels
LARGE_SIDE = 32  # pixels; residual networks end larger images with a global pool
STEM_SIDE = 48  # pixels; the first convolution brings the sides of larger images below this
LAST_SIDE = 8  # pixels of the last feature map; a cnn gets stages until then
MAX_FEATURES = 2**14  # flattened; more make the next layer explode
# Filters of a resnet by stage, for images with sides of less than `LARGE_SIDE`, and for others.
SMALL_FILTERS = (32, 96, 192)
LARGE_FILTERS = (32, 64, 128, 256)
Tensor: TypeAlias = "keras.KerasTensor"


def build(shape: Shape, classes: int, config: TrainConfig, full_ink: int = 255) -> keras.Model:
    """Build the untrained model of a configuration.

    It maps uint8 `(n, *shape)`, 0 = background, to float32 logits `(n, classes)`. The first layer
    scales `full_ink`, the highest value of the images, to 1 (`mlp-small`: 16).

    Raises:
        InvalidUsage: If the images are too small for the architecture.
    """
    images = layers.Input(shape, dtype="uint8", name="images")
    scaled = SCALED_INK.get(config.architecture, 1)
    pixels = layers.Rescaling(scaled / full_ink)(images)
    initial = Initialization(
        keras.initializers.get(config.initializer.replace("-", "_")), config.bias
    )
    try:
        features = (
            backbone(pixels, config.architecture, config.pretrained)
            if config.architecture in BACKBONES
            else FEATURES[config.architecture](pixels, config.hidden, initial)
        )
    except ValueError as error:  # a convolution or pool has no pixels left
        raise InvalidUsage(
            f"Images of {shape[0]} × {shape[1]} pixels are too small for {config.architecture}.",
            code="invalid_training",
        ) from error
    logits = initial.dense(classes, name="logits")(features)
    return keras.Model(images, logits, name=config.architecture)


@dataclass(frozen=True)
class Initialization:
    """Initial weights, and the layers that have them."""

    kernel: keras.Initializer
    bias: float

    def dense(self, units: int, **options: str) -> layers.Dense:
        """Return a dense layer."""
        return layers.Dense(units, **self._initializers(), **options)

    def conv(self, filters: int, size: int = 3, **options: str | bool | int) -> layers.Conv2D:
        """Return a convolution."""
        return layers.Conv2D(filters, size, **self._initializers(), **options)

    def _initializers(self) -> dict[str, keras.Initializer]:
        # Each layer needs its own copy, or layers of one size begin with the same weights.
        kernel = self.kernel.__class__.from_config(self.kernel.get_config())
        bias = keras.initializers.Constant(self.bias)
        return {"kernel_initializer": kernel, "bias_initializer": bias}


Features = Callable[[Tensor, tuple[int, ...], Initialization], Tensor]


def dense(
    pixels: Tensor,
    hidden: tuple[int, ...],
    initial: Initialization,
    *,
    activation: str = "relu",
    dropout: float = 0.0,
) -> Tensor:
    """Flatten the pixels and add hidden layers; without any, it is softmax regression."""
    x = layers.Flatten()(pixels)
    for units in hidden:
        x = initial.dense(units, activation=activation)(x)
        if dropout:
            x = layers.Dropout(dropout)(x)
    return x


def cnn_small(pixels: Tensor, hidden: tuple[int, ...], initial: Initialization) -> Tensor:
    """Add two small convolutions for quick experiments; 2.4 MFLOP per image of 28 × 28."""
    x = _with_channels(pixels)
    x = initial.conv(16, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D()(x)  # (n, 14, 14, 16)
    x = initial.conv(32, padding="same", activation="relu")(x)
    x = layers.MaxPooling2D()(x)  # (n, 7, 7, 32)
    x = FusedBatchNormalization(momentum=0.9)(x)  # converges within a hundred steps
    x = layers.Dropout(0.25)(_flatten(x))
    return initial.dense(128, activation="relu")(x)


def cnn_classic(pixels: Tensor, hidden: tuple[int, ...], initial: Initialization) -> Tensor:
    """Add the network of Keras's first convolutional examples; 24 MFLOP per image of 28 × 28."""
    x = _with_channels(pixels)
    x = initial.conv(32, activation="relu")(x)
    x = initial.conv(64, activation="relu")(x)
    x = layers.Dropout(0.25)(layers.MaxPooling2D()(x))
    x = initial.dense(128, activation="relu")(_flatten(x))
    return layers.Dropout(0.5)(x)


def cnn(pixels: Tensor, hidden: tuple[int, ...], initial: Initialization) -> Tensor:
    """Add a small residual network with batch normalisation; 20 MFLOP per image of 28 × 28.

    Larger images get a third and a fourth stage, until the feature maps have `LAST_SIDE` pixels.
    """
    x = initial.conv(16, padding="same", use_bias=False)(_with_channels(pixels))
    # Normalising after the pool is a quarter of the work.
    x = _norm_relu(layers.MaxPooling2D()(x))  # (n, 14, 14, 16)
    x = _conv_norm_relu(x, 48, initial)
    x = layers.Add()([x, _conv_norm_relu(x, 48, initial)])
    for filters in (80, 128, 192):  # (n, 7, 7, 80)
        if filters > 80 and _side(x) <= LAST_SIDE:
            break
        x = _conv_norm_relu(layers.MaxPooling2D()(x), filters, initial)
        x = layers.Add()([x, _conv_norm_relu(x, filters, initial)])
    if _side(pixels) >= LARGE_SIDE:
        return layers.Dropout(0.4)(layers.GlobalAveragePooling2D()(x))
    # No global pool: the positions of features tell classes apart.
    return layers.Dropout(0.4)(layers.Flatten()(x))


def resnet(pixels: Tensor, hidden: tuple[int, ...], initial: Initialization) -> Tensor:
    """Add a ten-layer squeeze-and-excitation network; 236 MFLOP per image of 28 × 28.

    `hidden` are the filters of its stages, if there are any.
    """
    large = _side(pixels) >= LARGE_SIDE
    filters = hidden or (LARGE_FILTERS if large else SMALL_FILTERS)
    stages = len(LARGE_FILTERS if large else SMALL_FILTERS)
    if len(filters) != stages:
        raise InvalidUsage(
            f"hidden: a resnet has {stages} stages for images of this size, "
            f"got the filters of {len(filters)}.",
            code="invalid_training",
        )
    if large:
        return _large_resnet(pixels, filters, initial)
    first, second, third = filters
    # The order in which layers are created determines their initial weights.
    conv = initial.conv(first, padding="same", use_bias=False)
    x = conv(_conv_norm_relu(_with_channels(pixels), first, initial))
    x = _norm_relu(layers.MaxPooling2D()(x))  # (n, 14, 14, first)
    x = _residual(_conv_norm_relu(x, second, initial), initial)
    x = _conv_norm_relu(layers.MaxPooling2D()(x), third, initial)  # (n, 7, 7, third)
    x = _residual(_residual(x, initial), initial)
    return layers.Dropout(0.4)(layers.Flatten()(x))


def _large_resnet(pixels: Tensor, filters: tuple[int, ...], initial: Initialization) -> Tensor:
    """Add four stages of a convolution and a residual block; 132 MFLOP per image of 64 × 64 × 3.

    The first convolution halves or quarters the sides, so that all sizes take similar time.
    """
    stride = 1
    while _side(pixels) // stride >= STEM_SIDE:
        stride *= 2
    size = max(3, 2 * stride)
    x = _with_channels(pixels)
    for count in filters:
        x = _conv_norm_relu(x, count, initial, size=size, strides=stride)
        x = _residual(x, initial)  # (n, 32, 32, 32) … (n, 4, 4, 256)
        size, stride = 3, 2
    return layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))


def _side(x: Tensor) -> int:
    """Return the shorter side of images or feature maps, in pixels."""
    height, width = x.shape[1:3]
    return min(int(height), int(width))


def _with_channels(pixels: Tensor) -> Tensor:
    """Return `(n, height, width, channels)`."""
    return pixels if len(pixels.shape) == 4 else layers.Reshape((*pixels.shape[1:], 1))(pixels)


def _flatten(x: Tensor) -> Tensor:
    """Flatten feature maps; of large images, after pooling them to at most `MAX_FEATURES`."""
    while math.prod(x.shape[1:]) > MAX_FEATURES:
        x = layers.MaxPooling2D()(x)
    return layers.Flatten()(x)


def _conv_norm_relu(
    x: Tensor, filters: int, initial: Initialization, size: int = 3, strides: int = 1
) -> Tensor:
    conv = initial.conv(filters, size, strides=strides, padding="same", use_bias=False)
    return _norm_relu(conv(x))


def _residual(x: Tensor, initial: Initialization) -> Tensor:
    """Add two convolutions to `x`, each channel weighted by its average over the image.

    Source: Hu et al., "Squeeze-and-Excitation Networks", 2018.
    """
    filters = x.shape[-1]
    y = _conv_norm_relu(_conv_norm_relu(x, filters, initial), filters, initial)
    average = layers.GlobalAveragePooling2D(keepdims=True)(y)
    squeezed = initial.dense(max(1, filters // SQUEEZE_RATIO), activation="relu")(average)
    weights = initial.dense(filters, activation="sigmoid")(squeezed)  # (n, 1, 1, filters)
    return layers.Add()([x, layers.Multiply()([y, weights])])


def _norm_relu(x: Tensor) -> Tensor:
    return layers.ReLU()(FusedBatchNormalization(momentum=0.9)(x))


FEATURES: dict[Architecture, Features] = {
    "softmax": dense,
    "mlp-sigmoid": partial(dense, activation="sigmoid"),  # as networks were before ReLU
    "mlp": dense,
    "mlp-512": partial(dense, dropout=0.2),
    "mlp-small": dense,
    "cnn-small": cnn_small,
    "cnn-classic": cnn_classic,
    "cnn": cnn,
    "resnet": resnet,
}
