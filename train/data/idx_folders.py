"""`idx:DIR`: a user's own data set in four IDX files, named as MNIST's."""

from pathlib import Path

import numpy as np

from loupe.errors import InvalidDataset
from loupe.files import printable
from loupe.images import idx
from loupe.images.decode import MIN_SIDE
from loupe.images.normalize import normalize
from loupe.images.spec import Look, UInt8Array
from train.data.folders import check_folder, slug
from train.data.splits import Dataset, Int64Array, Split, check_classes, check_counts

FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
CLASS_NAMES_FILE = "classes.txt"  # UTF-8; line n names the class of label n - 1


def find_file(folder: Path, name: str) -> Path | None:
    """Return the path of a file that may be gzipped, or `None`."""
    return next((path for path in (folder / name, folder / f"{name}.gz") if path.is_file()), None)


def fingerprint(folder: Path) -> str:
    """Return a text that changes if one of the files is modified."""
    files = [find_file(folder, name) for name in FILES] + [folder / CLASS_NAMES_FILE]
    statuses = [(path.name, path.stat()) for path in files if path is not None and path.is_file()]
    return repr([(name, status.st_size, status.st_mtime_ns) for name, status in statuses])


def load_idx_folder(folder: Path, *, look: Look) -> Dataset:
    """Load a user's own IDX files, plain or gzipped.

    Images may be grey and of any size; `normalize` changes them as it changes pictures sent to the
    service, and leaves 28 × 28 on a dark background as it is. The lines of `classes.txt` name the
    classes; without it, the labels' numbers do. Files that cannot be trained on are refused.
    """
    check_folder(folder)
    arrays = [read_idx(folder, name) for name in FILES]
    images = dict(zip(("train", "test"), arrays[::2], strict=True))
    labels = dict(zip(("train", "test"), arrays[1::2], strict=True))
    for split in images:
        if len(images[split]) != len(labels[split]):
            raise InvalidDataset(
                f"The {split} split of '{folder}' has {len(images[split]):,} images, but "
                f"{len(labels[split]):,} labels.",
                code="counts_differ",
            )
    class_names, indices = _classes(folder, labels)
    check_classes(str(folder), class_names)
    counts = {split: Split(images[split], indices[split]).counts(class_names) for split in images}
    check_counts(str(folder), counts)
    train, test = (
        Split(np.stack([normalize(image, look) for image in images[split]]), indices[split])
        for split in images
    )
    name = folder.resolve().name
    source = f"own IDX files from the folder {printable(name)}"
    return Dataset(slug(name), class_names, look, train=train, test=test, source=source)


def read_idx(folder: Path, name: str) -> UInt8Array:
    """Return the array of a file that may be gzipped, or raise `InvalidDataset`."""
    path = find_file(folder, name)
    if path is None:
        raise _invalid_idx(folder / name, "neither it nor a .gz of that name exists")
    try:
        array = idx.read(path)
    except (OSError, ValueError, EOFError) as error:
        raise _invalid_idx(path, str(error)) from error
    if "labels" in name and array.ndim != 1:
        raise _invalid_idx(path, f"labels must have shape (n,), not {array.shape}")
    if "images" in name and (array.ndim != 3 or min(array.shape[1:]) < MIN_SIDE):
        raise _invalid_idx(
            path,
            f"images must have shape (n, height, width) with sides of at least {MIN_SIDE} pixels, "
            f"not {array.shape}",
        )
    return array


def _invalid_idx(path: Path, reason: str) -> InvalidDataset:
    return InvalidDataset(f"Cannot use the IDX file '{path}': {reason}.", code="invalid_idx")


def _classes(
    folder: Path, labels: dict[str, UInt8Array]
) -> tuple[tuple[str, ...], dict[str, Int64Array]]:
    """Return the class names, and the labels as their indices."""
    path = folder / CLASS_NAMES_FILE
    if path.is_file():
        class_names = _read_class_names(path)
        for split, values in labels.items():
            outside = np.unique(values[values >= len(class_names)]).tolist()
            if outside:
                shown = ", ".join(map(str, outside[:5])) + (", …" if len(outside) > 5 else "")
                raise InvalidDataset(
                    f"'{path}' names {len(class_names)} classes, so labels go from 0 to "
                    f"{len(class_names) - 1}; the {split} split also has {shown}.",
                    code="labels_outside",
                )
        return class_names, {split: values.astype(np.int64) for split, values in labels.items()}
    known = np.unique(np.concatenate(list(labels.values())))
    indices = {
        split: np.searchsorted(known, values).astype(np.int64) for split, values in labels.items()
    }
    return tuple(map(str, known)), indices


def _read_class_names(path: Path) -> tuple[str, ...]:
    problem: object = None
    names: list[str] = []
    try:
        names = [line.strip() for line in path.read_text("utf-8-sig").rstrip().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        problem = error
    for number, name in enumerate(names, start=1):
        if not name:
            problem = f"line {number} is empty"
        elif name in names[: number - 1]:
            problem = f"line {number} repeats '{name}'"
    if problem:
        raise InvalidDataset(
            f"'{path}' must name a different class in each line: {problem}.",
            code="invalid_class_names",
        )
    return tuple(names)
