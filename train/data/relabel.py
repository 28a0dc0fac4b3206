"""Corrections of labels, from the table of `loupe data check` or any with the same columns."""

import csv
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from loupe.errors import InvalidDataset
from loupe.files import read_text
from train.data.own.extra import find_class
from train.data.splits import Dataset, Split, check_counts, quoted

COLUMNS = ("image", "label")  # and `split`, which may be missing
MAX_BYTES = 64 * 2**20  # of a table


def relabelled(dataset: Dataset, path: Path) -> Dataset:
    """Return the data set with the labels of a CSV file; an empty label leaves the image out.

    Its columns are `image`, a file or number as `loupe data check` names it, and `label`, a class.
    `split` is needed where two splits have an image of the same name. Others are ignored.

    Raises:
        InvalidDataset: If the file cannot be read, names an unknown image or class, or leaves too
            few images of a class.
    """
    splits = dataset.splits()
    labels = {name: split.labels.copy() for name, split in splits.items()}
    kept = {name: np.ones(len(split.labels), bool) for name, split in splits.items()}
    rows_of = {name: _rows(split) for name, split in splits.items()}
    for place, row in _read(path):
        split = _split_of(row, rows_of, place)
        index = rows_of[split][row["image"]]
        name = find_class(row["label"], dataset.class_names)
        if row["label"] and name is None:
            raise _invalid(f"{place} names an unknown class '{row['label']}'", dataset.class_names)
        if name is None:
            kept[split][index] = False
        else:
            labels[split][index] = dataset.class_names.index(name)
    corrected = {
        name: replace(split, labels=labels[name]).take(np.flatnonzero(kept[name]))
        for name, split in splits.items()
    }
    counts = {name: split.counts(dataset.class_names) for name, split in corrected.items()}
    check_counts(str(path), counts)
    return replace(
        dataset,
        train=corrected["train"],
        test=corrected["test"],
        validation=corrected.get("validation"),
    )


def _read(path: Path) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Yield the place of each line, for errors, and its cells by column."""
    try:
        lines = csv.DictReader(read_text(path, MAX_BYTES).splitlines())
        missing = [name for name in COLUMNS if name not in (lines.fieldnames or ())]
        if missing:
            raise _invalid(f"'{path}' has no column {quoted(missing)}")
        for row in lines:
            cells = {name: (row.get(name) or "").strip() for name in ("split", *COLUMNS)}
            yield f"Line {lines.line_num} of '{path}'", cells
    except (OSError, ValueError, csv.Error) as error:
        raise _invalid(f"'{path}' is not a CSV file in UTF-8: {error}") from error


def _rows(split: Split) -> dict[str, int]:
    return {split.name_of(row): row for row in range(len(split.labels))}


def _split_of(row: Mapping[str, str], rows_of: Mapping[str, Mapping[str, int]], place: str) -> str:
    """Return the split that has the image of a line."""
    image, asked = row["image"], row["split"]
    found = [name for name, rows in rows_of.items() if image in rows and asked in ("", name)]
    if len(found) == 1:
        return found[0]
    if found:
        raise _invalid(f"{place}: the splits {quoted(found)} have '{image}'; add a column split")
    raise _invalid(f"{place} names an unknown image '{image}'" + (f" of {asked}" if asked else ""))


def _invalid(problem: str, class_names: tuple[str, ...] = ()) -> InvalidDataset:
    classes = f" Classes: {quoted(class_names)}." if class_names else ""
    return InvalidDataset(f"{problem}.{classes}", code="invalid_relabelling")
