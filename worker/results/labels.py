"""True labels: where they come from, and how often the model agrees with them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa

from loupe.jobs import ScoringOptions

LABEL_TRUE = "label_true"


def true_labels(
    ids: Sequence[str] | Sequence[int],
    columns: pa.Table | None,
    class_names: Sequence[str],
    options: ScoringOptions,
) -> pa.Array:
    """The true label of each record: text, null where there is none.

    A number that is no class name stands for the class at its place, as data sets have it. Other values stay as they are.

    Args:
        ids: Of the records.
        columns: What else the source says of them.
        class_names: Of the model.
        options: Where the labels come from.
    """
    if options.label_column is None or columns is None:
        return pa.array(
            [PurePosixPath(str(record)).parent.name or None for record in ids], pa.string()
        )
    return pa.array(
        [_name(value, class_names) for value in columns[options.label_column].to_pylist()],
        pa.string(),
    )


def agreement(
    pairs: Counter[tuple[str | None, str | None]], class_names: Sequence[str]
) -> dict[str, Any]:
    """Accuracy and confusion matrix, as the summary has them.

    Args:
        pairs: Rows by true and predicted label, of which either may be missing.
        class_names: Of the model; rows whose true label is none of them are not counted.
    """
    matrix = [[pairs[true, predicted] for predicted in class_names] for true in class_names]
    labelled = sum(map(sum, matrix))
    right = sum(matrix[place][place] for place in range(len(class_names)))
    return {
        "labelled": labelled,
        "accuracy": right / labelled if labelled else None,
        "confusion_matrix": matrix,
    }


def _name(value: object, class_names: Sequence[str]) -> str | None:
    if value is None or value == "":
        return None
    text = str(value)
    if text not in class_names and text.isdecimal() and int(text) < len(class_names):
        return class_names[int(text)]
    return text
