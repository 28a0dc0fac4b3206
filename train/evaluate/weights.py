"""The weights of a model that can be drawn as pictures."""

import math
from collections.abc import Iterator

import keras
import numpy as np

from loupe.images.spec import Float32Array


def pixel_weights(model: keras.Model) -> Float32Array | None:
    """Return the weights of softmax regression, float32 `(classes, height, width)`, else `None`.

    Those of colours are averaged.
    """
    trained = [layer for layer in _layers(model) if layer.weights]
    if len(trained) != 1 or not isinstance(trained[0], keras.layers.Dense):
        return None
    height, width, *channels = model.input_shape[1:]
    kernel = np.asarray(keras.ops.convert_to_numpy(trained[0].kernel), np.float32)
    if len(kernel) != height * width * math.prod(channels):
        return None
    of_pixels = kernel.T.reshape(-1, height, width, *channels or [1])
    return np.asarray(of_pixels.mean(axis=3), np.float32)


def first_filters(model: keras.Model) -> Float32Array | None:
    """Return the first convolution's kernels, averaged over input channels.

    Their shape is `(filters, height, width)`, float32; `None` if the model has no convolution.
    """
    for layer in _layers(model):
        if isinstance(layer, keras.layers.Conv2D):
            kernel = np.asarray(keras.ops.convert_to_numpy(layer.kernel), np.float32)
            # (height, width, channels, filters) → (filters, height, width)
            return np.asarray(kernel.mean(axis=2).transpose(2, 0, 1), np.float32)
    return None


def _layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    """Yield the layers in order, including those of nested models."""
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _layers(layer)
        else:
            yield layer
