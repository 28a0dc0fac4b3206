"""scikit-learn's digits, normalised and as they are."""

import numpy as np
import pytest

from loupe.errors import InvalidUsage
from loupe.images.normalize import border_mean
from train.data.digits import DIGITS_8X8_SCALE, load_digits


def test_digits_have_two_splits() -> None:
    digits = load_digits()

    assert (digits.train.images.shape, digits.test.images.shape) == ((1347, 28, 28), (450, 28, 28))
    assert (digits.train.images.dtype, digits.test.images.dtype) == (
        np.dtype(np.uint8),
        np.dtype(np.uint8),
    )
    assert (digits.train.labels.shape, digits.test.labels.shape) == ((1347,), (450,))
    assert (digits.train.labels.dtype, digits.look) == (np.dtype(np.int64), "ink")
    assert digits.class_names == ("0", "1", "2", "3", "4", "5", "6", "7", "8", "9")


def test_normalized_digits_have_not_changed() -> None:
    # If this change is intended, train and measure the models again.
    digits = load_digits()

    assert digits.train.digest().startswith("9893a0013225")
    assert digits.test.digest().startswith("7701b33526e1")


def test_every_second_training_image_has_sharp_strokes() -> None:
    digits = load_digits()
    between = ((digits.train.images > 40) & (digits.train.images < 215)).mean(axis=(1, 2))

    assert between[1::2].mean() < 0.7 * between[::2].mean()


def test_digits_are_light_ink_on_a_dark_background() -> None:
    digits = load_digits()

    for image in digits.test.images:
        assert border_mean(image) < 10
        assert image.max() > 200


def test_labels_match_the_images() -> None:
    """Compare zeros, which have a hole in the middle, with ones."""
    digits = load_digits()
    middle = {
        label: digits.train.images[digits.train.labels == label, 12:16, 12:16].mean()
        for label in (0, 1)
    }

    assert middle[0] < 40
    assert middle[1] > 150


def test_digits_are_always_split_the_same_way() -> None:
    first, second = load_digits(), load_digits.__wrapped__()

    np.testing.assert_array_equal(first.test.images, second.test.images)
    assert np.bincount(first.test.labels).min() >= 43
    train = {image.tobytes() for image in first.train.images}
    assert sum(image.tobytes() in train for image in first.test.images) < 5


def test_digits_of_8x8_scale_back_to_the_exact_values_of_scikit_learn() -> None:
    from sklearn.datasets import load_digits as load

    bunch = load()
    digits = load_digits("digits-8x8")
    images = np.concatenate([digits.train.images, digits.test.images])
    values = images.astype(np.float32) * np.float32(DIGITS_8X8_SCALE)

    assert (images.dtype, images.shape, digits.full_ink) == (np.dtype(np.uint8), (1797, 8, 8), 128)
    assert sorted(value.tobytes() for value in values) == sorted(
        value.tobytes() for value in bunch.images.astype(np.float32)
    )


def test_both_sizes_of_digits_have_the_same_split() -> None:
    large, small = load_digits(), load_digits("digits-8x8")

    np.testing.assert_array_equal(large.train.labels, small.train.labels)
    np.testing.assert_array_equal(large.test.labels, small.test.labels)


@pytest.mark.parametrize(("fraction", "images"), [(0.10, 180), (0.25, 450), (0.40, 719)])
def test_a_fraction_of_the_digits_becomes_the_test_split(fraction: float, images: int) -> None:
    digits = load_digits("digits-8x8", fraction)

    assert (len(digits.test.labels), len(digits.train.labels)) == (images, 1797 - images)


def test_another_seed_gives_another_split() -> None:
    assert (
        load_digits("digits-8x8", split_seed=42).test.digest()
        != load_digits("digits-8x8").test.digest()
    )


@pytest.mark.parametrize("fraction", [-0.1, 0.0, 0.001, 0.9999, 1.0, 2.0, float("nan")])
def test_a_fraction_that_cannot_be_split_off_is_refused(fraction: float) -> None:
    with pytest.raises(InvalidUsage, match=f" {fraction:g} of 1,797 images in 10 ") as raised:
        load_digits("digits-8x8", fraction)

    assert (raised.value.code, raised.value.exit_code) == ("impossible_fraction", 2)
