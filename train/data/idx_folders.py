"""`idx:DIR`: a user's own data set in four IDX files, named as MNIST's."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from loupe.errors import InvalidDataset
from loupe.files import printable, read_text
from loupe.images import idx
from loupe.images.header import MIN_SIDE
from loupe.images.normalize import normalize
from loupe.images.spec import SIDE, Look, UInt8Array
from loupe.models.card import check_class_names
from loupe.settings import load_settings
from loupe.text import one_line
from train.data.folders import check_folder, slug
from train.data.splits import Dataset, Int64Array, Split, check_classes, check_counts, listed

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CLASS_NAMES_FILE = "classes.txt"  # UTF-8; line n names the class of label n - 1
MAX_IMAGES = 1_000_000  # per file; normalised, they take 784 MB


def find_file(folder: Path, name: str) -> Path | None:
    """Return the path of a file that may be gzipped, or `None`."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.exists()), None)


def load_idx_folder(folder: Path, look: Look) -> Dataset:
    """Load a user's own IDX files, plain or gzipped.

    Images may be grey and of any size; `normalize` changes them as it changes pictures sent to the
    service, and leaves 28 × 28 on a dark background as it is. The lines of `classes.txt` name the
    classes; without it, the labels' numbers do. Files that cannot be trained on are refused.
    """
    check_folder(folder)
    _check_shapes(folder)
    train_images, train_labels, test_images, test_labels = (
        read_idx(folder, name) for name in FILES
    )
    class_names, known = _classes(folder, train_labels, test_labels)
    check_classes(str(folder), class_names)
    train = Split(train_images, np.searchsorted(known, train_labels).astype(np.int64))
    test = Split(test_images, np.searchsorted(known, test_labels).astype(np.int64))
    counts = {"train": train.counts(class_names), "test": test.counts(class_names)}
    check_counts(str(folder), counts)
    name = folder.resolve().name
    return Dataset(
        slug(name),
        class_names,
        look,
        train=replace(train, images=_normalize(train_images, look)),
        test=replace(test, images=_normalize(test_images, look)),
        source=f"own IDX files from the folder {one_line(printable(name))}",
    )


def _check_shapes(folder: Path) -> None:
    """Check the headers of all files before any values are read."""
    shapes = [read_shape(folder, name) for name in FILES]
    for split, images, labels in (("train", *shapes[:2]), ("test", *shapes[2:])):
        if images[0] != labels[0]:
            raise InvalidDataset(
                f"The {split} split of '{folder}' has {images[0]:,} images, but "
                f"{labels[0]:,} labels.",
                code="counts_differ",
            )


def read_idx(folder: Path, name: str) -> UInt8Array:
    """Return the array of a file that may be gzipped, or raise `InvalidDataset`."""
    read_shape(folder, name)
    with _existing(folder, name) as path:
        return idx.read(path)


def read_shape(folder: Path, name: str) -> tuple[int, ...]:
    """Return the shape of a file's array, or raise `InvalidDataset` if Loupe cannot use it."""
    max_pixels = load_settings().max_image_pixels
    with _existing(folder, name) as path:
        shape = idx.read_shape(path)
        if "labels" in name and len(shape) != 1:
            raise ValueError(f"labels must have shape (n,), not {shape}")
        if "images" in name and (len(shape) != 3 or min(shape[1:]) < MIN_SIDE):
            raise ValueError(
                "images must have shape (n, height, width) with sides of at least "
                f"{MIN_SIDE} pixels, not {shape}"
            )
        if math.prod(shape[1:]) > max_pixels:
            raise ValueError(
                f"images of {shape[1]:,} × {shape[2]:,} have more than {max_pixels:,} pixels "
                "(LOUPE_MAX_IMAGE_PIXELS)"
            )
        if shape[0] > MAX_IMAGES:
            raise ValueError(f"it holds {shape[0]:,} items; the limit is {MAX_IMAGES:,}")
        return shape


@contextmanager
def _existing(folder: Path, name: str) -> Iterator[Path]:
    """Yield the path of a file that may be gzipped, and name it in errors of the block."""
    path = find_file(folder, name)
    try:
        if path is None:
            raise ValueError("neither it nor a .gz of that name exists")
        yield path
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InvalidDataset(
            f"Cannot use the IDX file '{path or folder / name}': {reason}.", code="invalid_idx"
        ) from error


def _normalize(images: UInt8Array, look: Look) -> UInt8Array:
    """Return uint8 `(n, 28, 28)`."""
    normalized = np.empty((len(images), SIDE, SIDE), np.uint8)
    for row, image in enumerate(images):
        normalized[row] = normalize(image, look)
    return normalized


def _classes(
    folder: Path, train_labels: UInt8Array, test_labels: UInt8Array
) -> tuple[tuple[str, ...], UInt8Array | Int64Array]:
    """Return the class names, and the label of each in the files."""
    path = folder / CLASS_NAMES_FILE
    if not path.exists():
        known = np.unique(np.concatenate([train_labels, test_labels]))
        return tuple(map(str, known)), known
    class_names = _read_class_names(path)
    for split, labels in (("train", train_labels), ("test", test_labels)):
        outside = np.unique(labels[labels >= len(class_names)]).tolist()
        if outside:
            raise InvalidDataset(
                f"'{path}' names {len(class_names)} classes, so labels go from 0 to "
                f"{len(class_names) - 1}; the {split} split also has {listed(outside)}.",
                code="labels_outside",
            )
    return class_names, np.arange(len(class_names))


def _read_class_names(path: Path) -> tuple[str, ...]:
    try:
        names = tuple(line.strip() for line in read_text(path).rstrip().splitlines())
        check_class_names(names)
    except (OSError, ValueError) as error:
        raise InvalidDataset(
            f"'{path}' must name a different class in each line: {error}.",
            code="invalid_class_names",
        ) from error
    return names
