"""Images with their labels: one split of a data set, and all of them together."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from loupe.images.spec import Look, UInt8Array
from loupe.old_errors.train import (
    ClassesDiffer,
    EmptySplit,
    ImpossibleFraction,
    OneClass,
    TooFewImages,
)
from train.data.pictures import LeftOut

Int64Array: TypeAlias = NDArray[np.int64]

MIN_IMAGES = 10  # of a class; fewer leave a test split of one, which measures nothing
TEST_FRACTION = 0.2  # of the images, where a user's own data set brings no test split
SAMPLE = 10_000  # images of a training split that are measured: as many as the usual test split has
SPLIT_SEED = 0  # a split is part of the data set, so it does not follow the training seed

Counts: TypeAlias = Mapping[str, Mapping[str, int]]
"""Name of a split → name of a class → images."""


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    `images` are uint8, shape `(n, height, width)`, 0 = background, 255 = full ink: 28 × 28 wherever a model is to be stored;
    `labels` are int64, shape `(n,)`, indices into the data set's class names.
    """

    images: UInt8Array
    labels: Int64Array

    def digest(self) -> str:
        """SHA-256, in hex, of the images and their labels: equal only for the same pictures in the same order."""
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()

    def take(self, rows: Int64Array) -> "Split":
        """Some of the images, in the order of `rows`."""
        return Split(self.images[rows], self.labels[rows])

    def joined(self, other: "Split") -> "Split":
        """These images and then those of another split."""
        return Split(
            np.concatenate([self.images, other.images]), np.concatenate([self.labels, other.labels])
        )

    def shuffled(self, seed: int) -> "Split":
        """The same images in another order, the same for the same seed."""
        return self.take(np.random.default_rng(seed).permutation(len(self.labels)))

    def sample(self, seed: int) -> "Split":
        """All of the images, or `SAMPLE` of them where there are more; the same ones for the same seed."""
        count = len(self.labels)
        return (
            self
            if count <= SAMPLE
            else self.take(np.random.default_rng(seed).choice(count, SAMPLE, replace=False))
        )

    def divided(self, fraction: float, seed: int) -> tuple["Split", "Split"]:
        """Two splits in which every class has its part, both shuffled: the rest, and `fraction` (0..1) of the images.

        Raises:
            ImpossibleFraction: If one of the two would be without some class.
        """
        from sklearn.model_selection import train_test_split

        classes = np.unique(self.labels)
        try:
            rest, part = train_test_split(
                np.arange(len(self.labels)),
                test_size=float(fraction),
                stratify=self.labels,
                random_state=seed,
            )
        except ValueError as error:
            raise ImpossibleFraction(fraction, len(self.labels), len(classes)) from error
        if not all(np.array_equal(np.unique(self.labels[rows]), classes) for rows in (rest, part)):
            raise ImpossibleFraction(fraction, len(self.labels), len(classes))
        return self.take(rest), self.take(part)

    def counts(self, class_names: tuple[str, ...]) -> dict[str, int]:
        """Images of each class."""
        numbers = np.bincount(self.labels, minlength=len(class_names))
        return dict(zip(class_names, numbers.tolist(), strict=True))


@dataclass(frozen=True)
class Dataset:
    """What a classifier is trained on, and what it is measured with.

    Attributes:
        name: What a model of it is called in the store.
        class_names: In the order of the labels.
        look: How the images look, which is how a user's picture is made to look.
        train: Seen in training.
        test: Never seen before the last figures.
        validation: Held back from training to choose by, where the data set brings such a split of its own.
        extra: The test split of a user's own pictures, where such were mixed into training; measured by itself.
        source: Where the data comes from, for the model card.
        licence: Of the data, for the model card.
        translations: The class names in other languages, by their ISO 639-1 codes.
        full_ink: The value of full ink in the images.
        left_out: Pictures that are in the folder and, because they cannot be read, not in the data set.
    """

    name: str
    class_names: tuple[str, ...]
    look: Look
    train: Split
    test: Split
    validation: Split | None = None
    extra: Split | None = None
    source: str = "not stated"
    licence: str = "not stated"
    translations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    full_ink: int = 255
    left_out: tuple[LeftOut, ...] = ()

    def splits(self) -> dict[str, Split]:
        """The splits there are, by name."""
        splits = {
            "train": self.train,
            "validation": self.validation,
            "test": self.test,
            "extra": self.extra,
        }
        return {name: split for name, split in splits.items() if split is not None}


def check_classes(where: str, class_names: tuple[str, ...]) -> None:
    """Refuse what leaves nothing to tell apart: `OneClass`."""
    if len(class_names) < 2:
        raise OneClass(where, class_names)


def check_counts(where: str, counts: Counts) -> None:
    """Refuse splits that cannot be trained on or measured with.

    Args:
        where: The folder, for the message.
        counts: Images of each class in each split; `train` is one of them.

    Raises:
        EmptySplit: If a split has no images.
        ClassesDiffer: If a split lacks a class of the train split, or has another.
        TooFewImages: If a class has fewer than `MIN_IMAGES` in all splits together.
    """
    for split, numbers in counts.items():
        if not sum(numbers.values()):
            raise EmptySplit(where, split)
    trained = {name for name, count in counts["train"].items() if count}
    for split in counts.keys() - {"train"}:
        present = {name for name, count in counts[split].items() if count}
        if present != trained:
            raise ClassesDiffer(where, split, sorted(trained - present), sorted(present - trained))
    names = dict.fromkeys(name for numbers in counts.values() for name in numbers)
    totals = {name: sum(numbers.get(name, 0) for numbers in counts.values()) for name in names}
    few = {name: total for name, total in totals.items() if total < MIN_IMAGES}
    if few:
        raise TooFewImages(where, few, MIN_IMAGES)
