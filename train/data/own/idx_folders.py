"""`idx:DIR`: a user's own data set in four IDX files, named as those of MNIST or EMNIST."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from loupe.errors import InvalidDataset
from loupe.files import read_text
from loupe.images.arrays import idx
from loupe.images.spec import UInt8Array
from train.data.image_options import ImageOptions
from train.data.own.arrays import (
    MAX_IMAGES,
    Arrays,
    as_images,
    check_lengths,
    image_shape,
    make_dataset,
)
from train.data.own.folders import check_folder, is_folder
from train.data.splits import Dataset, listed

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
EMNIST = "emnist-"
FIRST_FILE = re.compile(rf"(.+-){FILES[0].replace('-idx', '[-.]idx')}(?:\.gz)?")


def load_idx_folder(location: Path, options: ImageOptions) -> Dataset:
    """Load a user's own IDX files, plain or gzipped.

    Args:
        location: `DIR`, or `DIR/PREFIX` for one of several data sets in a folder, such as
            `DIR/emnist-letters`. EMNIST's images, published transposed, are turned.
        options: See `make_dataset`.
    """
    check_location(location)
    folder, prefix = _choose_set(location)
    shapes = [read_shape(folder, name, prefix) for name in FILES]  # before reading any values
    check_lengths(folder, "train", shapes[0][0], shapes[1][0])
    check_lengths(folder, "test", shapes[2][0], shapes[3][0])
    train_images, train_labels, test_images, test_labels = (
        read_idx(folder, name, prefix) for name in FILES
    )
    splits = {
        "train": Arrays(as_images(train_images), train_labels),
        "test": Arrays(as_images(test_images), test_labels),
    }
    if prefix.startswith(EMNIST):
        splits = {
            name: replace(split, images=split.images.swapaxes(1, 2))
            for name, split in splits.items()
        }
    names = _read_mapping(folder / f"{prefix}mapping.txt")
    dataset = make_dataset(folder, splits, options, class_names=names)
    return replace(dataset, name=prefix.rstrip("-")) if prefix else dataset


def check_location(location: Path) -> None:
    """Raise `InvalidUsage` unless a folder, or a data set in one, is at `DIR` or `DIR/PREFIX`."""
    prefix = f"{location.name}-"
    if is_folder(location) or find_file(location.parent, FILES[0], prefix) is None:
        check_folder(location)


def find_file(folder: Path, name: str, prefix: str = "") -> Path | None:
    """Return the path of one of `FILES`, or `None`.

    It may be gzipped. Kaggle's copies have a dot before `idx` or lie in folders of the same name;
    EMNIST's begin with a prefix and say `test` instead of `t10k`.
    """
    names = [f"{prefix}{name}", f"{prefix}{name}".replace("-idx", ".idx")]
    if prefix:
        names += [each.replace("t10k-", "test-") for each in names]
    paths = (
        folder / path
        for each in names
        for path in (each, f"{each}.gz", f"{each}/{each}", f"{each}.gz/{each}")
    )
    return next((path for path in paths if path.exists() and not path.is_dir()), None)


def read_idx(folder: Path, name: str, prefix: str = "") -> UInt8Array:
    """Return the array of a file that may be gzipped, or raise `InvalidDataset`."""
    read_shape(folder, name, prefix)
    with _existing(folder, name, prefix) as path:
        return idx.read(path)


def read_shape(folder: Path, name: str, prefix: str = "") -> tuple[int, ...]:
    """Return the shape of a file's array, or raise `InvalidDataset` if Loupe cannot use it."""
    with _existing(folder, name, prefix) as path:
        shape = idx.read_shape(path)
        if "images" in name:
            image_shape(shape)
        elif len(shape) != 1:
            raise ValueError(f"labels must have shape (n,), not {shape}")
        if shape[0] > MAX_IMAGES:
            raise ValueError(f"it holds {shape[0]:,} items; the limit is {MAX_IMAGES:,}")
        return shape


def _choose_set(location: Path) -> tuple[Path, str]:
    """Return the folder, and how the names of the files in it begin."""
    if not is_folder(location):
        return location.parent, f"{location.name}-"
    if find_file(location, FILES[0]):
        return location, ""
    prefixes = {match[1] for path in location.iterdir() if (match := FIRST_FILE.match(path.name))}
    if len(prefixes) > 1:
        sets = listed([f"idx:{location / prefix.rstrip('-')}" for prefix in sorted(prefixes)])
        raise InvalidDataset(
            f"'{location}' has several data sets. Name one: {sets}.", code="several_datasets"
        )
    return location, next(iter(prefixes), "")


@contextmanager
def _existing(folder: Path, name: str, prefix: str) -> Iterator[Path]:
    """Yield the path of a file that may be gzipped, and name it in errors of the block."""
    path = find_file(folder, name, prefix)
    try:
        if path is None:
            raise ValueError("neither it nor a .gz of that name exists")
        yield path
    except (OSError, ValueError, EOFError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InvalidDataset(
            f"Cannot use the IDX file '{path or folder / (prefix + name)}': {reason}.",
            code="invalid_idx",
        ) from error


def _read_mapping(path: Path) -> tuple[str, ...] | None:
    """Return the class names in EMNIST's mapping file: lines of a label and Unicode numbers."""
    try:
        rows = [line.split() for line in read_text(path).splitlines() if line.strip()]
        return tuple(chr(int(row[1])) for row in sorted(rows, key=lambda row: int(row[0])))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, IndexError, OverflowError) as error:
        raise InvalidDataset(
            f"'{path}' must have a label and the number of a character in each line.",
            code="invalid_class_names",
        ) from error
