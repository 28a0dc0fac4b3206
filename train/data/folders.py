"""`folder:DIR`: pictures that a user has sorted into one folder per class."""

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import numpy as np

from loupe.images.decode import SUFFIXES
from loupe.images.spec import Look
from loupe.old_errors.train import (
    FolderNotFound,
    FolderUnreadable,
    InvalidDatasetOption,
    UnknownSplit,
)
from train.data.pictures import LeftOut, printable, read_pictures
from train.data.splits import (
    SPLIT_SEED,
    TEST_FRACTION,
    Counts,
    Dataset,
    Split,
    check_classes,
    check_counts,
)

SPLITS = (
    "train",
    "validation",
    "test",
)  # folders of these names, with folders of classes in them, are splits
MAX_NAME_LENGTH = 50  # BentoML takes 63 characters, and what is made of a name may be longer


@dataclass(frozen=True)
class Listing:
    """The files of a data set: path of the folder, and split → class → paths below it. All in a stable order."""

    folder: Path
    splits: Mapping[str, Mapping[str, tuple[str, ...]]]

    def class_names(self) -> tuple[str, ...]:
        """The classes of all splits, in the order of their labels: by name, numbers by their value."""
        return tuple(
            sorted(
                {name for classes in self.splits.values() for name in classes}, key=natural_order
            )
        )

    def counts(self) -> Counts:
        """Files of each class in each split."""
        return {
            split: {name: len(paths) for name, paths in classes.items()}
            for split, classes in self.splits.items()
        }

    def renamed(self, class_of: Mapping[str, str | None]) -> "Listing":
        """The same files under other classes; several may become one, and a folder of no class is left out."""
        splits: dict[str, dict[str, tuple[str, ...]]] = {}
        for split, classes in self.splits.items():
            merged = splits.setdefault(split, {})
            for folder, paths in classes.items():
                name = class_of[folder]
                if name is not None:
                    merged[name] = merged.get(name, ()) + paths
        return Listing(self.folder, splits)

    def fingerprint(self) -> str:
        """Changes when a file is added, removed, moved, or written again."""
        hashed = hashlib.sha256()
        for split, classes in self.splits.items():
            for name, paths in classes.items():
                hashed.update(repr((split, name)).encode())
                for path in paths:
                    file = self.folder / path
                    status = (
                        file.stat() if file.exists() else file.lstat()
                    )  # a link may lead nowhere
                    hashed.update(repr((path, status.st_size, status.st_mtime_ns)).encode())
        return hashed.hexdigest()


def load_folder(
    folder: Path,
    *,
    look: Look,
    max_pixels: int,
    test_fraction: float | None = None,
    split_seed: int = SPLIT_SEED,
) -> Dataset:
    """A user's own pictures; their classes are the names of the folders they lie in.

    Every visible file below a class's folder is taken for a picture; those that cannot be read are listed in `left_out`. Without a
    `test` folder of its own, a data set has `test_fraction` of its pictures split off, class by class.

    Raises:
        FolderNotFound: If the folder is not there.
        InvalidDatasetOption: If a fraction is given, and the folder has a test split of its own.
        InvalidDataset: If what is in it cannot be trained on; each subclass says what is wrong.
    """
    listing = list_folder(folder)
    check_classes(str(folder), listing.class_names())
    if test_fraction is not None and "test" in listing.splits:
        raise InvalidDatasetOption(
            "a test fraction", f"folder:{folder}", "it has a test/ folder of its own"
        )
    fraction = TEST_FRACTION if test_fraction is None else test_fraction
    return read_listing(listing, listing.class_names(), look, max_pixels, fraction, split_seed)


def expanded(place: str | Path) -> Path:
    """The path that a user wrote, `~` being their home; where that has none, it stays as it is."""
    return Path(os.path.expanduser(place))  # noqa: PTH111 - pathlib raises for the home of nobody


def is_folder(path: Path) -> bool:
    """Whether there is a folder of that name, which may be any text."""
    return os.path.isdir(path)  # noqa: PTH112 - pathlib raises for names that are too long


def check_folder(folder: Path) -> None:
    """Refuse what is no folder: `FolderNotFound`."""
    if not is_folder(folder):
        there = os.path.exists(folder)  # noqa: PTH110
        raise FolderNotFound(str(folder), "a file" if there else "nothing; no such folder")


def list_folder(folder: Path) -> Listing:
    """The files of each class, before any of them is opened."""
    check_folder(folder)
    names = _folders(folder)
    if not any(_is_split(folder / name) for name in names):
        return Listing(folder, {"train": _classes(folder, folder)})
    unknown = [name for name in names if name not in SPLITS]
    if unknown:
        raise UnknownSplit(str(folder), unknown)
    return Listing(
        folder,
        {
            name: _classes(folder, folder / name) if name in names else {}
            for name in SPLITS
            if name in {"train", *names}
        },
    )


def read_listing(
    listing: Listing,
    class_names: tuple[str, ...],
    look: Look,
    max_pixels: int,
    test_fraction: float = TEST_FRACTION,
    split_seed: int = SPLIT_SEED,
) -> Dataset:
    """The listed pictures as a data set of these classes."""
    where = str(listing.folder)
    check_counts(
        where, listing.counts()
    )  # tells what can be told before the pictures take their time
    splits: dict[str, Split] = {}
    left_out: list[LeftOut] = []
    for name, classes in listing.splits.items():
        splits[name], missing = _read_split(listing.folder, classes, class_names, look, max_pixels)
        left_out += missing
    listed = listing.class_names()
    readable = {name: split.counts(class_names) for name, split in splits.items()}
    check_counts(
        where, {name: {key: counts[key] for key in listed} for name, counts in readable.items()}
    )
    if "test" in splits:
        train, test = splits["train"].shuffled(split_seed), splits["test"]
    else:
        train, test = splits["train"].divided(test_fraction, split_seed)
    return Dataset(
        slug(listing.folder.resolve().name),
        class_names,
        look,
        train=train,
        test=test,
        validation=splits.get("validation"),
        source=f"pictures of one's own, from the folder {printable(listing.folder.resolve().name)}",
        left_out=tuple(left_out),
    )


def slug(name: str) -> str:
    """A name of a model, as BentoML takes it: lower-case letters, digits, and `-`, `_`, `.` between them."""
    text = re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:MAX_NAME_LENGTH]
    return text.strip("-._") or "pictures"


def natural_order(name: str) -> tuple[list[str | int], str]:
    """A key to sort by: `img2` before `img10`, without regard to case."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if index % 2 else part.casefold() for index, part in enumerate(parts)], name


def _read_split(
    folder: Path,
    classes: Mapping[str, tuple[str, ...]],
    class_names: tuple[str, ...],
    look: Look,
    max_pixels: int,
) -> tuple[Split, list[LeftOut]]:
    paths = [path for name in class_names for path in classes.get(name, ())]
    labels = np.repeat(
        np.arange(len(class_names)), [len(classes.get(name, ())) for name in class_names]
    )
    images, kept, left_out = read_pictures(folder, paths, look, max_pixels)
    return Split(images, labels[kept].astype(np.int64)), left_out


def _is_split(folder: Path) -> bool:
    """Whether a folder called `train`, `validation` or `test` holds classes; one that holds pictures is a class itself."""
    return folder.name in SPLITS and not any(
        entry.is_file() and Path(entry.name).suffix.lower() in SUFFIXES
        for entry in _visible(folder)
    )


def _classes(top: Path, folder: Path) -> dict[str, tuple[str, ...]]:
    """Paths, below `top`, of the files of each class."""
    return {printable(name): tuple(_files(top, folder / name)) for name in _folders(folder)}


def _folders(folder: Path) -> list[str]:
    return sorted((entry.name for entry in _visible(folder) if entry.is_dir()), key=natural_order)


def _visible(folder: Path) -> list[os.DirEntry[str]]:
    try:
        return [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        _refuse(error)


def _files(top: Path, folder: Path) -> Iterator[str]:
    for root, folders, files in os.walk(folder, onerror=_refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = Path(root).relative_to(top)
        yield from (str(below / name) for name in sorted(files) if not name.startswith("."))


def _refuse(error: OSError) -> NoReturn:
    raise FolderUnreadable(str(error.filename), str(error.strerror)) from error
