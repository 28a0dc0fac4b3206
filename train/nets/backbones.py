"""Backbones of `keras.applications` with weights from a file: networks that start pretrained.

Their own preprocessing is part of the model, so that it takes raw `uint8` as all models do.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import keras
from keras import applications, layers

from loupe.errors import InvalidUsage
from train.config import Architecture

MIN_SIDE = 32  # pixels; `keras.applications` builds no smaller networks

Tensor: TypeAlias = "keras.KerasTensor"

# Mean and deviation of ImageNet's channels, 0..1. Source: `keras.applications.efficientnet`.
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

BACKBONES: dict[Architecture, Callable[..., keras.Model]] = {
    "mobilenet-v3-small": applications.MobileNetV3Small,
    "mobilenet-v3-large": applications.MobileNetV3Large,
    "efficientnet-b0": applications.EfficientNetB0,
}


def backbone(pixels: Tensor, architecture: Architecture, weights: str) -> Tensor:
    """Add a backbone and return its features, averaged over the image: `(n, features)`.

    Its statistics of batches stay those of the file: small data sets would make them worse.

    Args:
        pixels: Values in 0..255, `(n, height, width)` or `(n, height, width, 3)`.
        architecture: A key of `BACKBONES`.
        weights: Path of a weights file without the top: `…_no_top.h5`, or `.weights.h5`.

    Raises:
        InvalidUsage: If the file does not fit, or the images are smaller than `MIN_SIDE`.
    """
    if min(pixels.shape[1:3]) < MIN_SIDE:
        raise InvalidUsage(
            f"{architecture} takes images of at least {MIN_SIDE} × {MIN_SIDE} pixels: add --size.",
            code="invalid_training",
        )
    x = pixels if len(pixels.shape) == 4 else layers.Reshape((*pixels.shape[1:], 1))(pixels)
    if x.shape[3] == 1:
        x = layers.Concatenate()([x, x, x])
    if architecture == "efficientnet-b0":
        x = _as_published(x)
    try:
        model = BACKBONES[architecture](
            include_top=False, weights=weights, input_tensor=x, pooling="avg"
        )
    except Exception as error:  # damaged files raise almost anything
        reason = " ".join(str(error).split())[:200]
        raise InvalidUsage(
            f"'{Path(weights).name}' has no weights of {architecture} without its top: {reason}",
            code="invalid_training",
        ) from error
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.trainable = False
    return model.output


def _as_published(x: Tensor) -> Tensor:
    """Scale pixels so that Keras's own scaling gives what EfficientNet was published with.

    Keras divides by the square root of the deviation once more, but only if it downloads the
    weights itself. Source: `keras.applications.efficientnet`.
    """
    scales = [1 / math.sqrt(deviation) for deviation in DEVIATION]
    offsets = [255 * mean * (1 - scale) for mean, scale in zip(MEAN, scales, strict=True)]
    return layers.Rescaling(scales, offsets)(x)
