"""Models for inference: Keras's own layers only, and averages over views."""

from pathlib import Path

import keras
import numpy as np
import pytest

from tests.support import pictures
from train.config import recipe
from train.nets.architectures import build
from train.nets.inference import FusedBatchNormalization, to_inference_model


@pytest.mark.parametrize("architecture", ["cnn", "mlp"])
@pytest.mark.parametrize(("mirrored", "shifted"), [(False, False), (True, False), (True, True)])
def test_an_inference_model_loads_without_code_of_ours(
    architecture: str, mirrored: bool, shifted: bool, tmp_path: Path
) -> None:
    model = to_inference_model(
        build((28, 28), 3, recipe(architecture)), mirrored=mirrored, shifted=shifted
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras", safe_mode=True)

    assert all(type(layer).__module__.startswith("keras.") for layer in loaded._flatten_layers())
    np.testing.assert_array_equal(loaded(pictures.digits(4)), model(pictures.digits(4)))


def test_logits_are_averaged_over_mirror_images() -> None:
    network, images = build((28, 28), 3, recipe("cnn")), pictures.digits(4)
    model = to_inference_model(network, mirrored=True)

    np.testing.assert_allclose(
        model(images),
        (np.asarray(network(images)) + np.asarray(network(images[:, :, ::-1]))) / 2,
        atol=1e-6,
    )
    np.testing.assert_allclose(model(images), model(images[:, :, ::-1]), atol=1e-6)


def test_logits_are_averaged_over_shifted_images() -> None:
    network, images = build((28, 28), 3, recipe("cnn")), pictures.digits(4)
    blank = np.zeros((4, 1, 28), np.uint8)
    views = [
        images,
        np.concatenate([images[:, 1:], blank], axis=1),
        np.concatenate([blank, images[:, :-1]], axis=1),
    ]
    mean = np.mean([network(view) for view in views], axis=0)
    mirrored = np.mean([network(view[:, :, ::-1]) for view in views], axis=0)

    np.testing.assert_allclose(
        to_inference_model(network, mirrored=False, shifted=True)(images), mean, atol=1e-6
    )
    np.testing.assert_allclose(
        to_inference_model(network, mirrored=True, shifted=True)(images),
        (mean + mirrored) / 2,
        atol=1e-6,
    )


def test_a_single_view_has_the_logits_of_the_network() -> None:
    network = build((28, 28), 3, recipe("cnn"))

    np.testing.assert_array_equal(
        to_inference_model(network, mirrored=False)(pictures.digits(4)), network(pictures.digits(4))
    )


def test_views_share_the_weights() -> None:
    network = build((28, 28), 3, recipe("cnn"))

    assert to_inference_model(network, mirrored=True).count_params() == network.count_params()


def test_fused_normalization_equals_that_of_keras(random: np.random.Generator) -> None:
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
