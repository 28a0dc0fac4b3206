"""The rows of results from one format into another. Types of columns follow from their names, so that nothing is guessed."""

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

ROWS = 16_384  # held in memory at a time, and of one row group of a Parquet file
# Columns of our own; all others come from the source.
OURS = re.compile(r"(label|index|confidence)(_\d+|_true)?|(p)_.*", re.DOTALL)
TYPES = {"label": pa.string(), "index": pa.int16(), "confidence": pa.float32(), "p": pa.float32()}
ALWAYS = ("id", "label", "index", "confidence")  # columns of every result


def converted(paths: Sequence[Path], kind: Format, wanted: Format) -> Iterator[bytes]:
    """The rows of files of one kind as one file of another, in pieces."""
    rows = (batch for path in paths for batch in _read(path, kind) if batch.num_rows)
    first = next(rows, None)
    if first is None:
        yield from written(iter(()), _schema_without_rows(paths[0], kind), wanted)
    else:
        yield from written(chain([first], rows), first.schema, wanted)


def written(rows: Iterator[pa.RecordBatch], schema: pa.Schema, kind: Format) -> Iterator[bytes]:
    """A file of a kind, in pieces."""
    if kind == "jsonl":
        yield from map(json_lines, rows)
        return
    sink = _Sink()
    with _writer(sink, schema, kind) as writer:
        for batch in rows:
            writer.write_batch(batch)
            yield sink.take()
    yield sink.take()


def json_lines(rows: pa.RecordBatch) -> bytes:
    """A line of JSON for each row."""
    return "".join(
        json.dumps(row, ensure_ascii=False, default=str) + "\n" for row in rows.to_pylist()
    ).encode()


def dictionary_columns(names: Sequence[str]) -> list[str]:
    """Columns worth a dictionary in Parquet: those of ids and probabilities make the file larger and take twice as long."""
    return [name for name in names if name.startswith("label")]


class _Sink(io.RawIOBase):
    """A file that only grows, whose bytes are taken from it while it does."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._size

    def write(self, piece: bytes) -> int:  # type: ignore[override]
        self._pieces.append(bytes(piece))
        self._size += len(piece)
        return len(piece)

    def take(self) -> bytes:
        """What was written since the last time."""
        taken = b"".join(self._pieces)
        self._pieces.clear()
        return taken


def _writer(
    sink: _Sink, schema: pa.Schema, kind: Format
) -> "pq.ParquetWriter | pyarrow.csv.CSVWriter":
    if kind == "csv":
        return pyarrow.csv.CSVWriter(sink, schema)
    return pq.ParquetWriter(sink, schema, use_dictionary=dictionary_columns(schema.names))


def _read(path: Path, kind: Format) -> Iterator[pa.RecordBatch]:
    match kind:
        case "parquet":
            with pq.ParquetFile(path) as file:
                yield from file.iter_batches(ROWS)
        case "csv":
            with _open_csv(path) as reader:
                yield from reader
        case "jsonl":
            with path.open(encoding="utf-8") as lines:
                while rows := [_as_text(json.loads(line)) for line in islice(lines, ROWS)]:
                    yield pa.RecordBatch.from_pylist(
                        rows, _schema(list(rows[0]), isinstance(rows[0]["id"], int))
                    )


def _open_csv(path: Path) -> "pyarrow.csv.CSVStreamingReader":
    with path.open(encoding="utf-8", newline="") as lines:
        names = next(csv.reader([lines.readline()]))
        schema = _schema(
            names, is_number=lines.read(1) not in ('"', "")
        )  # texts are always in quotes
    convert = pyarrow.csv.ConvertOptions(
        column_types=schema,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)  # a path may have some
    return pyarrow.csv.open_csv(path, parse_options=parse, convert_options=convert)


def _schema(names: Sequence[str], is_number: bool) -> pa.Schema:
    """Of columns; `is_number` says what ids are. What comes from the source is text where the format knows no types."""
    ids = pa.int64() if is_number else pa.string()
    return pa.schema([(name, ids if name == "id" else _type(name)) for name in names])


def _type(name: str) -> pa.DataType:
    found = OURS.fullmatch(name)
    return TYPES[found[1] or found[3]] if found else pa.string()


def _as_text(row: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """A row, whose columns of the source are texts."""
    kept = {name for name, value in row.items() if name != "id" and not OURS.fullmatch(name)}
    return {
        name: json.dumps(value)
        if name in kept and value is not None and not isinstance(value, str)
        else value
        for name, value in row.items()
    }


def _schema_without_rows(path: Path, kind: Format) -> pa.Schema:
    """JSON lines that are none do not tell which columns they would have."""
    if kind == "parquet":
        return pq.read_schema(path)
    if kind == "csv":
        with _open_csv(path) as reader:
            return reader.schema
    return _schema(ALWAYS, is_number=False)
