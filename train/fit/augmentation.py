"""Augmentation: each training image is turned, scaled, shifted, mirrored and partly hidden a little differently in every epoch."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from loupe.images.spec import Look


@dataclass(frozen=True)
class Augmentation:
    """How far an image may be changed without becoming another thing.

    Attributes:
        rotation: Most degrees to either side.
        zoom: Most that width and height shrink or grow by, each by itself, as a fraction.
        shift: Most pixels to move by, each way.
        mirror: Whether left and right are exchanged, in every other epoch.
        erasing: Share, 0..1, of the images of which a part is hidden behind noise.
    """

    rotation: float
    zoom: float
    shift: float
    mirror: bool
    erasing: float = 0.0


ERASED = (
    0.02,
    0.2,
)  # smallest and largest square of each side of what is hidden, as a fraction of the image's

# A mirrored digit is no digit; a shoe may point either way.
BY_LOOK: dict[Look, Augmentation] = {
    "ink": Augmentation(rotation=12, zoom=0.12, shift=2, mirror=False),
    "object": Augmentation(rotation=0, zoom=0, shift=1, mirror=True),
}


def mirrored(count: int, epoch: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Which of so many images are mirrored in an epoch: half of them in the first, the other half in the next, and so on.

    So two epochs show every image both ways, where a coin tossed each time would show half of them one way twice.
    Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024.

    Args:
        count: Of the images.
        epoch: int, from 0 on.
        seed: int; another seed begins with other images.

    Returns:
        bool, shape `(count,)`.
    """
    return (tf.random.stateless_uniform((count,), tf.stack([seed, 0])) < 0.5) ^ (epoch % 2 == 1)


def augment(images: tf.Tensor, turned: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    """The same images, each changed at random.

    Args:
        images: uint8, shape `(n, height, width)`, 0 = background.
        turned: bool, shape `(n,)`: which of them are mirrored, if images may be.
        seed: int, shape `(2,)`; the same seed gives the same changes.
        how: The bounds of the changes.

    Returns:
        uint8, shape `(n, height, width)`.
    """
    if how.mirror:
        images = tf.where(turned[:, tf.newaxis, tf.newaxis], images[:, :, ::-1], images)
    if how.rotation or how.zoom or how.shift:
        images = _move(images, seed, how)
    return _erase(images, seed, how.erasing) if how.erasing else images


def mix(
    images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, alpha: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Each image of a batch mixed with another one of it, and their targets in the same parts.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018.

    Args:
        images: uint8, shape `(n, height, width)`.
        targets: float32, shape `(n, classes)`, rows sum to 1.
        seed: int, shape `(2,)`; the same seed gives the same mixture.
        alpha: Parts are drawn from the beta distribution of (alpha, alpha): near 0 one image has nearly all, 1 draws evenly.

    Returns:
        Images and targets of the same shapes and types.
    """
    gammas = tf.random.stateless_gamma((2, tf.shape(images)[0]), tf.bitwise.invert(seed), alpha)
    part = gammas[0] / tf.maximum(gammas[0] + gammas[1], 1e-30)
    part = tf.maximum(part, 1 - part)
    of_image, of_target = part[:, tf.newaxis, tf.newaxis], part[:, tf.newaxis]
    grey = tf.cast(images, tf.float32)
    mixed = tf.cast(tf.round(of_image * grey + (1 - of_image) * grey[::-1]), tf.uint8)
    return mixed, of_target * targets + (1 - of_target) * targets[::-1]


def _move(images: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(images, tf.float32)[..., tf.newaxis],
        transforms=_transforms(tf.shape(images), seed, how),
        output_shape=tf.shape(images)[1:],
        interpolation="BILINEAR",
        fill_mode="CONSTANT",
        fill_value=0.0,
    )
    return tf.cast(tf.round(moved[..., 0]), tf.uint8)


def _transforms(shape: tf.Tensor, seed: tf.Tensor, how: Augmentation) -> tf.Tensor:
    """Per image, the eight numbers of the projective transform from output to input pixels, about the middle of the image."""
    count, middle = shape[0], (tf.cast(shape[1:], tf.float32) - 1) / 2
    random = tf.random.stateless_uniform((5, count), seed, -1, 1)  # one row per change
    angle = random[0] * (how.rotation * np.pi / 180)
    across, down = 1 + how.zoom * random[1], 1 + how.zoom * random[2]
    # Whole pixels where nothing else is done to the image, so that it stays sharp.
    shifts = (
        how.shift * random[3:5]
        if how.rotation or how.zoom
        else tf.round((how.shift + 0.49) * random[3:5])
    )
    a, b = across * tf.cos(angle), -down * tf.sin(angle)
    c, d = across * tf.sin(angle), down * tf.cos(angle)
    y, x = middle[0], middle[1]
    right, below = x - a * x - b * y + shifts[0], y - c * x - d * y + shifts[1]
    none = tf.zeros(count)
    return tf.stack([a, b, right, c, d, below, none, none], axis=1)  # (n, 8)


def _erase(images: tf.Tensor, seed: tf.Tensor, share: float) -> tf.Tensor:
    """Hide a rectangle of random sides and place behind noise, in a share of the images.

    Source: Zhong et al., "Random Erasing Data Augmentation", 2017.
    """
    seeds = tf.random.experimental.stateless_split(seed, 4)
    count, height, width = tf.unstack(tf.shape(images))
    sides = tf.sqrt(tf.random.stateless_uniform((2, count, 1), seeds[0], *ERASED))  # of 1
    places = tf.random.stateless_uniform((2, count, 1), seeds[1]) * (1 - sides)
    rows = _within(height, places[0], sides[0])[:, :, tf.newaxis]
    columns = _within(width, places[1], sides[1])[:, tf.newaxis, :]
    chosen = tf.random.stateless_uniform((count, 1, 1), seeds[2]) < share
    noise = tf.random.stateless_uniform(tf.shape(images), seeds[3], 0, 256, tf.int32)
    return tf.where(chosen & rows & columns, tf.cast(noise, tf.uint8), images)


def _within(length: tf.Tensor, place: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Which pixels of a row lie in the pieces of it, `(n, length)`; both `(n, 1)`, as fractions of the row."""
    middles = (tf.range(length, dtype=tf.float32) + 0.5) / tf.cast(length, tf.float32)
    return (middles >= place) & (middles < place + side)
