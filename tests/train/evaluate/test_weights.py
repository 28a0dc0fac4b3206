"""Weights as pictures: only layers that see pixels have them."""

import keras
import numpy as np
from keras import layers

from train.evaluate.weights import first_filters, pixel_weights


def model_of(*stack: layers.Layer) -> keras.Model:
    return keras.Sequential(
        [layers.Input((28, 28), dtype="uint8"), layers.Rescaling(1 / 255), *stack]
    )


def test_a_single_dense_layer_has_an_image_for_each_class() -> None:
    dense = layers.Dense(4)
    weights = pixel_weights(model_of(layers.Flatten(), dense, layers.Softmax()))

    assert weights is not None
    assert weights.shape == (4, 28, 28)
    kernel = np.asarray(dense.get_weights()[0])
    assert weights[2, 3, 5] == kernel[3 * 28 + 5, 2]


def test_deeper_models_have_no_pixel_weights() -> None:
    assert pixel_weights(model_of(layers.Flatten(), layers.Dense(8), layers.Dense(4))) is None
    assert (
        pixel_weights(
            model_of(
                layers.Reshape((28, 28, 1)),
                layers.AveragePooling2D(2),
                layers.Flatten(),
                layers.Dense(4),
            )
        )
        is None
    )
    assert pixel_weights(model_of(layers.Reshape((28, 28, 1)), layers.Conv2D(4, 28))) is None


def test_filters_are_those_of_the_first_convolution_even_in_a_nested_model() -> None:
    convolution = layers.Conv2D(6, (3, 5))
    inner = model_of(
        layers.Reshape((28, 28, 1)), convolution, layers.Conv2D(2, 3), layers.Flatten()
    )
    outer = keras.Sequential([layers.Input((28, 28), dtype="uint8"), inner, layers.Dense(4)])
    kernels = first_filters(outer)

    assert kernels is not None
    assert kernels.shape == (6, 3, 5)
    assert kernels[4, 2, 1] == np.asarray(convolution.get_weights()[0])[2, 1, 0, 4]
    assert first_filters(model_of(layers.Flatten(), layers.Dense(4))) is None
