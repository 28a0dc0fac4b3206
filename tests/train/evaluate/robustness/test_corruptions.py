"""Kinds of MNIST-C: they change images of any size, and keep shape and type."""

import numpy as np
import pytest

from loupe.images.spec import UInt8Array
from tests.support import pictures
from train.evaluate.robustness.corruptions import CORRUPTIONS, corrupt

DIGIT = pictures.digits(1)[0]
IMAGES = {
    "grey": DIGIT,
    "blank": np.zeros((28, 28), np.uint8),
    "tall": np.random.default_rng(0).integers(0, 256, (40, 16)).astype(np.uint8),
    "colour": np.random.default_rng(0).integers(0, 256, (64, 48, 3)).astype(np.uint8),
}


def test_there_are_the_fifteen_kinds_of_mnist_c() -> None:
    assert len(CORRUPTIONS) == 15


@pytest.mark.parametrize("kind", CORRUPTIONS)
@pytest.mark.parametrize("image", IMAGES.values(), ids=list(IMAGES))
def test_every_kind_takes_any_image(kind: str, image: UInt8Array) -> None:
    changed = corrupt(kind, image, np.random.default_rng(1))

    assert changed.dtype == np.uint8
    assert changed.shape == image.shape
    np.testing.assert_array_equal(changed, corrupt(kind, image, np.random.default_rng(1)))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_every_kind_changes_a_digit_and_leaves_something_of_it(kind: str) -> None:
    changed = corrupt(kind, DIGIT, np.random.default_rng(1))

    assert (changed != DIGIT).any()
    assert np.ptp(changed) > 50


def test_images_that_are_given_stay_as_they_are() -> None:
    image = pictures.digits(1)[0]
    before = image.copy()
    for kind in CORRUPTIONS:
        corrupt(kind, image, np.random.default_rng(0))

    np.testing.assert_array_equal(image, before)
