"""Augmentation: the limits of the changes, and their seeds."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.images.spec import Float32Array, Look, UInt8Array
from tests.support import pictures
from train.fit.augmentation import BY_LOOK, Augmentation, augment, mirror_mask, mixup

NOTHING = Augmentation(rotation=0, zoom=0, shift=0, mirror=False)
SEED = tf.constant([1, 2], tf.int64)


def changed(images: UInt8Array, limits: Augmentation, seed: tf.Tensor = SEED) -> UInt8Array:
    turned = mirror_mask(len(images), tf.constant(0, tf.int64), seed[0])
    return np.asarray(augment(tf.constant(images), turned, seed, limits))


def dot(count: int) -> UInt8Array:
    """Return images with one bright pixel, left of the centre."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 14, 10] = 255
    return images


@pytest.mark.parametrize("look", BY_LOOK)
def test_augmented_images_keep_shape_and_type(look: Look) -> None:
    images = changed(pictures.digits(5), BY_LOOK[look])

    assert (images.shape, images.dtype) == ((5, 28, 28), np.dtype(np.uint8))


@pytest.mark.parametrize("look", BY_LOOK)
def test_the_seed_determines_the_changes(look: Look) -> None:
    images = pictures.digits(8)
    first = changed(images, BY_LOOK[look])

    np.testing.assert_array_equal(first, changed(images, BY_LOOK[look]))
    assert (first != changed(images, BY_LOOK[look], tf.constant([2, 3], tf.int64))).any()


def photos(count: int) -> UInt8Array:
    return np.random.default_rng(0).integers(60, 180, (count, 32, 48, 3), np.uint8)


def test_photos_keep_shape_type_and_seed() -> None:
    images, limits = photos(6), replace(BY_LOOK["photo"], erasing=0.5)
    first = changed(images, limits)

    assert (first.shape, first.dtype) == (images.shape, np.dtype(np.uint8))
    np.testing.assert_array_equal(first, changed(images, limits))
    assert (first != changed(images, limits, tf.constant([2, 3], tf.int64))).any()


def test_photos_get_no_black_borders() -> None:
    limits = replace(BY_LOOK["photo"], colour=0.0)

    assert changed(photos(50), limits).min() >= 60


def test_colours_change_by_image_and_channel() -> None:
    grey = np.full((200, 8, 8, 3), 100, np.uint8)
    means = changed(grey, replace(NOTHING, colour=0.3)).mean(axis=(1, 2))

    assert 60 < means.min() < 80
    assert 125 < means.max() < 160
    assert np.ptp(means, axis=1).max() > 10  # tint
    assert abs(means.mean() - 100) < 5


def test_erased_parts_are_the_same_in_all_channels() -> None:
    images = np.full((100, 32, 32, 3), 100, np.uint8)
    erased = changed(images, replace(NOTHING, erasing=1.0)) != 100

    assert 0.01 < erased.all(axis=3).mean() < 0.25
    assert erased.any(axis=3).mean() - erased.all(axis=3).mean() < 0.01


def test_mixup_blends_all_channels_alike() -> None:
    images = np.stack([np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 200, np.uint8)])
    targets = np.eye(2, dtype=np.float32)
    mixed, blended = mixup(tf.constant(images), tf.constant(targets), SEED, 1.0)

    np.testing.assert_allclose(np.asarray(mixed)[0] / 200, np.asarray(blended)[0, 1], atol=0.01)


def test_limits_of_zero_change_nothing() -> None:
    images = pictures.digits(5)

    np.testing.assert_array_equal(changed(images, NOTHING), images)


def test_shifts_are_whole_pixels_in_all_directions_within_the_limit() -> None:
    _, rows, columns = np.nonzero(
        changed(dot(500), Augmentation(rotation=0, zoom=0, shift=2, mirror=False))
    )

    assert set(rows - 14) == set(columns - 10) == {-2, -1, 0, 1, 2}


def test_each_epoch_mirrors_the_other_half_of_the_images() -> None:
    first, second, third = (
        np.asarray(mirror_mask(500, tf.constant(epoch, tf.int64), SEED[0])) for epoch in range(3)
    )

    assert 200 < first.sum() < 300
    np.testing.assert_array_equal(second, ~first)
    np.testing.assert_array_equal(third, first)


def test_mirrored_images_have_left_and_right_exchanged() -> None:
    images = pictures.digits(50)
    turned = np.asarray(mirror_mask(50, tf.constant(0, tf.int64), SEED[0]))
    shown = changed(images, Augmentation(rotation=0, zoom=0, shift=0, mirror=True))

    np.testing.assert_array_equal(shown[turned], images[turned][:, :, ::-1])
    np.testing.assert_array_equal(shown[~turned], images[~turned])


def test_digits_are_never_mirrored() -> None:
    assert not BY_LOOK["ink"].mirror


def test_rotation_and_zoom_keep_the_centre_in_place() -> None:
    images = np.zeros((200, 28, 28), np.uint8)
    images[:, 13:15, 13:15] = 255
    turned = changed(images, Augmentation(rotation=30, zoom=0.1, shift=0, mirror=False))

    assert turned[:, 13:15, 13:15].min() > 150


def test_erasing_replaces_a_rectangle_by_noise_in_a_fraction_of_the_images() -> None:
    white = np.full((400, 28, 28), 255, np.uint8)
    hidden = (
        changed(white, Augmentation(rotation=0, zoom=0, shift=0, mirror=False, erasing=0.25)) != 255
    )
    touched = hidden.any(axis=(1, 2))
    heights, widths = (
        hidden.any(axis=2).sum(axis=1)[touched],
        hidden.any(axis=1).sum(axis=1)[touched],
    )

    assert 0.18 < touched.mean() < 0.32
    assert min(heights.min(), widths.min()) >= 3
    assert 11 <= max(heights.max(), widths.max()) <= 13  # the root of a fifth of 28, rounded up
    assert (
        hidden.sum(axis=(1, 2))[touched] > 0.9 * heights * widths
    ).all()  # one value in 256 of the noise is white, too


def mixed(
    images: UInt8Array, targets: Float32Array, alpha: float, seed: int = 0
) -> tuple[UInt8Array, Float32Array]:
    made = mixup(tf.constant(images), tf.constant(targets), tf.constant([seed, 0], tf.int64), alpha)
    return made[0].numpy(), made[1].numpy()


@given(alpha=st.floats(0.01, 10), seed=st.integers(0, 2**62))
@settings(max_examples=30)
def test_mixed_targets_have_the_ratio_of_their_images(alpha: float, seed: int) -> None:
    images = np.repeat(np.arange(10, dtype=np.uint8) * 25, 28 * 28).reshape(10, 28, 28)
    made, targets = mixed(images, np.eye(10, dtype=np.float32), alpha, seed)

    assert made.dtype == np.uint8
    np.testing.assert_allclose(targets.sum(axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(made[:, 0, 0], targets @ (np.arange(10) * 25), atol=0.51)
    assert (
        targets.argmax(axis=1) == np.arange(10)
    ).mean() >= 0.9  # its own image has at least half


def test_a_smaller_alpha_mixes_less() -> None:
    images, targets = (
        np.zeros((2000, 28, 28), np.uint8),
        np.tile(np.eye(2, dtype=np.float32), (1000, 1)),
    )
    parts = [mixed(images, targets, alpha)[1].max(axis=1).mean() for alpha in (0.05, 0.2, 1, 5)]

    assert parts == sorted(parts, reverse=True)
    assert parts[2] == pytest.approx(0.75, abs=0.02)  # even: between a half and all
