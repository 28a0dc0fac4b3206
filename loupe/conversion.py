"""Reading and writing of results as Parquet, CSV and JSON lines."""

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from pydantic import JsonValue

from loupe.results import Format

MAX_ROWS = 16_384  # in memory, and in a row group of Parquet
COLUMNS = ("id", "label", "index", "confidence")  # of every result
TEXT, UNKNOWN = "string", ""
# Types that CSV and JSON can hold; values of all others become text.
NUMBERS = frozenset(
    [
        "bool",
        "float",
        "double",
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    ]
)
# Columns that Loupe writes; all others come from the source.
RESULT_COLUMN = re.compile(r"(label|index|confidence|familiarity)(_\d+|_true)?|(p)_.*", re.DOTALL)
TYPES = {
    "label": pa.string(),
    "index": pa.int16(),
    **dict.fromkeys(("confidence", "familiarity", "p"), pa.float32()),
}


def convert_files(
    paths: Sequence[Path], kind: Format, to: Format, columns: Mapping[str, str] | None = None
) -> Iterator[bytes]:
    """Yield the rows of files as one file in another format, in chunks.

    Args:
        paths: At least one file.
        kind: Format of the files.
        to: Format of the result.
        columns: Names of the columns and of their types, if they are known.
    """
    schema = schema_of(paths, kind, columns)
    batches = (batch for path in paths for batch in read_rows(path, kind, schema))
    yield from encode_rows(batches, schema, to)


def encode_rows(
    batches: Iterator[pa.RecordBatch], schema: pa.Schema, to: Format
) -> Iterator[bytes]:
    """Yield a file in chunks."""
    if to != "parquet":
        batches = (_plain(batch, keep_nan=to == "csv") for batch in batches)
    if to == "jsonl":
        for batch in batches:
            rows = batch.to_pylist()
            lines = (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
            yield "".join(lines).encode()
        return
    sink = _Sink()
    # For ids and probabilities, a dictionary makes Parquet larger and takes twice the time.
    dictionaries = [name for name in schema.names if name.startswith("label")]
    with (
        pyarrow.csv.CSVWriter(sink, _plain(_no_rows(schema)).schema)
        if to == "csv"
        else pq.ParquetWriter(sink, schema, use_dictionary=dictionaries)
    ) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield sink.take()
    yield sink.take()


def read_rows(path: Path, kind: Format, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Yield batches of the rows of a file that have these columns."""
    match kind:
        case "parquet":
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(MAX_ROWS, columns=schema.names):
                    yield batch.cast(schema)
        case "csv":
            with _open_csv(path, schema) as reader:
                yield from reader
        case "jsonl":
            with path.open(encoding="utf-8") as lines:
                while rows := [
                    _typed(json.loads(line), schema) for line in islice(lines, MAX_ROWS)
                ]:
                    yield pa.RecordBatch.from_pylist(rows, schema)


def plain_rows(batch: pa.RecordBatch) -> list[dict[str, JsonValue]]:
    """Return rows as JSON can hold them."""
    rows: list[dict[str, JsonValue]] = _plain(batch, keep_nan=False).to_pylist()
    return rows


def plain_schema(columns: Mapping[str, str]) -> pa.Schema:
    """Return the schema of CSV or JSON lines with columns of these names and types.

    The types of the columns that Loupe writes follow from their names, if they are unknown.
    """

    def plain(name: str, kind: str) -> pa.DataType:
        found = RESULT_COLUMN.fullmatch(name)
        if found and not kind:
            return TYPES[found[1] or found[3]]
        return pa.type_for_alias(kind if kind in NUMBERS else TEXT)

    return pa.schema([(name, plain(name, kind)) for name, kind in columns.items()])


def schema_of(paths: Sequence[Path], kind: Format, columns: Mapping[str, str] | None) -> pa.Schema:
    """Return the schema of the rows of files; see `convert_files`."""
    if kind == "parquet":
        # Older versions gave parts without rows other types.
        found = next((path for path in paths if pq.read_metadata(path).num_rows), paths[0])
        return pq.read_schema(found)
    return plain_schema(columns or (_csv_columns if kind == "csv" else _json_columns)(paths))


def _csv_columns(paths: Sequence[Path]) -> dict[str, str]:
    """Return the columns of a result of an older version; only the type of the ids is known."""
    names: list[str] = []
    ids = TEXT
    for path in paths:
        with path.open(encoding="utf-8", newline="") as lines:
            names = next(csv.reader(lines))
            if lines.read(1) not in ('"', ""):  # texts are always quoted
                ids = "int64"
    return dict.fromkeys(names, UNKNOWN) | {"id": ids}


def _json_columns(paths: Sequence[Path]) -> dict[str, str]:
    for path in paths:
        with path.open(encoding="utf-8") as lines:
            if line := lines.readline():
                row = json.loads(line)
                ids = "int64" if isinstance(row["id"], int) else TEXT
                return dict.fromkeys(row, UNKNOWN) | {"id": ids}
    return dict.fromkeys(COLUMNS, UNKNOWN)


def _plain(batch: pa.RecordBatch, *, keep_nan: bool = True) -> pa.RecordBatch:
    """Return rows of text, numbers and truth values only, with the same texts in every format.

    JSON has no infinity and no NaN: they become null.
    """
    columns = [_plain_column(column, keep_nan=keep_nan) for column in batch.columns]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def _plain_column(column: pa.Array, *, keep_nan: bool) -> pa.Array:
    kind = column.type
    if pa.types.is_dictionary(kind):
        return _plain_column(column.cast(kind.value_type), keep_nan=keep_nan)
    if pa.types.is_timestamp(kind) and kind.tz:  # in UTC, even if no such time zone is known here
        column = column.cast(pa.timestamp(kind.unit, "UTC"))
    if pa.types.is_float16(kind):
        column = column.cast(pa.float32())
    if pa.types.is_floating(kind):
        return column if keep_nan else pc.if_else(pc.is_finite(column), column, None)
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column
    return column.cast(pa.string())


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([], schema)


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


def _open_csv(path: Path, schema: pa.Schema) -> "pyarrow.csv.CSVStreamingReader":
    convert = pyarrow.csv.ConvertOptions(
        column_types=schema,
        include_columns=schema.names,
        null_values=[""],
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
    )
    parse = pyarrow.csv.ParseOptions(newlines_in_values=True)  # paths may contain them
    return pyarrow.csv.open_csv(path, parse_options=parse, convert_options=convert)


def _typed(row: dict[str, JsonValue], schema: pa.Schema) -> dict[str, JsonValue]:
    """Return a row whose columns of text hold text; those of older versions may hold numbers."""
    return {
        name: json.dumps(row[name])
        if kind == pa.string() and not isinstance(row[name], str | None)
        else row[name]
        for name, kind in zip(schema.names, schema.types, strict=True)
    }
