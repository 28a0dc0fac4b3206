"""The rows of results, with the same columns in Parquet, CSV and JSON lines."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from loupe.conversion import MAX_ROWS, encode_rows
from loupe.errors import InvalidRequest
from loupe.images.spec import Float32Array
from loupe.jobs import FOLDER_LABELS, ScoringOptions
from loupe.models.answers import BLANK, abstentions
from loupe.models.engines.engine import Outputs
from loupe.results import Format, merge_files
from worker.results.labels import LABEL_TRUE, true_labels
from worker.sources.source import ColumnTypes

LABEL, CONFIDENCE, FAMILIARITY = "label", "confidence", "familiarity"
# Beginnings of texts that spreadsheets evaluate. Source: OWASP, "CSV Injection".
FORMULA, ESCAPED = re.compile(r"\A([=+\-@\t\r\n])"), r"'\1"
MAX_LISTED_COLUMNS = 12  # in error messages
TEXT_IDS = ColumnTypes()


def table(
    ids: Sequence[str] | Sequence[int],
    probabilities: Float32Array,
    class_names: Sequence[str],
    options: ScoringOptions,
    kept: pa.Table | None = None,
    types: ColumnTypes = TEXT_IDS,
    blank: NDArray[np.bool_] | None = None,
    familiarity: Float32Array | None = None,
) -> pa.Table:
    """Return the rows of a result. Names, options and types alone decide on their schema.

    Args:
        ids: Of the records.
        probabilities: float32, shape `(len(ids), classes)`.
        class_names: Of the model.
        options: Columns, threshold and minimum familiarity.
        kept: Requested columns of the source, a row for each id; `None` if there is no row.
        types: Types of the ids and of these columns.
        blank: Which rows are of blank pictures; they get no label.
        familiarity: float32, shape `(len(ids),)`, NaN if it is not known; `None` if none is.
    """
    if familiarity is None:
        familiarity = np.full(len(ids), np.nan, np.float32)
    if blank is None:
        blank = np.zeros(len(ids), bool)
    outputs = Outputs(probabilities, familiarity)
    kept = types.kept.empty_table() if kept is None else kept
    names = pa.array(class_names, pa.string())
    order = _most_probable(probabilities, options.top_k)
    columns = {"id": pa.array(ids, types.id)}
    for rank in range(min(options.top_k, len(class_names))):
        index = order[:, rank]
        confidence = probabilities[np.arange(len(index)), index]
        unsure = blank
        if not rank:
            unsure = blank | abstentions(outputs, options.threshold, options.min_familiarity)
        suffix = f"_{rank + 1}" if rank else ""
        columns[f"{LABEL}{suffix}"] = names.take(pa.array(index, mask=unsure))
        columns[f"index{suffix}"] = pa.array(index.astype(np.int16), mask=unsure)
        columns[f"{CONFIDENCE}{suffix}"] = pa.array(confidence)
        if not rank:
            columns[FAMILIARITY] = pa.array(familiarity, mask=np.isnan(familiarity))
            columns["reason"] = pa.array(np.full(len(ids), BLANK), pa.string(), ~blank)
    if options.probabilities:
        for column, name in enumerate(class_names):
            columns[f"p_{name}"] = pa.array(np.ascontiguousarray(probabilities[:, column]))
    if options.labels:
        columns[LABEL_TRUE] = true_labels(ids, kept, class_names, options)
    for name in options.keep:
        columns[name] = kept[name]
    rows = pa.table(columns)
    return _escape_formulas(rows) if options.escape_formulas else rows


def _most_probable(probabilities: Float32Array, top_k: int) -> NDArray[np.intp]:
    """Return the classes of each row, the most probable first, of which `top_k` count.

    Of equal ones the first comes first, and NaN comes last.
    """
    if top_k == 1:  # a third of the time
        known = np.where(np.isnan(probabilities), -np.inf, probabilities)
        return np.asarray(known.argmax(axis=1)[:, np.newaxis])
    return np.argsort(-probabilities, axis=1, kind="stable")


def shown_names(class_names: Sequence[str], options: ScoringOptions) -> list[str]:
    """Return the class names as the rows have them."""
    if not options.escape_formulas:
        return list(class_names)
    return [FORMULA.sub(ESCAPED, name) for name in class_names]


def _escape_formulas(rows: pa.Table) -> pa.Table:
    columns = map(_escape_column, rows.columns)
    return pa.table([*columns], [FORMULA.sub(ESCAPED, name) for name in rows.column_names])


def _escape_column(column: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        return column
    return pc.replace_substring_regex(column, FORMULA.pattern, ESCAPED)


def column_names(
    class_names: Sequence[str], options: ScoringOptions, types: ColumnTypes
) -> dict[str, str]:
    """Return the columns of the rows, and the names of their types."""
    empty = np.empty((0, len(class_names)), np.float32)
    rows = table([], empty, class_names, options, types=types)
    return {field.name: str(field.type) for field in rows.schema}


def check_kept_columns(class_names: Sequence[str], options: ScoringOptions) -> None:
    """Raise `InvalidRequest` if a column to keep has the name of another column of the rows."""
    if not options.keep:
        return
    labels = options.labels and FOLDER_LABELS
    others = options.model_copy(update={"keep": (), "labels": labels})
    own = [*column_names(class_names, others, TEXT_IDS)]
    for name in options.keep:
        if name in own:
            listed = ", ".join(own[:MAX_LISTED_COLUMNS])
            raise InvalidRequest(
                f"Cannot keep column '{name}': the rows have a column of that name ({listed} …)."
            )


def write(rows: pa.Table, path: Path, kind: Format) -> None:
    """Write a file."""
    batches = rows.combine_chunks().to_batches(MAX_ROWS if kind == "jsonl" else None)
    with path.open("wb") as file:
        file.writelines(encode_rows(iter(batches), rows.schema, kind))


def merge(paths: Sequence[Path], merged: Path, kind: Format) -> None:
    """Write the rows of many files into one, in their order."""
    with merged.open("wb") as file:
        file.writelines(merge_files(paths, kind, kind))
