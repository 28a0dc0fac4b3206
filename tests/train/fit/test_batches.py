"""Batches: their order, the user's own pictures, and outliers."""

from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from loupe.images.spec import Look, UInt8Array
from tests.support import pictures
from train.config import FULL_BATCH, TrainConfig, recipe
from train.data.datasets import Dataset, Split
from train.fit.batches import OWN_REPEATS, batches, mixture

CONFIG = recipe("cnn", batch_size=8, augmentation=False, outliers=0.0)
VARIED = replace(CONFIG, augmentation=True, erasing=0.5, mixup=0.4, outliers=0.25)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Return 32 training images."""
    return pictures.shapes()


def with_own(dataset: Dataset, count: int) -> Dataset:
    """Add own pictures, uniformly grey, to a data set."""
    grey = np.full((count, 28, 28), 100, np.uint8)
    own = Split(grey, np.arange(count) % 3).as_own()
    return replace(dataset, train=dataset.train.concatenate(own))


def grey_rows(images: UInt8Array) -> list[bool]:
    return [bool((image == 100).all()) for image in images]


def test_targets_are_smoothed(dataset: Dataset) -> None:
    config = replace(CONFIG, label_smoothing=0.3)
    _, targets = next(iter(batches(dataset, config)))

    np.testing.assert_allclose(np.sort(targets, axis=1), [[0.1, 0.1, 0.8]] * 8, atol=1e-6)


def images_of(dataset: Dataset, config: TrainConfig, first_epoch: int, count: int) -> list[bytes]:
    return [
        images.numpy().tobytes() for images, _ in batches(dataset, config, first_epoch).take(count)
    ]


def test_each_epoch_shows_every_image_once_in_another_order(dataset: Dataset) -> None:
    config = CONFIG
    labels = [
        label
        for _, targets in batches(dataset, config).take(8)
        for label in targets.numpy().argmax(axis=1)
    ]

    assert sorted(labels[:32]) == sorted(labels[32:]) == sorted(dataset.train.labels.tolist())
    assert labels[:32] != labels[32:]


def test_a_resumed_training_sees_the_same_batches(dataset: Dataset) -> None:
    assert images_of(dataset, VARIED, 1, 4) == images_of(dataset, VARIED, 0, 8)[4:]


def test_the_last_batch_of_an_epoch_may_be_smaller(dataset: Dataset) -> None:
    config = replace(CONFIG, batch_size=20)

    assert [len(labels) for _, labels in batches(dataset, config).take(4)] == [20, 12, 20, 12]


def test_own_pictures_are_a_third_of_each_batch(dataset: Dataset) -> None:
    mixed = with_own(dataset, 12)
    config = replace(CONFIG, batch_size=12, outliers=0.25)

    for images, targets in batches(mixed, config).take(mixture(mixed, config).steps):
        assert grey_rows(images.numpy()) == [False] * 8 + [True] * 4 + [False] * 3
        np.testing.assert_allclose(targets[12:], 1 / 3)  # the outliers


def test_an_epoch_shows_the_other_images_once_beside_own_pictures(dataset: Dataset) -> None:
    mixed = with_own(dataset, 12)
    epoch = [
        images.numpy() for images, _ in batches(mixed, CONFIG).take(mixture(mixed, CONFIG).steps)
    ]
    shown = np.concatenate(epoch)
    shown = shown[~np.array(grey_rows(shown))]

    assert sorted(map(bytes, shown)) == sorted(map(bytes, dataset.train.images))


def test_a_few_own_pictures_do_not_fill_a_third() -> None:
    many = pictures.shapes()
    train = many.train.take(np.arange(3_000) % 32)
    parts = mixture(with_own(replace(many, train=train), 6), replace(CONFIG, batch_size=100))

    assert 0 < parts.own < 100 // 3
    assert parts.own * parts.steps <= OWN_REPEATS * 6 * 1.1


@pytest.mark.parametrize(
    ("own", "config"),
    [(0, CONFIG), (20, CONFIG), (12, replace(CONFIG, batch_size=FULL_BATCH))],
    ids=["none", "more than a third", "full batches"],
)
def test_other_training_splits_are_shuffled_as_a_whole(
    dataset: Dataset, own: int, config: TrainConfig
) -> None:
    parts = mixture(with_own(dataset, own), config)

    assert (len(parts.rows), parts.own) == (32 + own, 0)


@pytest.mark.parametrize(("look", "varied"), [("object", True), ("ink", False)])
def test_own_pictures_vary_as_photographs_unless_they_are_ink(
    dataset: Dataset, look: str, varied: bool
) -> None:
    mixed = replace(with_own(dataset, 12), look=cast("Look", look))
    config = replace(CONFIG, batch_size=12, augmentation=True)
    images, _ = next(iter(batches(mixed, config)))
    middles = images.numpy()[8:, 12:16, 12:16]

    assert (middles != 100).any() == varied  # their brightness


def test_a_resumed_training_sees_the_same_own_pictures(dataset: Dataset) -> None:
    mixed = with_own(dataset, 12)
    steps = mixture(mixed, VARIED).steps

    assert images_of(mixed, VARIED, 1, 2) == images_of(mixed, VARIED, 0, steps + 2)[steps:]
