"""Saliency: what is covered, and how much each part counts."""

from typing import Literal

import numpy as np
import pytest

from loupe.images.spec import Float32Array, ImageSpec, UInt8Array
from loupe.models.explaining.saliency import AGAINST, FOR, MAX_IMAGES, draw, occlude
from tests.support import pictures

INK = ImageSpec("ink")


def answers(images: UInt8Array) -> Float32Array:
    """Return probabilities of a class that needs the upper left, and has nothing below."""
    light = images.reshape(len(images), 28, 28).astype(float) / 255
    score = light[:, :14, :14].mean(axis=(1, 2)) - light[:, 14:, :14].mean(axis=(1, 2))
    probability = 1 / (1 + np.exp(-4 * score - 0.5))
    return np.stack([1 - probability, probability], axis=1).astype(np.float32)


def test_parts_for_and_against_the_class_have_opposite_signs() -> None:
    image = np.full((28, 28), 200, np.uint8)
    occlusion = occlude(image, INK)
    heat = occlusion.saliency(answers(image[None])[0], answers(occlusion.images))

    assert heat.shape == (28, 28)
    assert heat[:10, :10].min() > 0
    assert heat[18:, :10].max() < 0
    np.testing.assert_allclose(heat[:, 20:], 0, atol=1e-6)


@pytest.mark.parametrize(
    ("height", "width", "channels"), [(28, 28, 1), (16, 128, 1), (64, 48, 3), (128, 128, 3)]
)
def test_any_image_takes_a_bounded_number_of_copies(
    height: int, width: int, channels: Literal[1, 3]
) -> None:
    spec = ImageSpec("photo", height, width, channels)
    image = np.random.default_rng(0).integers(0, 256, spec.shape).astype(np.uint8)
    occlusion = occlude(image, spec)

    assert len(occlusion.images) == len(occlusion.windows) <= MAX_IMAGES
    assert occlusion.windows.any(axis=0).all()  # every pixel is covered
    for copy, window in zip(occlusion.images, occlusion.windows, strict=True):
        np.testing.assert_array_equal(copy[~window], image[~window])


def test_empty_ground_is_not_covered() -> None:
    assert len(occlude(np.zeros((28, 28), np.uint8), INK).images) == 0
    assert 0 < len(occlude(pictures.digits(1)[0] // 255 * 255, INK).images) < MAX_IMAGES


def test_image_without_copies_has_an_empty_map() -> None:
    occlusion = occlude(np.zeros((28, 28), np.uint8), INK)
    heat = occlusion.saliency(np.array([0.5, 0.5], np.float32), np.empty((0, 2), np.float32))

    np.testing.assert_array_equal(heat, 0)
    np.testing.assert_array_equal(draw(np.zeros((28, 28), np.uint8), heat), 0)


def test_map_is_drawn_in_orange_and_blue() -> None:
    heat = np.zeros((28, 28), np.float32)
    heat[:10], heat[18:] = 2, -2
    drawn = draw(np.zeros((28, 28), np.uint8), heat).astype(int)

    assert drawn.shape == (224, 224, 3)
    assert np.abs(drawn[20, 100] - np.array(FOR)).max() < 40
    assert np.abs(drawn[-20, 100] - np.array(AGAINST)).max() < 40
