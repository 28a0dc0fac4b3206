"""A user's own labelled pictures, mixed into a data set of the same classes."""

import csv
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from loupe.images.spec import SIDE
from loupe.old_errors.train import InvalidDatasetOption, InvalidMapping
from loupe.settings import load_settings
from train.data.folders import expanded, list_folder, read_listing
from train.data.splits import SPLIT_SEED, TEST_FRACTION, Dataset

HEADER = ("folder", "class")  # of a mapping file; may be left out
PREFIX = "folder:"


def mix(dataset: Dataset, folder: str | Path, mapping: Path | None = None) -> Dataset:
    """The data set with pictures of one's own in its train split, and a part of them as its `extra` split.

    The pictures lie in one folder per class, as for `folder:DIR`, and are made to look like those of the data set. A fifth of them,
    or a `test` folder of their own, becomes `extra`; what is left is appended to `train`. A `validation` folder of theirs joins the
    data set's validation split, or `train` where it has none. The test split stays as it is, so that figures remain comparable.

    Args:
        dataset: Of 28 × 28 images.
        folder: Path of the folder; `folder:` before it is passed over.
        mapping: CSV file in UTF-8 with two cells a line, folder and class. Several folders may become one class; an empty class
            leaves a folder out. A folder that it does not name, as all without it, must have a class's very name, in capitals or
            not.

    Raises:
        InvalidDatasetOption: If the data set's images are of another size.
        FolderNotFound: If the folder is not there.
        InvalidMapping: If a folder has no class, or the mapping file is none.
        InvalidDataset: If what is in the folder cannot be trained on.
    """
    if dataset.train.images.shape[1:] != (SIDE, SIDE):
        height, width = dataset.train.images.shape[1:]
        raise InvalidDatasetOption(
            "pictures of your own", dataset.name, f"its images are {height} × {width}"
        )
    listing = list_folder(expanded(str(folder).removeprefix(PREFIX)))
    named = read_mapping(mapping, dataset.class_names) if mapping else {}
    class_of = _assign(listing.folder, listing.class_names(), dataset.class_names, named, mapping)
    extra = read_listing(
        listing.renamed(class_of),
        dataset.class_names,
        dataset.look,
        load_settings().max_image_pixels,
        TEST_FRACTION,
        SPLIT_SEED,
    )
    train, validation = dataset.train.joined(extra.train), dataset.validation
    if extra.validation is not None and validation is not None:
        validation = validation.joined(extra.validation)
    elif extra.validation is not None:
        train = train.joined(extra.validation)
    count = sum(len(split.labels) for split in extra.splits().values())
    return replace(
        dataset,
        train=train,
        validation=validation,
        extra=extra.test,
        source=f"{dataset.source}; with {count:,} {extra.source}",
        left_out=dataset.left_out + extra.left_out,
    )


def read_mapping(path: Path, class_names: tuple[str, ...]) -> dict[str, str | None]:
    """The class of each folder that a mapping file names; nothing for those it leaves out.

    Raises:
        InvalidMapping: If it cannot be read, or a line is not a folder and one of the classes.
    """
    try:
        rows = list(csv.reader(path.read_text(encoding="utf-8-sig").splitlines()))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InvalidMapping(str(path), "a CSV file in UTF-8", str(error), class_names) from error
    mapping: dict[str, str | None] = {}
    for number, row in enumerate(rows, start=1):
        cells = tuple(cell.strip() for cell in row)
        if not any(cells) or (number == 1 and tuple(map(str.casefold, cells)) == HEADER):
            continue
        if len(cells) != 2:
            received = f"{len(cells)}, '{','.join(cells)}'"
            raise InvalidMapping(
                str(path), f"two cells, folder and class, in line {number}", received, class_names
            )
        folder, name = _composed(cells[0]), find_class(cells[1], class_names)
        if cells[1] and name is None:
            raise InvalidMapping(
                str(path), f"a class of the data set in line {number}", f"'{cells[1]}'", class_names
            )
        if folder in mapping:
            raise InvalidMapping(
                str(path), "each folder once", f"'{folder}' again in line {number}", class_names
            )
        mapping[folder] = name
    return mapping


def find_class(name: str, class_names: tuple[str, ...]) -> str | None:
    """The class of that very name, or the only one that differs from it in capitals alone."""
    if _composed(name) in class_names:
        return _composed(name)
    alike = [
        known for known in class_names if _composed(known).casefold() == _composed(name).casefold()
    ]
    return alike[0] if len(alike) == 1 else None


def _assign(
    folder: Path,
    names: Iterable[str],
    class_names: tuple[str, ...],
    mapping: Mapping[str, str | None],
    mapping_file: Path | None,
) -> dict[str, str | None]:
    """The class of each folder below `folder`; none where it is left out."""
    class_of: dict[str, str | None] = {}
    unknown = []
    for name in names:
        key = _composed(name)
        class_of[name] = mapping[key] if key in mapping else find_class(name, class_names)
        if class_of[name] is None and key not in mapping:
            unknown.append(name)
    stray = mapping.keys() - {_composed(name) for name in class_of}
    if stray:
        raise InvalidMapping(
            str(mapping_file), f"only folders of '{folder}'", _listed(sorted(stray)), class_names
        )
    if unknown:
        wanted = "folders that a mapping file gives a class, or that have a class's very name,"
        raise InvalidMapping(str(folder), wanted, _listed(unknown), class_names)
    if not any(class_of.values()):
        raise InvalidMapping(str(folder), "at least one folder with a class", "none", class_names)
    return class_of


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


def _composed(name: str) -> str:
    """The name with accents as part of their letters; macOS stores file names with the two apart."""
    return unicodedata.normalize("NFC", name)
