"""True labels, and how often the model agrees with them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from loupe.jobs import ScoringOptions

LABEL_TRUE = "label_true"


def true_labels(
    ids: Sequence[str] | Sequence[int],
    columns: pa.Table,
    class_names: Sequence[str],
    options: ScoringOptions,
) -> pa.Array:
    """Return the true label of each record: text, null if it has none.

    A number that is no class name is the index of a class, as in data sets.
    """
    if options.label_column is None:
        labels = [PurePosixPath(str(record)).parent.name or None for record in ids]
    else:
        values = columns[options.label_column].to_pylist()
        labels = [_label(value, class_names) for value in values]
    return pa.array(labels, pa.string())


def agreement(
    pairs: Counter[tuple[str | None, str | None]], class_names: Sequence[str]
) -> dict[str, Any]:
    """Return accuracy and confusion matrix of rows, counted by true and predicted label.

    Rows with a true label that is not among `class_names` do not count.
    """
    matrix = [[pairs[true, predicted] for predicted in class_names] for true in class_names]
    labelled = sum(map(sum, matrix))
    correct = sum(matrix[index][index] for index in range(len(class_names)))
    return {
        "labelled": labelled,
        "accuracy": correct / labelled if labelled else None,
        "confusion_matrix": matrix,
    }


def _label(value: object, class_names: Sequence[str]) -> str | None:
    if value is None or value == "" or value != value:  # NaN, pandas' mark of a missing number
        return None
    # A column of integers of which some are missing is one of floats, in CSV files written as 9.0.
    text = str(int(value) if isinstance(value, float) and value.is_integer() else value)
    text = text if text in class_names else text.removesuffix(".0")
    is_index = text not in class_names and text.isdecimal() and int(text) < len(class_names)
    return class_names[int(text)] if is_index else text
