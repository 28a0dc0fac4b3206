"""Normalisation that trains in one operation."""

import keras
import numpy as np

from train.nets.normalization import FusedBatchNormalization


def test_it_normalises_as_keras_does_and_remembers_the_same(random: np.random.Generator) -> None:
    maps = random.normal(3, 2, (16, 6, 5, 4)).astype(np.float32)
    fused, own = (
        FusedBatchNormalization(momentum=0.9),
        keras.layers.BatchNormalization(momentum=0.9),
    )
    for layer in (fused, own):
        layer.build(maps.shape)
        layer.set_weights(
            [
                np.array(values, np.float32)
                for values in ([1, 2, 3, 4], [4, 3, 2, 1], [0] * 4, [1] * 4)
            ]
        )

    np.testing.assert_allclose(fused(maps, training=True), own(maps, training=True), atol=1e-4)
    for remembered, expected in zip(fused.get_weights(), own.get_weights(), strict=True):
        # TensorFlow divides the variance of n values by n - 1, Keras by n.
        np.testing.assert_allclose(remembered, expected, rtol=3e-3)
    np.testing.assert_allclose(
        fused(maps, training=False), own(maps, training=False), rtol=1e-2, atol=1e-2
    )
