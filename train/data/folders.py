"""`folder:DIR`: pictures that a user has sorted into one folder per class."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loupe.errors import InvalidDataset, InvalidUsage
from loupe.files import printable, walk_files
from loupe.images.decode import SUFFIXES
from loupe.images.spec import Look
from loupe.text import one_line
from train.data.pictures import UnreadableFile, read_pictures
from train.data.splits import (
    SPLIT_SEED,
    TEST_FRACTION,
    Counts,
    Dataset,
    Split,
    check_classes,
    check_counts,
    quoted,
)

SPLITS = ("train", "validation", "test")  # folders with these names that hold folders of classes
MAX_NAME_LENGTH = 50  # BentoML takes 63 characters; derived names may be longer


@dataclass(frozen=True)
class Listing:
    """The files of a data set: split → class → paths below `folder`, in a stable order."""

    folder: Path
    splits: Mapping[str, Mapping[str, tuple[str, ...]]]

    def class_names(self) -> tuple[str, ...]:
        """Return the classes of all splits, in natural order."""
        names = {name for classes in self.splits.values() for name in classes}
        return tuple(sorted(names, key=natural_order))

    def counts(self) -> Counts:
        """Return the number of files of each class in each split."""
        return {
            split: {name: len(paths) for name, paths in classes.items()}
            for split, classes in self.splits.items()
        }

    def renamed(self, class_of: Mapping[str, str | None]) -> "Listing":
        """Return the files under other classes; leave out folders with the class `None`."""
        splits: dict[str, dict[str, tuple[str, ...]]] = {}
        for split, classes in self.splits.items():
            merged = splits.setdefault(split, {})
            for folder, paths in classes.items():
                if (name := class_of[folder]) is not None:
                    merged[name] = merged.get(name, ()) + paths
        return Listing(self.folder, splits)


def load_folder(
    folder: Path,
    look: Look,
    test_fraction: float | None = None,
    split_seed: int = SPLIT_SEED,
) -> Dataset:
    """Load a user's own pictures; the folders' names are the class names.

    All files below a class's folder count as pictures, except hidden ones; those that cannot be
    read are listed in `unreadable`. Without a `test` folder, `test_fraction` of each class becomes
    the test split.

    Raises:
        InvalidUsage: If the folder does not exist, or has a `test` folder and a fraction is given.
        InvalidDataset: If the pictures cannot be trained on.
    """
    listing = list_folder(folder)
    class_names = listing.class_names()
    check_classes(str(folder), class_names)
    if test_fraction is None:
        test_fraction = TEST_FRACTION
    elif "test" in listing.splits:
        raise InvalidUsage(
            f"The data set 'folder:{folder}' has a test/ folder, so it takes no test fraction.",
            code="invalid_dataset_option",
        )
    return read_listing(listing, class_names, look, test_fraction, split_seed)


def expand_user(path: str | Path) -> Path:
    """Replace `~` by the home folder, if there is one."""
    return Path(os.path.expanduser(path))  # noqa: PTH111 - pathlib raises if the user has no home


def is_folder(path: Path) -> bool:
    """Return whether a folder exists at a path, which may be any text."""
    return os.path.isdir(path)  # noqa: PTH112 - pathlib raises for names that are too long


def check_folder(folder: Path) -> None:
    """Raise `InvalidUsage` if there is no folder at a path."""
    if not is_folder(folder):
        exists = os.path.exists(folder)  # noqa: PTH110
        raise InvalidUsage(
            f"'{folder}' is a file, not a folder." if exists else f"There is no folder '{folder}'.",
            code="folder_not_found",
        )


def list_folder(folder: Path) -> Listing:
    """List the files of each class without opening them."""
    check_folder(folder)
    try:
        names = _folders(folder)
        if not any(_is_split(folder / name) for name in names):
            return Listing(folder, {"train": _classes(folder, folder)})
        if unknown := [f"{name}/" for name in names if name not in SPLITS]:
            raise InvalidDataset(
                f"'{folder}' has split folders, but also {quoted(unknown)}. "
                "Rename or move these; only train/, validation/ and test/ are splits.",
                code="unknown_split",
            )
        return Listing(
            folder,
            {
                name: _classes(folder, folder / name) if name in names else {}
                for name in SPLITS
                if name in ("train", *names)
            },
        )
    except OSError as error:
        raise InvalidDataset(
            f"The folder '{error.filename}' cannot be listed: {error.strerror}.",
            code="folder_unreadable",
        ) from error


def read_listing(
    listing: Listing,
    class_names: tuple[str, ...],
    look: Look,
    test_fraction: float = TEST_FRACTION,
    split_seed: int = SPLIT_SEED,
) -> Dataset:
    """Read the listed pictures as a data set of these classes."""
    check_counts(str(listing.folder), listing.counts())  # before spending time on the pictures
    splits: dict[str, Split] = {}
    unreadable: list[UnreadableFile] = []
    for name, classes in listing.splits.items():
        files = [classes.get(class_name, ()) for class_name in class_names]
        paths = [path for paths in files for path in paths]
        labels = np.repeat(np.arange(len(files), dtype=np.int64), [len(paths) for paths in files])
        images, kept, failed = read_pictures(listing.folder, paths, look)
        splits[name] = Split(images, labels[kept])
        unreadable += failed
    listed = listing.class_names()
    readable = {name: split.counts(class_names) for name, split in splits.items()}
    check_counts(
        str(listing.folder),
        {split: {name: counts[name] for name in listed} for split, counts in readable.items()},
    )
    if "test" in splits:
        train, test = splits["train"].shuffle(split_seed), splits["test"]
    else:
        train, test = splits["train"].divide(test_fraction, split_seed)
    name = listing.folder.resolve().name
    return Dataset(
        slug(name),
        class_names,
        look,
        train=train,
        test=test,
        validation=splits.get("validation"),
        source=f"own pictures from the folder {one_line(printable(name))}",
        unreadable=tuple(unreadable),
    )


def slug(name: str) -> str:
    """Return a model name that BentoML accepts: lower-case letters, digits, `-`, `_` and `.`."""
    text = re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:MAX_NAME_LENGTH]
    return text.strip("-._") or "pictures"


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts `img2` before `img10`, ignoring case."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if index % 2 else part.casefold() for index, part in enumerate(parts)], name


def _is_split(folder: Path) -> bool:
    """Return whether a folder is a split; a folder `train` that holds pictures is a class."""
    return folder.name in SPLITS and not any(
        Path(name).suffix.lower() in SUFFIXES and not is_folder(folder / name)
        for name in _visible(folder)
    )


def _classes(top: Path, folder: Path) -> dict[str, tuple[str, ...]]:
    """Return the files of each class, as paths below `top`."""
    below = {name: (folder / name).relative_to(top) for name in _folders(folder)}
    return {
        printable(name): tuple(f"{path}/{file}" for file in walk_files(top / path))
        for name, path in below.items()
    }


def _folders(folder: Path) -> list[str]:
    names = [name for name in _visible(folder) if is_folder(folder / name)]
    return sorted(names, key=natural_order)


def _visible(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if not name.startswith(".")]  # noqa: PTH208
