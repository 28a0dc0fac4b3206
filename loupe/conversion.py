"""Reading and writing of results as Parquet, CSV and JSON lines.

The names of columns determine their types, so nothing is guessed.
"""

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import JsonValue

from loupe.results import Format

MAX_ROWS = 16_384  # in memory, and in a row group of Parquet
COLUMNS = ("id", "label", "index", "confidence")  # of every result
# Columns that Loupe writes; all others come from the source.
RESULT_COLUMN = re.compile(r"(label|index|confidence)(_\d+|_true)?|(p)_.*", re.DOTALL)
TYPES = {"label": pa.string(), "index": pa.int16(), "confidence": pa.float32(), "p": pa.float32()}


def convert_files(paths: Sequence[Path], kind: Format, to: Format) -> Iterator[bytes]:
    """Yield the rows of files as one file in another format, in chunks."""
    batches = (batch for path in paths for batch in read_rows(path, kind) if batch.num_rows)
    first = next(batches, None)
    if first is None:
        yield from encode_rows(iter(()), _schema_of_empty(paths[0], kind), to)
    else:
        yield from encode_rows(chain([first], batches), first.schema, to)


def encode_rows(
    batches: Iterator[pa.RecordBatch], schema: pa.Schema, to: Format
) -> Iterator[bytes]:
    """Yield a file in chunks."""
    if to == "jsonl":
        for batch in batches:
            rows = batch.to_pylist()
            lines = (json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows)
            yield "".join(lines).encode()
        return
    sink = _Sink()
    # For ids and probabilities, a dictionary makes Parquet larger and takes twice the time.
    dictionaries = [name for name in schema.names if name.startswith("label")]
    with (
        pyarrow.csv.CSVWriter(sink, schema)
        if to == "csv"
        else pq.ParquetWriter(sink, schema, use_dictionary=dictionaries)
    ) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield sink.take()
    yield sink.take()


def read_rows(
    path: Path, kind: Format, columns: Sequence[str] | None = None
) -> Iterator[pa.RecordBatch]:
    """Yield batches of the rows of a file, with all columns or these."""
    match kind:
        case "parquet":
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(MAX_ROWS, columns=columns)
        case "csv":
            with _open_csv(path, columns) as reader:
                yield from reader
        case "jsonl":
            with path.open(encoding="utf-8") as lines:
                while rows := [_as_text(json.loads(line)) for line in islice(lines, MAX_ROWS)]:
                    schema = _schema(columns or list(rows[0]), isinstance(rows[0]["id"], int))
                    yield pa.RecordBatch.from_pylist(rows, schema)


class _Sink(io.RawIOBase):
    """A file from which the bytes are taken while it is written."""

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, chunk: bytes) -> int:  # type: ignore[override]
        self._chunks.append(bytes(chunk))
        self._size += len(chunk)
        return len(chunk)

    def take(self) -> bytes:
        """Return the bytes since the last call."""
        taken = b"".join(self._chunks)
        self._chunks.clear()
        return taken


def _open_csv(path: Path, columns: Sequence[str] | None = None) -> "pyarrow.csv.CSVStreamingReader":
    with path.open(encoding="utf-8", newline="") as lines:
        names = next(csv.reader(lines))
        has_text_ids = lines.read(1) in ('"', "")  # texts are always quoted
    convert = pyarrow.csv.ConvertOptions(
        column_types=_schema(names, not has_text_ids),
        include_columns=columns,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)  # paths may contain them
    return pyarrow.csv.open_csv(path, parse_options=parse, convert_options=convert)


def _schema(names: Sequence[str], has_number_ids: bool) -> pa.Schema:
    """Return the schema of a format without types, in which the source's columns are text."""
    ids = pa.int64() if has_number_ids else pa.string()
    return pa.schema([(name, ids if name == "id" else _type(name)) for name in names])


def _type(name: str) -> pa.DataType:
    found = RESULT_COLUMN.fullmatch(name)
    return TYPES[found[1] or found[3]] if found else pa.string()


def _as_text(row: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return a row with the source's columns as text."""
    return {
        name: value
        if value is None or isinstance(value, str) or name == "id" or RESULT_COLUMN.fullmatch(name)
        else json.dumps(value)
        for name, value in row.items()
    }


def _schema_of_empty(path: Path, kind: Format) -> pa.Schema:
    """Return the schema of a file without rows; empty JSON lines do not name further columns."""
    if kind == "parquet":
        return pq.read_schema(path)
    if kind == "csv":
        with _open_csv(path) as reader:
            return reader.schema
    return _schema(COLUMNS, has_number_ids=False)
