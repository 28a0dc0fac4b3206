"""A user's own labelled pictures, added to a data set with the same classes."""

import csv
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from loupe.errors import InvalidDataset
from loupe.files import read_text
from loupe.images.selection import Skipped
from train.data.own.folders import expand_user, list_folder, read_listing
from train.data.splits import Dataset, listed, quoted

HEADER = ("folder", "class")  # optional first line of a mapping file
PREFIX = "folder:"
MAX_SHOWN = 100  # characters of a line in an error


def add_pictures(dataset: Dataset, folder: str | Path, mapping: Path | None = None) -> Dataset:
    """Add own pictures to the training split, and hold some out as the `extra` split.

    The folder has one folder per class, as for `folder:DIR`. Pictures are normalised to the look of
    the data set. A fifth of them, or their `test` folder, becomes `extra`; the others are appended
    to `train`. Their `validation` folder is added to the data set's validation split, or to `train`
    if it has none. The test split does not change, so that accuracies remain comparable.

    `mapping` is a CSV file in UTF-8 with two cells per line, folder and class. Several folders can
    have the same class; an empty class leaves the folder out. Other folders must be named like a
    class, ignoring case.

    Raises:
        InvalidUsage: If the images are too small, or the folder does not exist.
        InvalidDataset: If a folder has no class, or the pictures or the mapping cannot be used.
    """
    spec = dataset.spec
    listing = list_folder(expand_user(str(folder).removeprefix(PREFIX)))
    named = read_mapping(mapping, dataset.class_names) if mapping else {}
    class_of = _assign(listing.folder, listing.class_names(), dataset.class_names, named, mapping)
    extra = read_listing(listing.renamed(class_of), dataset.class_names, spec)
    train, validation = dataset.train.concatenate(extra.train.as_own()), dataset.validation
    if extra.validation is not None and validation is not None:
        validation = validation.concatenate(extra.validation.as_own())
    elif extra.validation is not None:
        train = train.concatenate(extra.validation.as_own())
    count = sum(len(split.labels) for split in extra.splits().values())
    skipped = Skipped()
    skipped.update(dataset.skipped)
    skipped.update(extra.skipped)
    return replace(
        dataset,
        train=train,
        validation=validation,
        extra=extra.test,
        source=f"{dataset.source}; with {count:,} {extra.source}",
        unreadable=dataset.unreadable + extra.unreadable,
        skipped=skipped.files,
    )


def read_mapping(path: Path, class_names: tuple[str, ...]) -> dict[str, str | None]:
    """Return the class of each folder in a mapping file; `None` for folders to leave out."""
    try:
        rows = list(csv.reader(read_text(path).splitlines()))
    except (OSError, ValueError, csv.Error) as error:
        raise _invalid(f"'{path}' is not a CSV file in UTF-8: {error}", class_names) from error
    mapping: dict[str, str | None] = {}
    for number, row in enumerate(rows, start=1):
        cells = tuple(cell.strip() for cell in row)
        line = f"Line {number} of '{path}'"
        if not any(cells) or (number == 1 and tuple(map(str.casefold, cells)) == HEADER):
            continue
        if len(cells) != 2:
            shown = ",".join(cells)[:MAX_SHOWN]
            raise _invalid(
                f"{line} has {len(cells)} cells instead of folder and class: '{shown}'", class_names
            )
        folder, name = _composed(cells[0]), find_class(cells[1], class_names)
        if cells[1] and name is None:
            raise _invalid(f"{line} names an unknown class '{cells[1][:MAX_SHOWN]}'", class_names)
        if folder in mapping:
            raise _invalid(f"{line} repeats the folder '{folder[:MAX_SHOWN]}'", class_names)
        mapping[folder] = name
    return mapping


def find_class(name: str, class_names: tuple[str, ...]) -> str | None:
    """Return the class with that name, or the only one that differs from it in case alone."""
    name = _composed(name)
    if name in class_names:
        return name
    alike = [known for known in class_names if _composed(known).casefold() == name.casefold()]
    return alike[0] if len(alike) == 1 else None


def _assign(
    folder: Path,
    names: Iterable[str],
    class_names: tuple[str, ...],
    mapping: Mapping[str, str | None],
    mapping_file: Path | None,
) -> dict[str, str | None]:
    """Return the class of each folder below `folder`; `None` for folders to leave out."""
    keys = {name: _composed(name) for name in names}
    class_of = {
        name: mapping[key] if key in mapping else find_class(key, class_names)
        for name, key in keys.items()
    }
    unknown = [name for name in keys if class_of[name] is None and keys[name] not in mapping]
    if missing := sorted(mapping.keys() - set(keys.values())):
        problem = f"'{mapping_file}' has folders that are not in '{folder}': {quoted(missing)}"
    elif unknown:
        problem = (
            f"These folders of '{folder}' have no class: {quoted(unknown)}. "
            "Name them like a class, or map them with --extra-classes"
        )
    elif not any(class_of.values()):
        problem = f"No folder of '{folder}' has a class"
    else:
        return class_of
    raise _invalid(problem, class_names)


def _invalid(problem: str, class_names: tuple[str, ...]) -> InvalidDataset:
    return InvalidDataset(
        f"{problem}. The classes are: {listed(class_names)}.", code="invalid_mapping"
    )


def _composed(name: str) -> str:
    """Return a name in Unicode's composed form; macOS stores file names decomposed."""
    return unicodedata.normalize("NFC", name)
