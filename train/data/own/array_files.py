"""`npz:PATH` and `csv:PATH`: a user's own data set in NumPy archives or in CSV files of pixels."""

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np

from loupe.errors import InvalidDataset, InvalidUsage
from loupe.files import open_regular
from loupe.images.arrays.npy import Header
from loupe.images.arrays.tables import Rows, read_head, read_layout, read_rows
from loupe.images.formats import collection_of
from loupe.images.spec import UInt8Array
from train.data.image_options import ImageOptions
from train.data.npz import read_npz
from train.data.own.arrays import (
    MAX_IMAGES,
    Arrays,
    Labels,
    as_images,
    as_labels,
    image_shape,
    make_dataset,
)
from train.data.own.folders import check_folder, is_folder
from train.data.splits import SPLIT_SEED, SPLITS, Dataset

MAX_BYTES = 2**31  # of one file's arrays or pixels; PathMNIST has 1.4 GB at 64 × 64
SPLIT = re.compile(r"(?:^|[^a-z])(?:(train)|(val(?:id(?:ation)?)?)|(test|t10k))(?:[^a-z]|$)")
ROLE = re.compile(r"(?:^|[^a-z])(?:(x|images?|imgs?|data|pixels)|(y|labels?|targets?))(?:[^a-z]|$)")
LABEL_COLUMNS = ("label", "labels", "class", "target", "y")


def load_files(
    kind: str,
    path: Path,
    options: ImageOptions,
    test_fraction: float | None = None,
    split_seed: int = SPLIT_SEED,
) -> Dataset:
    """Load a user's own data set of a kind, `npz` or `csv`, from a file or the files of a folder.

    The names of arrays and files say what they hold: `x_train` and `y_train`, `train_images` and
    `train_labels`, `k49-train-imgs.npz`, `fashion-mnist_train.csv`. If a CSV file is named that has
    `train` in its name, the file of that name with `test` instead is the test split.

    Raises:
        InvalidUsage: If there is nothing at the path.
        InvalidDataset: If the files cannot be trained on.
    """
    read = {"npz": _read_npz, "csv": _read_csv}[kind]
    splits = read(_find_files(kind, path))
    if "train" not in splits:
        raise InvalidDataset(
            f"'{path}' has no images to train on, or no labels for them.", code="empty_split"
        )
    return make_dataset(path, splits, options, test_fraction=test_fraction, split_seed=split_seed)


def _find_files(kind: str, path: Path) -> list[Path]:
    if not is_folder(path):
        if not path.exists():
            raise InvalidUsage(f"There is no file '{path}'.", code="folder_not_found")
        other = path.with_name(path.name.replace("train", "test"))
        return [path, other] if kind == "csv" and other != path and other.exists() else [path]
    check_folder(path)
    files = sorted(path.glob(f"*.{kind}"))
    if not files:
        raise InvalidDataset(f"The folder '{path}' has no .{kind} files.", code="empty_split")
    return files


def _split_of(name: str) -> str:
    match = SPLIT.search(name.lower())
    return SPLITS[match.lastindex - 1] if match and match.lastindex else "train"


def _read_npz(files: list[Path]) -> dict[str, Arrays]:
    """Return the splits in archives whose arrays, or files, are named like `x_train`."""
    images: dict[str, UInt8Array] = {}
    labels: dict[str, Labels] = {}
    for path in files:
        with _translating(path):
            for name, array in read_npz(path, MAX_BYTES, partial(_is_needed, path)).items():
                is_images, split = _meaning(path, name)
                if split in (images if is_images else labels):
                    raise ValueError(f"several arrays hold the {split} split, {name} is the second")
                if is_images:
                    images[split] = as_images(array)
                else:
                    labels[split] = as_labels(array)
    return {split: Arrays(images[split], labels[split]) for split in images if split in labels}


def _meaning(path: Path, name: str) -> tuple[bool | None, str]:
    """Return whether an array holds images or labels, `None` for neither, and the split."""
    known = path.stem if re.fullmatch(r"arr_[0-9]+", name) else name
    role = ROLE.search(known.lower())
    return None if role is None else role[1] is not None, _split_of(known)


def _is_needed(path: Path, name: str, header: Header) -> bool:
    """Return whether an array holds images or labels; raise `ValueError` if it cannot."""
    are_images, _ = _meaning(path, name)
    if are_images:
        image_shape(header.shape)
    elif are_images is not None and np.prod(header.shape) > MAX_IMAGES:
        raise ValueError(f"{name} holds more than {MAX_IMAGES:,} labels")
    return are_images is not None


def _read_csv(files: list[Path]) -> dict[str, Arrays]:
    """Return the splits in files of a column for each pixel; leave out those without labels."""
    splits: dict[str, Arrays] = {}
    for path in files:
        with _translating(path):
            found = _read_table(path)
        split = _split_of(path.stem) if len(files) > 1 else "train"
        if found is not None and split in splits:
            raise InvalidDataset(
                f"'{path}' is a second file of the {split} split.", code="several_datasets"
            )
        if found is not None:
            splits[split] = found
    return splits


def _read_table(path: Path) -> Arrays | None:
    """Return the images of a file and their labels; `None` if it has no labels."""
    pixels: list[UInt8Array] = []
    labels: list[str] = []
    with open_regular(path) as file:
        head = read_head(file)
        layout = read_layout(head)
        if layout is None:
            kind = collection_of(head)
            raise ValueError(f"it is {kind}" if kind else "it has no column for each pixel")
        file.seek(0)
        column = next((name for name in layout.others if name.lower() in LABEL_COLUMNS), None)
        if column is None:
            return None
        for rows in read_rows(file, layout, [column]):
            _check_rows(rows, len(labels), len(layout.names))
            pixels.append(rows.pixels)
            labels += rows.columns.column(0).to_pylist()
            if len(labels) > MAX_IMAGES:
                raise ValueError(f"it holds more than {MAX_IMAGES:,} images")
            if len(labels) * layout.spec.nbytes > MAX_BYTES:
                raise ValueError(f"its images take more than {MAX_BYTES:,} bytes")
    images = np.concatenate([np.empty((0, layout.spec.nbytes), np.uint8), *pixels])
    return Arrays(images.reshape(-1, *layout.spec.shape), _numbers_or_names(labels))


def _check_rows(rows: Rows, before: int, columns: int) -> None:
    """Raise `ValueError` for a row of another length, with wrong pixels, or without a label."""
    labels = rows.columns.column(0).to_pylist()
    for number, (label, is_valid) in enumerate(
        zip(labels, rows.are_valid, strict=True), before + 1
    ):
        if label is None:
            raise ValueError(f"row {number:,} has more or fewer than {columns:,} values")
        if not is_valid:
            raise ValueError(f"row {number:,} has other pixels than integers from 0 to 255")
        if not label.strip():
            raise ValueError(f"row {number:,} has no label")


def _numbers_or_names(labels: list[str]) -> Labels:
    """Return labels as numbers if all are."""
    try:
        numbers = np.array([float(label) for label in labels])
    except ValueError:
        return np.array(labels, np.str_)
    return as_labels(numbers)


@contextmanager
def _translating(path: Path) -> Iterator[None]:
    """Name the file in errors of the block."""
    try:
        yield
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, NotImplementedError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise InvalidDataset(f"Cannot use '{path}': {reason}.", code="invalid_arrays") from error
