"""`folder:DIR`: pictures that a user has sorted into one folder per class."""

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, pairwise
from pathlib import Path

import numpy as np

from loupe.errors import InvalidDataset, InvalidUsage
from loupe.files import printable
from loupe.images.folder import holds_pictures, pictures
from loupe.images.selection import Skipped, SkippedFiles, is_hidden
from loupe.images.spec import ImageSpec
from loupe.text import one_line
from train.data.own.pictures import UnreadableFile, read_pictures
from train.data.splits import (
    SPLIT_SEED,
    SPLITS,
    TEST_FRACTION,
    Counts,
    Dataset,
    Split,
    check_bytes,
    check_classes,
    check_counts,
    quoted,
)

# Usual names of folders that hold the folders of classes, with one group for each of `SPLITS`.
SPLIT_NAME = re.compile(
    r"(?:(train(?:ing)?)|(val(?:id(?:ation)?)?|dev)|(test(?:ing)?))[-_ ]?(?:set|data|images)?",
    re.IGNORECASE,
)
MAX_NAME_LENGTH = 50  # BentoML takes 63 characters; derived names may be longer


@dataclass(frozen=True)
class Listing:
    """The files of a data set: split → class → paths below `folder`, in a stable order.

    Attributes:
        skipped: Other files in the folder.
    """

    folder: Path
    splits: Mapping[str, Mapping[str, tuple[str, ...]]]
    skipped: SkippedFiles = field(default_factory=dict)

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
        return Listing(self.folder, splits, self.skipped)


def load_folder(
    folder: Path,
    spec: ImageSpec,
    test_fraction: float | None = None,
    split_seed: int = SPLIT_SEED,
) -> Dataset:
    """Load a user's own pictures; the folders' names are the class names.

    Pictures are selected as those of a folder to score. Those that cannot be read are listed in
    `unreadable`, and other files are counted in `skipped`. Without a `test` folder,
    `test_fraction` of each class becomes the test split.

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
    return read_listing(listing, class_names, spec, test_fraction, split_seed)


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
    """List the pictures of each class.

    Raises:
        InvalidUsage: If the folder does not exist.
        InvalidDataset: If it cannot be listed, or has folders that may be splits or classes.
    """
    check_folder(folder)
    try:
        top = _unwrapped(folder)
        nested = [name for name in _folders(top) if _holds_folders(top / name)]
        split_folders = {split: name for name in nested if (split := split_of(name))}
        if not split_folders:
            _refuse_unknown_splits(top, nested)
            return _listing(folder, {"train": top})
        rest = [name for name in _folders(top) if name not in split_folders.values()]
        if others := [f"{name}/" for name in rest if _has_files(top / name)]:
            raise InvalidDataset(
                f"'{top}' has split folders, but also {quoted(others)}. Rename or move these; "
                "the splits are train/, validation/ and test/.",
                code="unknown_split",
            )
        return _listing(
            folder,
            {
                split: _unwrapped(top / split_folders[split]) if split in split_folders else None
                for split in SPLITS
                if split in ("train", *split_folders)
            },
        )
    except OSError as error:
        raise InvalidDataset(
            f"The folder '{error.filename}' cannot be listed: {error.strerror}.",
            code="folder_unreadable",
        ) from error


def split_of(name: str) -> str | None:
    """Return the split that a folder's name means, as `test` for `Testing_Set`."""
    match = SPLIT_NAME.fullmatch(name)
    return SPLITS[match.lastindex - 1] if match and match.lastindex else None


def read_listing(
    listing: Listing,
    class_names: tuple[str, ...],
    spec: ImageSpec,
    test_fraction: float = TEST_FRACTION,
    split_seed: int = SPLIT_SEED,
) -> Dataset:
    """Read the listed pictures as a data set of these classes."""
    # Checks before spending time and memory on the pictures.
    counts = listing.counts()
    check_counts(str(listing.folder), counts)
    check_bytes(str(listing.folder), sum(sum(each.values()) for each in counts.values()), spec)
    splits: dict[str, Split] = {}
    unreadable: list[UnreadableFile] = []
    coloured: list[float] = []
    for name, classes in listing.splits.items():
        files = [classes.get(class_name, ()) for class_name in class_names]
        splits[name], failed, share = _read_split(listing.folder, files, spec)
        coloured.append(share)
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
        spec.look,
        train=train,
        test=test,
        validation=splits.get("validation"),
        source=f"own pictures from the folder {one_line(printable(name))}",
        unreadable=tuple(unreadable),
        skipped=listing.skipped,
        colour_share=max(coloured),
        test_from_train="test" not in splits,
        fit=spec.fit,
    )


def _read_split(
    folder: Path, files: Sequence[Sequence[str]], spec: ImageSpec
) -> tuple[Split, list[UnreadableFile], float]:
    """Return the pictures of a split, its unreadable files, and the fraction that lost colours."""
    paths = [path for paths in files for path in paths]
    labels = np.repeat(np.arange(len(files), dtype=np.int64), [len(paths) for paths in files])
    images, kept, failed, lost_colours = read_pictures(folder, paths, spec)
    names = np.array([printable(paths[row]) for row in kept])
    return Split(images, labels[kept], names), failed, lost_colours


def slug(name: str) -> str:
    """Return a model name that BentoML accepts: lower-case letters, digits, `-`, `_` and `.`."""
    text = re.sub(r"[^a-z0-9._-]+", "-", name.lower())[:MAX_NAME_LENGTH]
    return text.strip("-._") or "pictures"


def natural_order(name: str) -> tuple[list[str | int], str]:
    """Return a sort key that puts `img2` before `img10` and `-1` before `0`, ignoring case."""
    parts = re.split(r"(^-[0-9]+|[0-9]+)", name)
    return [int(part) if index % 2 else part.casefold() for index, part in enumerate(parts)], name


def _unwrapped(folder: Path) -> Path:
    """Enter folders that only hold one folder of folders, as archives often have them."""
    while len(names := _folders(folder)) == 1 and _holds_folders(folder):
        inner = folder / names[0]
        begins_split = split_of(inner.name) and not split_of(folder.name)
        if begins_split or inner.is_symlink() or not _holds_folders(inner):
            break
        folder = inner
    return folder


def _holds_folders(folder: Path) -> bool:
    """Return whether a folder holds folders, and no pictures next to them."""
    return bool(_folders(folder)) and not holds_pictures(folder)


def _refuse_unknown_splits(top: Path, nested: list[str]) -> None:
    """Raise `InvalidDataset` if folders look like splits, as they hold the same classes."""
    inside = Counter(
        name.casefold() for folder in nested for name in set(_folders(_unwrapped(top / folder)))
    )
    shared = sorted(name for name, count in inside.items() if count > 1)
    if len(shared) > 1:
        raise InvalidDataset(
            f"Folders of '{top}' hold folders of the same names: {quoted(shared)}, in "
            f"{quoted(f'{name}/' for name in nested)}. If these are splits, name them train/, "
            "validation/ and test/. If they are classes, move their pictures out of the folders "
            "inside.",
            code="unknown_split",
        )


def _listing(folder: Path, splits: Mapping[str, Path | None]) -> Listing:
    """List a folder, of which these folders hold the classes of each split."""
    classes: dict[str, dict[str, list[str]]] = {}
    by_path: dict[str, list[str]] = {}
    for split, top in splits.items():
        of_split = classes.setdefault(split, {})
        for class_folder in [top / name for name in _folders(top)] if top else []:
            files = of_split.setdefault(printable(class_folder.name), [])
            by_path[class_folder.relative_to(folder).as_posix()] = files
    _refuse_repeated(folder, by_path)
    skipped = Skipped()
    for file, _ in pictures(folder, skipped):
        above = accumulate(file.split("/")[:-1], "{}/{}".format)
        if path := next(filter(by_path.__contains__, above), None):
            by_path[path].append(file)
        else:
            skipped.add("no_class", file)
    kept = {
        printable(Path(path).name)
        for path, files in by_path.items()
        if files or _has_files(folder / path) or not any(by_path.values())
    }
    listed = {
        split: {name: tuple(files) for name, files in of_split.items() if name in kept}
        for split, of_split in classes.items()
    }
    return Listing(folder, listed, skipped.files)


def _has_files(folder: Path) -> bool:
    """Return whether a file that is not hidden is in a folder, so that it may be a class."""
    return any(not is_hidden(name) for _, _, names in os.walk(folder) for name in names)


def _refuse_repeated(folder: Path, paths: Iterable[str]) -> None:
    """Raise `InvalidDataset` if links make the folders of two classes or splits one folder."""
    real = sorted((Path(os.path.realpath(folder / path)).parts, path) for path in paths)
    for (outer, path), (inner, other) in pairwise(real):
        if inner[: len(outer)] == outer:
            raise InvalidDataset(
                f"'{path}' and '{other}' in '{folder}' lead to the same pictures. Each class of "
                "each split needs its own.",
                code="repeated_folder",
            )


def _folders(folder: Path) -> list[str]:
    names = os.listdir(folder)  # noqa: PTH208
    visible = [name for name in names if not is_hidden(name) and is_folder(folder / name)]
    return sorted(visible, key=natural_order)
