"""`idx:DIR`: a data set of anyone's as four IDX files, named as MNIST's are."""

from pathlib import Path
from typing import TypeAlias

import numpy as np

from loupe.images import idx
from loupe.images.decode import MIN_SIDE
from loupe.images.normalize import normalize
from loupe.images.spec import Look, UInt8Array
from loupe.old_errors.train import CountsDiffer, InvalidClassNames, InvalidIdx, LabelsOutside
from train.data.folders import check_folder, slug
from train.data.pictures import printable
from train.data.splits import Dataset, Int64Array, Split, check_classes, check_counts

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CLASS_NAMES_FILE = "classes.txt"  # UTF-8; line n names the class of label n - 1

Arrays: TypeAlias = tuple[UInt8Array, UInt8Array, UInt8Array, UInt8Array]
"""In the order of `FILES`."""


def find_file(folder: Path, name: str) -> Path | None:
    """The file of that name, plain or gzipped."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def fingerprint(folder: Path) -> str:
    """Changes when one of the files is written again."""
    files = [find_file(folder, name) for name in FILES] + [folder / CLASS_NAMES_FILE]
    statuses = [(path.name, path.stat()) for path in files if path is not None and path.is_file()]
    return repr([(name, status.st_size, status.st_mtime_ns) for name, status in statuses])


def load_idx_folder(folder: Path, *, look: Look) -> Dataset:
    """A user's own IDX files: `train-images-idx3-ubyte` and so on, each plain or `.gz`.

    Images may be grey pictures of any size; as a picture that is sent to the service, each is made to look like training data by
    `loupe.images.normalize`, which leaves 28 × 28 on a dark ground as it is. Classes are named by the lines of `classes.txt` beside
    the files; without it, by the numbers that occur as labels.

    Raises:
        FolderNotFound: If the folder is not there.
        InvalidDataset: If what is in it cannot be trained on; each subclass says what is wrong.
    """
    check_folder(folder)
    train_images, train_labels, test_images, test_labels = (_read(folder, name) for name in FILES)
    labels = {"train": train_labels, "test": test_labels}
    for split, images in (("train", train_images), ("test", test_images)):
        if len(images) != len(labels[split]):
            raise CountsDiffer(str(folder), split, len(images), len(labels[split]))
    class_names, numbers = _classes(folder, labels)
    check_classes(str(folder), class_names)
    train = Split(train_images, numbers["train"])
    test = Split(test_images, numbers["test"])
    check_counts(
        str(folder), {"train": train.counts(class_names), "test": test.counts(class_names)}
    )
    return Dataset(
        slug(folder.resolve().name),
        class_names,
        look,
        train=Split(_normalized(train_images, look), train.labels),
        test=Split(_normalized(test_images, look), test.labels),
        source=f"IDX files of one's own, from the folder {printable(folder.resolve().name)}",
    )


def _read(folder: Path, name: str) -> UInt8Array:
    path = find_file(folder, name)
    if path is None:
        raise InvalidIdx(str(folder / name), "an IDX file", "nothing, and no .gz of that name")
    try:
        array = idx.read(path)
    except (OSError, ValueError, EOFError) as error:
        raise InvalidIdx(str(path), "a whole IDX file of unsigned bytes", str(error)) from error
    if "labels" in name and array.ndim != 1:
        raise InvalidIdx(str(path), "labels of shape (n,)", f"shape {array.shape}")
    if "images" in name and (array.ndim != 3 or min(array.shape[1:]) < MIN_SIDE):
        raise InvalidIdx(
            str(path),
            f"images of shape (n, height, width), each side at least {MIN_SIDE} pixels",
            f"shape {array.shape}",
        )
    return array


def _classes(
    folder: Path, labels: dict[str, UInt8Array]
) -> tuple[tuple[str, ...], dict[str, Int64Array]]:
    """The class names, and the labels as their indices."""
    path = folder / CLASS_NAMES_FILE
    if path.is_file():
        class_names = _read_class_names(path)
        for split, values in labels.items():
            outside = np.unique(values[values >= len(class_names)])
            if len(outside):
                raise LabelsOutside(str(folder), split, len(class_names), outside.tolist())
        return class_names, {split: values.astype(np.int64) for split, values in labels.items()}
    known = np.unique(np.concatenate(list(labels.values())))
    indices = {
        split: np.searchsorted(known, values).astype(np.int64) for split, values in labels.items()
    }
    return tuple(str(number) for number in known), indices


def _read_class_names(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").rstrip().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidClassNames(str(path), str(error)) from error
    names = tuple(line.strip() for line in lines)
    for number, name in enumerate(names, start=1):
        if not name:
            raise InvalidClassNames(str(path), f"line {number} is empty")
        if name in names[: number - 1]:
            raise InvalidClassNames(str(path), f"'{name}' again in line {number}")
    return names


def _normalized(images: UInt8Array, look: Look) -> UInt8Array:
    return np.stack([normalize(image, look) for image in images])
