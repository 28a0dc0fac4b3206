"""Data sets and their splits: images with labels, and the checks that they must pass."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InvalidDataset, InvalidUsage
from loupe.images.selection import SkippedFiles
from loupe.images.spec import Fit, ImageSpec, Look, UInt8Array
from loupe.models.card import check_class_names
from train.config import TrainConfig
from train.data.own.pictures import UnreadableFile

Int64Array: TypeAlias = NDArray[np.int64]

SPLITS = ("train", "validation", "test")
MIN_IMAGES = 10  # per class; with fewer, the test split measures nothing
TEST_FRACTION = 0.2  # of the images, if a user's data set has no test split
SAMPLE_SIZE = 10_000  # training images to evaluate on: the size of the usual test split
MAX_LISTED = 10  # names in an error
MAX_BYTES = 2**31  # of all images, normalised; training needs a multiple
DIGEST_DIGITS = 12  # of a fingerprint, 48 bits
SPLIT_SEED = 0  # splits belong to the data set, so they do not follow the training seed

Counts: TypeAlias = Mapping[str, Mapping[str, int]]
"""Name of a split → name of a class → number of images."""


@dataclass(frozen=True)
class Split:
    """Images and their labels.

    `images` are uint8, shape `(n, height, width)` or `(n, height, width, 3)`; of ink and objects,
    0 = background, 255 = full ink. `labels` are int64, shape `(n,)`, indices into the data set's
    class names.
    `names` are text, shape `(n,)`: the files of the images, or empty.
    `own` are bool, shape `(n,)`: marks the user's own pictures, if they were added to others.
    """

    images: UInt8Array
    labels: Int64Array
    names: NDArray[np.str_] = field(default_factory=lambda: np.empty(0, np.str_))
    own: NDArray[np.bool_] = field(default_factory=lambda: np.empty(0, np.bool_))

    def __post_init__(self) -> None:
        if not len(self.names):
            object.__setattr__(self, "names", np.full(len(self.labels), ""))
        if not len(self.own):
            object.__setattr__(self, "own", np.zeros(len(self.labels), np.bool_))

    def digest(self) -> str:
        """Return the SHA-256, in hex, of images and labels in their order."""
        return hashlib.sha256(self.images.tobytes() + self.labels.tobytes()).hexdigest()

    def take(self, rows: Int64Array) -> "Split":
        """Return the images at the indices `rows`, in that order."""
        return Split(self.images[rows], self.labels[rows], self.names[rows], self.own[rows])

    def concatenate(self, other: "Split") -> "Split":
        """Return these images followed by those of another split."""
        return Split(
            np.concatenate([self.images, other.images]),
            np.concatenate([self.labels, other.labels]),
            np.concatenate([self.names, other.names]),
            np.concatenate([self.own, other.own]),
        )

    def as_own(self) -> "Split":
        """Return the images, marked as the user's own."""
        return replace(self, own=np.ones(len(self.labels), np.bool_))

    def name_of(self, row: int) -> str:
        """Return the file of an image, or else its number, from 1."""
        return str(self.names[row]) or f"image {row + 1:,}"

    def shuffle(self, seed: int) -> "Split":
        """Return the images in a random order that follows from the seed."""
        return self.take(np.random.default_rng(seed).permutation(len(self.labels)))

    def sample(self, seed: int) -> "Split":
        """Return `SAMPLE_SIZE` random images, or all of them if there are not more."""
        count = len(self.labels)
        if count <= SAMPLE_SIZE:
            return self
        return self.take(np.random.default_rng(seed).choice(count, SAMPLE_SIZE, replace=False))

    def divide(self, fraction: float, seed: int) -> tuple["Split", "Split"]:
        """Split off `fraction` (0..1) of each class, and return the rest and that part, shuffled.

        Raises:
            InvalidUsage: If a class would be missing from one of the two.
        """
        from sklearn.model_selection import train_test_split

        classes = np.unique(self.labels)
        reason = None
        try:
            rest, part = train_test_split(
                np.arange(len(self.labels)),
                test_size=float(fraction),
                stratify=self.labels,
                random_state=seed,
            )
        except ValueError as error:
            reason = error
        if reason or any(
            not np.array_equal(np.unique(self.labels[rows]), classes) for rows in (rest, part)
        ):
            raise InvalidUsage(
                f"Cannot split off a fraction of {fraction:g} of {len(self.labels):,} images in "
                f"{len(classes):,} classes: each class needs an image on both sides.",
                code="impossible_fraction",
            ) from reason
        return self.take(rest), self.take(part)

    def counts(self, class_names: tuple[str, ...]) -> dict[str, int]:
        """Return the number of images of each class."""
        numbers = np.bincount(self.labels, minlength=len(class_names))
        return dict(zip(class_names, numbers.tolist(), strict=True))


SINGLE_SYMBOLS = frozenset({"mnist", "digits"})  # data sets of images with one centred symbol


@dataclass(frozen=True)
class Dataset:
    """The images that train and test a classifier.

    Attributes:
        name: Name of the models in the store.
        class_names: In the order of the labels.
        look: Look of the images, to which users' pictures are normalised.
        fit: How photos get the size of the images.
        extra: Test split of the user's own pictures, if some were added to the training split.
        translations: Class names in other languages, by ISO 639-1 code.
        full_ink: Highest value of the images.
        unreadable: Pictures of the folder that are not in the data set.
        skipped: Numbers of other files of the folder, by reason and suffix.
        colour_share: Fraction, 0..1, of the pictures that had colours before they became grey.
        test_from_train: The test split was taken from images that came without one.
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
    unreadable: tuple[UnreadableFile, ...] = ()
    skipped: SkippedFiles = field(default_factory=dict)
    colour_share: float = 0.0
    test_from_train: bool = False
    fit: Fit = "crop"

    @property
    def spec(self) -> ImageSpec:
        """The images that models of this data set take.

        Raises:
            InvalidUsage: If the images are too small for a stored model.
        """
        images = self.train.images
        height, width = images.shape[1:3]
        channels: Literal[1, 3] = 1 if images.ndim == 3 else 3
        single = self.name in SINGLE_SYMBOLS
        try:
            return ImageSpec(self.look, height, width, channels, self.fit, single)
        except ValueError as error:
            raise InvalidUsage(
                f"Models in the store take other images than those of '{self.name}': {error}. "
                "Use it in sweeps and notebooks.",
                code="invalid_training",
            ) from error

    def splits(self) -> dict[str, Split]:
        """Return the splits that exist, by name."""
        names = ("train", "validation", "test", "extra")
        return {name: split for name in names if (split := getattr(self, name)) is not None}

    def fingerprint(self) -> dict[str, str]:
        """Return a short digest of the class names and of each split, with its number of images.

        Equal fingerprints mean the same images in the same splits.
        """
        names = hashlib.sha256("\0".join(self.class_names).encode()).hexdigest()
        splits = {
            name: f"{len(split.labels):,} images {split.digest()[:DIGEST_DIGITS]}"
            for name, split in self.splits().items()
        }
        return {"classes": f"{len(self.class_names):,} names {names[:DIGEST_DIGITS]}", **splits}

    def content_digest(self) -> str:
        """Return a digest of images and classes that does not depend on order and splits."""
        images = sorted(
            hashlib.sha256(image.tobytes() + label.tobytes()).digest()
            for split in self.splits().values()
            for image, label in zip(split.images, split.labels, strict=True)
        )
        return hashlib.sha256(b"".join(images) + "\0".join(self.class_names).encode()).hexdigest()


def hold_out(dataset: Dataset, config: TrainConfig) -> Dataset:
    """Return the data set with a validation split, taken from the training split if it has none.

    Every class gives the same fraction; the seed determines the images.
    """
    from sklearn.model_selection import train_test_split

    images, classes = len(dataset.train.labels), len(dataset.class_names)
    count = round(images * config.validation_fraction)
    if dataset.validation or not count:
        return dataset
    counts = np.bincount(dataset.train.labels)
    stratified = count >= classes and counts[counts > 0].min() >= 2
    if images - count < (classes if stratified else 1):
        raise InvalidUsage(
            f"A validation fraction of {config.validation_fraction:g} leaves {images - count:,} of "
            f"{images:,} images for the training of {classes} classes. Lower --validation.",
            code="impossible_fraction",
        )
    kept, held_out = train_test_split(
        np.arange(images),
        test_size=count,
        stratify=dataset.train.labels if stratified else None,
        random_state=config.seed,
    )
    return replace(dataset, train=dataset.train.take(kept), validation=dataset.train.take(held_out))


def check_classes(folder: str, class_names: tuple[str, ...]) -> None:
    """Raise `InvalidDataset` if there are fewer than two classes, or a name is not possible."""
    if len(class_names) < 2:
        found = f"one class, '{class_names[0]}'" if class_names else "no class"
        raise InvalidDataset(
            f"'{folder}' has images of {found}; a classifier needs at least two classes. "
            "In folder:DIR, each folder is a class.",
            code="one_class",
        )
    try:
        check_class_names(class_names)
    except ValueError as error:
        raise InvalidDataset(
            f"'{folder}' cannot be trained on: {error}.", code="invalid_class_names"
        ) from error


def check_counts(folder: str, counts: Counts) -> None:
    """Raise `InvalidDataset` unless the splits have the same classes, and enough images of each."""
    for split, numbers in counts.items():
        if not sum(numbers.values()):
            raise InvalidDataset(f"The {split} split of '{folder}' is empty.", code="empty_split")
    trained = {name for name, count in counts["train"].items() if count}
    for split in counts.keys() - {"train"}:
        present = {name for name, count in counts[split].items() if count}
        if present != trained:
            missing, unknown = quoted(sorted(trained - present)), quoted(sorted(present - trained))
            raise InvalidDataset(
                f"The {split} split of '{folder}' must have the classes of the train split. "
                f"Missing: {missing or 'none'}. Not in train: {unknown or 'none'}.",
                code="classes_differ",
            )
    names = dict.fromkeys(name for numbers in counts.values() for name in numbers)
    totals = {name: sum(numbers.get(name, 0) for numbers in counts.values()) for name in names}
    few = [f"'{name}' has {total}" for name, total in totals.items() if total < MIN_IMAGES]
    if few:
        raise InvalidDataset(
            f"Each class in '{folder}' needs at least {MIN_IMAGES} readable images; "
            f"{listed(few)}. Add images or remove the class.",
            code="too_few_images",
        )


def check_bytes(folder: str, images: int, spec: ImageSpec) -> None:
    """Raise `InvalidDataset` if so many images take too much memory."""
    if images * spec.nbytes > MAX_BYTES:
        raise InvalidDataset(
            f"{images:,} images of {spec} pixels in '{folder}' take {images * spec.nbytes:,} "
            f"bytes; the limit is {MAX_BYTES:,}. Use fewer images or a smaller --size.",
            code="too_many_images",
        )


def quoted(names: Iterable[str]) -> str:
    """Return names in quotes, as `listed` does."""
    return listed([f"'{name}'" for name in names])


def listed(items: Sequence[object]) -> str:
    """Return items separated by commas; of more than `MAX_LISTED`, the first and a count."""
    more = len(items) - MAX_LISTED
    return ", ".join(map(str, items[:MAX_LISTED])) + (f" and {more:,} more" if more > 0 else "")
