"""Augmentation: random rotations, zooms, shifts, mirror images, colours, erasing and mixup.

All randomness follows from seeds, so a resumed training sees the same images.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from loupe.images.spec import Look


@dataclass(frozen=True)
class Augmentation:
    """The limits of the random changes.

    Attributes:
        rotation: Maximum rotation to either side, in degrees.
        zoom: Maximum change of width and of height, as a fraction.
        shift: Maximum shift in each direction, in pixels of 28 × 28; more in larger images.
        mirror: Mirror each image in every other epoch.
        erasing: Fraction, 0..1, of the images with a rectangle replaced by noise.
        colour: Maximum change of brightness, contrast and saturation, as a natural logarithm.
        reflect: Continue images beyond their borders by their mirror image, not by black.
    """

    rotation: float
    zoom: float
    shift: float
    mirror: bool
    erasing: float = 0.0
    colour: float = 0.0
    reflect: bool = False


SHIFT_SIDE = 28  # pixels; shifts grow with images whose shorter side is longer
ERASED_AREA = (0.02, 0.2)  # limits of the erased fraction of the image
TINT = 0.3  # change of each channel's brightness, as a fraction of that of the image's

# Digits cannot be mirrored; a shoe may point either way.
BY_LOOK: dict[Look, Augmentation] = {
    "ink": Augmentation(rotation=12, zoom=0.12, shift=2, mirror=False),
    "object": Augmentation(rotation=0, zoom=0, shift=1, mirror=True),
    "photo": Augmentation(rotation=10, zoom=0.25, shift=3, mirror=True, colour=0.3, reflect=True),
}


def mirror_mask(count: int, epoch: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Choose the images to mirror: half of them in even epochs, the other half in odd ones.

    Two epochs show every image both ways; independent draws would repeat half of them.
    Source: Jordan, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", 2024.
    """
    return (tf.random.stateless_uniform((count,), tf.stack([seed, 0])) < 0.5) ^ (epoch % 2 == 1)


def augment(
    images: tf.Tensor, mirrored: tf.Tensor, seed: tf.Tensor, limits: Augmentation
) -> tf.Tensor:
    """Change each image, uint8 `(n, height, width)` or `(n, height, width, 3)`, at random.

    `mirrored`, bool `(n,)`, marks the images to mirror, if the limits allow it. `seed` has the
    shape `(2,)`.
    """
    shape = tf.shape(images)
    pixels = images if images.shape.rank == 4 else images[..., tf.newaxis]
    if limits.mirror:
        pixels = tf.where(_per_image(mirrored), pixels[:, :, ::-1], pixels)
    if limits.rotation or limits.zoom or limits.shift:
        pixels = _transform(pixels, seed, limits)
    if limits.colour:
        pixels = _recolour(pixels, seed, limits.colour)
    if limits.erasing:
        pixels = _erase(pixels, seed, limits.erasing)
    return tf.reshape(pixels, shape)


def _per_image(values: tf.Tensor) -> tf.Tensor:
    """Return `(n,)` as `(n, 1, 1, 1)`."""
    return values[:, tf.newaxis, tf.newaxis, tf.newaxis]


def mixup(
    images: tf.Tensor, targets: tf.Tensor, seed: tf.Tensor, alpha: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Blend each image of a batch with another one, and their targets in the same ratio.

    Source: Zhang et al., "mixup: Beyond Empirical Risk Minimization", 2018.
    Images are uint8 `(n, height, width[, 3])`, targets float32 `(n, classes)`. Ratios follow the
    beta distribution (alpha, alpha): if alpha is near 0, they are close to 0 or 1.
    """
    # The inverted seed makes the ratios independent of the changes by `augment`.
    gammas = tf.random.stateless_gamma((2, tf.shape(images)[0]), tf.bitwise.invert(seed), alpha)
    ratio = gammas[0] / tf.maximum(gammas[0] + gammas[1], 1e-30)
    ratio = tf.maximum(ratio, 1 - ratio)
    of_image = tf.reshape(ratio, [-1] + [1] * (images.shape.rank - 1))
    of_target = ratio[:, tf.newaxis]
    pixels = tf.cast(images, tf.float32)
    mixed = tf.cast(tf.round(of_image * pixels + (1 - of_image) * pixels[::-1]), tf.uint8)
    return mixed, of_target * targets + (1 - of_target) * targets[::-1]


def _transform(pixels: tf.Tensor, seed: tf.Tensor, limits: Augmentation) -> tf.Tensor:
    """Rotate, zoom and shift uint8 `(n, height, width, channels)`."""
    moved = tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(pixels, tf.float32),
        transforms=_matrices(tf.shape(pixels), seed, limits),
        output_shape=tf.shape(pixels)[1:3],
        interpolation="BILINEAR",
        fill_mode="REFLECT" if limits.reflect else "CONSTANT",
        fill_value=0.0,
    )
    return tf.cast(tf.round(moved), tf.uint8)


def _recolour(pixels: tf.Tensor, seed: tf.Tensor, limit: float) -> tf.Tensor:
    """Change brightness, contrast, saturation and tint of uint8 `(n, height, width, channels)`."""
    # The exclusive or makes the colours independent of the other changes.
    seed = tf.bitwise.bitwise_xor(seed, tf.constant(0x5EED, seed.dtype))
    random = tf.exp(limit * tf.random.stateless_uniform((6, tf.shape(pixels)[0]), seed, -1, 1))
    brightness, contrast, saturation = (_per_image(random[row]) for row in range(3))
    values = tf.cast(pixels, tf.float32)
    mean = tf.reduce_mean(values, [1, 2, 3], keepdims=True)
    values = (values - mean) * contrast + mean * brightness
    grey = tf.reduce_mean(values, 3, keepdims=True)
    values = grey + (values - grey) * saturation
    if pixels.shape[3] == 3:
        values *= tf.transpose(random[3:])[:, tf.newaxis, tf.newaxis] ** TINT  # (n, 1, 1, 3)
    return tf.cast(tf.round(tf.clip_by_value(values, 0.0, 255.0)), tf.uint8)


def _matrices(shape: tf.Tensor, seed: tf.Tensor, limits: Augmentation) -> tf.Tensor:
    """Return per image the eight numbers of the transform from output to input pixels.

    Rotation and zoom keep the centre of the image in place.
    """
    count, sides = shape[0], tf.cast(shape[1:3], tf.float32)
    middle = (sides - 1) / 2
    shift = limits.shift * tf.maximum(1.0, tf.reduce_min(sides) / SHIFT_SIDE)
    random = tf.random.stateless_uniform((5, count), seed, -1, 1)
    angle = random[0] * (limits.rotation * np.pi / 180)
    across, down = 1 + limits.zoom * random[1], 1 + limits.zoom * random[2]
    shifts = shift * random[3:5]
    if not (limits.rotation or limits.zoom):
        shifts = tf.round((shift + 0.49) * random[3:5])  # whole pixels keep it sharp
    a, b = across * tf.cos(angle), -down * tf.sin(angle)
    c, d = across * tf.sin(angle), down * tf.cos(angle)
    y, x = middle[0], middle[1]
    right, below = x - a * x - b * y + shifts[0], y - c * x - d * y + shifts[1]
    zeros = tf.zeros(count)
    return tf.stack([a, b, right, c, d, below, zeros, zeros], axis=1)  # (n, 8)


def _erase(pixels: tf.Tensor, seed: tf.Tensor, fraction: float) -> tf.Tensor:
    """Replace a random rectangle by noise in a fraction of `(n, height, width, channels)`.

    Source: Zhong et al., "Random Erasing Data Augmentation", 2017.
    """
    seeds = tf.random.experimental.stateless_split(seed, 4)
    count, height, width, _ = tf.unstack(tf.shape(pixels))
    sides = tf.sqrt(tf.random.stateless_uniform((2, count, 1), seeds[0], *ERASED_AREA))
    starts = tf.random.stateless_uniform((2, count, 1), seeds[1]) * (1 - sides)
    rows = _inside(height, starts[0], sides[0])[:, :, tf.newaxis, tf.newaxis]
    columns = _inside(width, starts[1], sides[1])[:, tf.newaxis, :, tf.newaxis]
    chosen = tf.random.stateless_uniform((count, 1, 1, 1), seeds[2]) < fraction
    noise = tf.random.stateless_uniform(tf.shape(pixels), seeds[3], 0, 256, tf.int32)
    return tf.where(chosen & rows & columns, tf.cast(noise, tf.uint8), pixels)


def _inside(length: tf.Tensor, start: tf.Tensor, side: tf.Tensor) -> tf.Tensor:
    """Mark the pixels of a row in an interval: bool `(n, length)`; `start` and `side` are `(n, 1)`.

    Both are fractions of the row.
    """
    middles = (tf.range(length, dtype=tf.float32) + 0.5) / tf.cast(length, tf.float32)
    return (middles >= start) & (middles < start + side)
