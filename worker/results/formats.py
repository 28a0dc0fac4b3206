"""The files that results are written to: Parquet, CSV or JSON lines, with the same columns in each."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from loupe.conversion import dictionary_columns, json_lines
from loupe.images.spec import Float32Array
from loupe.jobs import ScoringOptions
from loupe.old_errors.service import InvalidRequest
from loupe.old_errors.worker import SHOWN_COLUMNS
from loupe.results import Format, as_one_file
from worker.results.labels import LABEL_TRUE, true_labels

LABEL, CONFIDENCE = "label", "confidence"
ROWS = 4096  # held in memory at a time where files are read or merged


def table(
    ids: Sequence[str] | Sequence[int],
    probabilities: Float32Array,
    class_names: Sequence[str],
    options: ScoringOptions,
    kept: pa.Table | None = None,
) -> pa.Table:
    """The rows of a result.

    Args:
        ids: Of the records.
        probabilities: float32, shape `(len(ids), classes)`.
        class_names: Of the model.
        options: How many labels a row has, whether all probabilities follow, from which confidence on a label is given, and whether the
            true label and columns of the source come last.
        kept: What else the source says of the records, if anything of it is asked for.
    """
    names = pa.array(class_names, pa.string())
    order = np.argsort(-probabilities, axis=1, kind="stable")[
        :, : min(options.top_k, len(class_names))
    ]
    columns = {"id": pa.array(ids, pa.int64() if ids and isinstance(ids[0], int) else pa.string())}
    for rank in range(order.shape[1]):
        index = order[:, rank]
        confidence = probabilities[np.arange(len(index)), index]
        unsure = (
            confidence < options.threshold if options.threshold is not None and rank == 0 else None
        )
        place = f"_{rank + 1}" if rank else ""
        columns[f"{LABEL}{place}"] = names.take(pa.array(index, mask=unsure))
        columns[f"index{place}"] = pa.array(index.astype(np.int16), mask=unsure)
        columns[f"{CONFIDENCE}{place}"] = pa.array(confidence)
    if options.probabilities:
        for column, name in enumerate(class_names):
            columns[f"p_{name}"] = pa.array(np.ascontiguousarray(probabilities[:, column]))
    if options.labels:
        columns[LABEL_TRUE] = true_labels(ids, kept, class_names, options)
    for name in options.keep:
        columns[name] = (
            pa.nulls(len(ids)) if kept is None else kept[name]
        )  # of a shard without any good record
    return pa.table(columns)


def check_kept_columns(class_names: Sequence[str], options: ScoringOptions) -> None:
    """Raises `InvalidRequest` if a column of the source that is to be kept has the name of one that rows have anyway."""
    if not options.keep:
        return
    own = table(
        [],
        np.empty((0, len(class_names)), np.float32),
        class_names,
        options.model_copy(update={"keep": ()}),
    ).column_names
    for name in options.keep:
        if name in own:
            expected = "columns to keep whose names the rows of the result do not have already"
            raise InvalidRequest(expected, f"'{name}', beside {', '.join(own[:SHOWN_COLUMNS])}")


def write(rows: pa.Table, path: Path, kind: Format) -> None:
    """Write a file."""
    match kind:
        case "parquet":
            pq.write_table(rows, path, use_dictionary=dictionary_columns(rows.column_names))
        case "csv":
            pyarrow.csv.write_csv(rows, path)
        case "jsonl":
            with path.open("wb") as lines:
                lines.writelines(map(json_lines, rows.to_batches(ROWS)))


def read_labels(path: Path, kind: Format, *, with_true: bool = False) -> Iterator[pa.RecordBatch]:
    """The columns `label` and `confidence` of a file, and `label_true` if it has it, some rows at a time."""
    columns = [LABEL, CONFIDENCE, *([LABEL_TRUE] if with_true else [])]
    match kind:
        case "parquet":
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(ROWS, columns=columns)
        case "csv":
            types = {LABEL: pa.string(), CONFIDENCE: pa.float32(), LABEL_TRUE: pa.string()}
            convert = pyarrow.csv.ConvertOptions(
                column_types=types,
                include_columns=columns,
                null_values=[""],
                strings_can_be_null=True,
            )
            parse = pyarrow.csv.ParseOptions(newlines_in_values=True)  # a path may have some
            with pyarrow.csv.open_csv(path, parse_options=parse, convert_options=convert) as reader:
                yield from reader
        case "jsonl":
            with path.open(encoding="utf-8") as lines:
                rows = [json.loads(line) for line in lines]
            yield pa.RecordBatch.from_pylist(
                [{name: row[name] for name in columns} for row in rows]
            )


def merge(paths: Sequence[Path], merged: Path, kind: Format) -> None:
    """Put the rows of many files into one, in their order."""
    with merged.open("wb") as whole:
        whole.writelines(as_one_file(paths, kind, kind))
