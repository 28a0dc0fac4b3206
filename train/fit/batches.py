"""Batches of images and targets: their order, what else they hold, and augmentation.

All randomness follows from the seed and the step, so a resumed training sees the same batches.
"""

import math
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from loupe.images.spec import Look
from train.config import FULL_BATCH, TrainConfig
from train.data.datasets import Dataset, Split
from train.familiarity.outliers import draw_outliers
from train.fit.augmentation import BY_LOOK, augment, mirror_mask, mixup

VALIDATION_BATCH = 512  # images; affects only the speed
PREFETCHED = 4  # batches to prepare ahead
OWN_SHARE = 1 / 3  # of each batch: with fewer, 60,000 images of a catalogue outweigh 2,000 photos
OWN_REPEATS = 20  # times that an epoch shows an own picture at most: ten must not fill a third
# Own pictures are photographs, whatever the clothes that they are added to.
OWN_LOOK: dict[Look, Look] = {"ink": "ink", "object": "photo", "photo": "photo"}


@dataclass(frozen=True)
class Mixture:
    """The rows that a batch is drawn from.

    Attributes:
        rows: Rows of the training split that an epoch shows once each, in another order.
        size: Number of these in a batch; the last one of an epoch may have fewer.
        own: Number of the user's own pictures, drawn at random.
        outliers: Number of pictures of no class, drawn at random.
    """

    rows: NDArray[np.int64]
    size: int
    own: int
    outliers: int

    @property
    def steps(self) -> int:
        """Number of batches in an epoch."""
        return math.ceil(len(self.rows) / self.size)


def mixture(dataset: Dataset, config: TrainConfig) -> Mixture:
    """Return what the batches of a training hold.

    Own pictures are a third of each batch if they are fewer than half of the data set's images, but
    an epoch shows each of them at most about `OWN_REPEATS` times.
    """
    train = dataset.train
    own, rows = int(train.own.sum()), np.arange(len(train.labels))
    size = config.batch_size or len(rows)
    share = 0.0
    if config.batch_size != FULL_BATCH and own < OWN_SHARE * len(rows):
        share = min(OWN_SHARE, own * OWN_REPEATS / len(rows))
        rows = np.flatnonzero(~train.own) if round(size * share) else rows
    drawn = round(size * share)
    return Mixture(rows, size - drawn, drawn, round(config.outliers * size))


def batches(dataset: Dataset, config: TrainConfig, first_epoch: int = 0) -> tf.data.Dataset:
    """Return endless batches of images and targets: the probability of each class.

    The data set's images come first, then own pictures, then outliers, whose target is the same for
    all classes.
    """
    images, targets = _pictures(dataset, config)
    if config.batch_size == FULL_BATCH and not config.augmentation:
        return tf.data.Dataset.from_tensors((images, targets)).repeat()
    parts, seed = mixture(dataset, config), tf.constant(config.seed, tf.int64)
    own, foreign = np.flatnonzero(dataset.train.own), np.arange(len(dataset.train.own), len(images))
    limits = replace(BY_LOOK[dataset.look], erasing=config.erasing)
    own_limits = replace(BY_LOOK[OWN_LOOK[dataset.look]], erasing=config.erasing)

    def order(epoch: tf.Tensor) -> tf.data.Dataset:
        count = len(parts.rows)
        shuffled = tf.random.experimental.stateless_shuffle(
            tf.range(count), seed=tf.stack([seed, epoch])
        )
        mirrored = tf.gather(mirror_mask(count, epoch, seed), shuffled)
        rows = tf.gather(parts.rows, shuffled)
        return tf.data.Dataset.from_tensor_slices((rows, mirrored)).batch(parts.size)

    def read(step: tf.Tensor, chosen: tuple[tf.Tensor, tf.Tensor]) -> tuple[tf.Tensor, tf.Tensor]:
        (rows, mirrored), step_seed = chosen, tf.stack([seed, step])
        added = _draw(own, parts.own, step_seed)
        others = _draw(foreign, parts.outliers, step_seed)
        batch, photos = tf.gather(images, tf.concat([rows, others], 0)), tf.gather(images, added)
        if config.augmentation:
            mirrored = tf.pad(mirrored, [[0, parts.outliers]])
            batch = augment(batch, mirrored, step_seed, limits)
            photos = augment(photos, mirror_mask(parts.own, step, seed), step_seed, own_limits)
        count = tf.shape(rows)[0]
        known, target = tf.concat([batch[:count], photos], 0), tf.concat([rows, added], 0)
        target = tf.gather(targets, target)
        if config.augmentation and config.mixup:
            known, target = mixup(known, target, step_seed, config.mixup)
        target = tf.concat([target, tf.gather(targets, others)], 0)
        return tf.concat([known, batch[count:]], 0), target

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    steps = epochs.flat_map(order).enumerate(start=first_epoch * parts.steps)
    return steps.map(read).prefetch(PREFETCHED)


def _pictures(dataset: Dataset, config: TrainConfig) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the training images followed by the outliers, and the targets of both."""
    train, classes, smoothing = dataset.train, len(dataset.class_names), config.label_smoothing
    targets = tf.one_hot(train.labels, classes) * (1 - smoothing) + smoothing / classes
    count = round(config.outliers * len(train.labels))
    if not count:
        return tf.constant(train.images), targets
    images = np.concatenate([train.images, draw_outliers(dataset, count, config.seed)])
    padding = [[0, count], [0, 0]]
    return tf.constant(images), tf.pad(targets, padding, constant_values=1 / classes)


def _draw(rows: NDArray[np.int64], count: int, seed: tf.Tensor) -> tf.Tensor:
    """Return `count` of the rows at random, with repetitions."""
    if not count:
        return tf.zeros(0, tf.int64)
    # The inverted seed makes the choice independent of the changes by `augment`.
    chosen = tf.random.stateless_uniform((count,), tf.bitwise.invert(seed), 0, len(rows), tf.int32)
    return tf.gather(rows, chosen)


def validation_batches(split: Split, classes: int) -> tf.data.Dataset:
    """Return batches of a split in order; Keras reads them much faster than arrays."""
    return tf.data.Dataset.from_tensor_slices(
        (split.images, tf.one_hot(split.labels, classes))
    ).batch(VALIDATION_BATCH)
