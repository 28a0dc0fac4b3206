"""Normalisation that trains in one operation, and Keras's own layer in what leaves training."""

import keras
import numpy as np
import pytest

from tests import pictures
from train.architectures import build
from train.config import recipe
from train.normalization import FusedBatchNormalization, plain


def test_it_normalises_as_keras_does_and_remembers_the_same(random: np.random.Generator) -> None:
    maps = random.normal(3, 2, (16, 6, 5, 4)).astype(np.float32)
    fused, own = FusedBatchNormalization(momentum=0.9), keras.layers.BatchNormalization(momentum=0.9)
    for layer in (fused, own):
        layer.build(maps.shape)
        layer.set_weights([np.array(values, np.float32) for values in ([1, 2, 3, 4], [4, 3, 2, 1], [0] * 4, [1] * 4)])

    np.testing.assert_allclose(fused(maps, training=True), own(maps, training=True), atol=1e-4)
    for remembered, expected in zip(fused.get_weights(), own.get_weights(), strict=True):
        # TensorFlow divides the variance of n values by n - 1, Keras by n.
        np.testing.assert_allclose(remembered, expected, rtol=3e-3)
    np.testing.assert_allclose(fused(maps, training=False), own(maps, training=False), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("architecture", ["cnn", "mlp"])
def test_a_plain_model_has_layers_of_keras_alone_and_answers_alike(architecture: str) -> None:
    model = build((28, 28), 3, recipe(architecture))
    copy = plain(model)

    assert all(type(layer).__module__.startswith("keras.") for layer in copy.layers)
    np.testing.assert_array_equal(copy(pictures.digits(4)), model(pictures.digits(4)))
