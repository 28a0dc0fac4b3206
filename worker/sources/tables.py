"""A Parquet file with a column of picture files, as on Hugging Face, or a column for each pixel."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loupe.errors import InvalidPixels, InvalidSource, LoupeError
from loupe.files import ReadableFolders, printable
from loupe.images.spec import SIDE
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from worker.queue.steps import Shard
from worker.sources import pages
from worker.sources.pictures import MAX_ENTRY_BYTES, MAX_FETCHED_BYTES, Decoder, Entry
from worker.sources.source import (
    BatchReader,
    Records,
    ShardPlan,
    check_columns,
    check_unchanged,
    cut,
    damaged,
    listed,
    short,
)
from worker.storage import AnyPath, open_file, size_of, versions

PARQUET_MAGIC = b"PAR1"
IMAGE, BYTES, ID = "image", "bytes", "id"
NOT_PIXELS = frozenset({ID, "label", "class", "target"})  # columns of numbers
PIXELS = SIDE * SIDE
NO_ID = "The row has no id."
ROWS_AT_A_TIME = "rows-at-a-time"  # file of the index


class TableSource:
    """The rows of a Parquet file, with ids from a column or, without one, row numbers.

    Args:
        file: The file.
        decoder: Decodes picture files.
        options: Other columns to read.
        folders: Those that a local file must be in; all by default.
    """

    def __init__(
        self,
        file: AnyPath,
        decoder: Decoder,
        options: ScoringOptions = DEFAULT_OPTIONS,
        folders: ReadableFolders | None = None,
    ) -> None:
        self._file = file
        self._folders = folders
        self._decoder = decoder
        self._options = options
        self._id = options.id or ID

    def check(self) -> None:
        """See `ImageSource.check`."""
        with self._open() as (file, _):
            self._count(file)

    def plan(self, shard_images: int, index: Path) -> ShardPlan:
        """See `ImageSource.plan`."""
        with self._open() as (file, source):
            total = self._count(file)
            columns = self._columns(file.schema_arrow)
            rows = pages.check_pages(self._file, source, file.metadata, columns, MAX_FETCHED_BYTES)
        (index / ROWS_AT_A_TIME).write_text(str(rows))
        return ShardPlan(total, versions([self._file]), cut(total, shard_images))

    def batches(
        self, shard: Shard, batch_size: int, index: Path, revision: str
    ) -> Iterator[BatchReader]:
        """See `ImageSource.batches`."""
        check_unchanged(self._file, revision, versions([self._file]))
        rows_at_a_time = min(batch_size, _rows_at_a_time(index))
        with self._open() as (file, _):
            images = self._image_columns(file.schema_arrow)
            columns = self._columns(file.schema_arrow)
            decode = self._decode_files if images == [IMAGE] else self._stack_pixels
            for row, rows in _rows(file, shard.start, shard.stop, rows_at_a_time, columns):
                self._check_texts(rows)
                yield partial(decode, rows, row, images)

    def record_id(self, shard: Shard, position: int, index: Path) -> str:
        """See `ImageSource.record_id`."""
        row = shard.start + position
        with self._open() as (file, _):
            if self._id not in file.schema_arrow.names:
                return str(row)
            ((_, rows),) = _rows(file, row, row + 1, 1, [self._id])
        return str(rows.column(self._id)[0].as_py())

    def _count(self, file: pq.ParquetFile) -> int:
        """Return the number of rows; raise `InvalidSource` if they cannot be scored."""
        self._image_columns(file.schema_arrow)
        self._check_columns(file.schema_arrow)
        if not file.metadata.num_rows:
            raise InvalidSource(f"The Parquet file '{self._file}' has no rows.")
        pages.check_rows(file.metadata, size_of(self._file))
        return int(file.metadata.num_rows)

    @contextmanager
    def _open(self) -> Iterator[tuple[pq.ParquetFile, IO[bytes]]]:
        """Open the file; raise `InvalidSource` for whatever is wrong with it."""
        try:
            with open_file(self._file, self._folders) as source:
                pages.check_footer(source)
                yield pages.open_file(self._file, source), source
        except pages.TooCostly as error:
            raise InvalidSource(
                f"The Parquet file '{self._file}' is too costly to read: it has {error}.",
                code="source_too_large",
            ) from error
        except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
            raise damaged(f"Parquet file '{self._file}'", error) from error

    def _columns(self, schema: pa.Schema) -> list[str]:
        """Return all columns to read."""
        ids = [self._id] if self._id in schema.names else []
        columns = [*self._image_columns(schema), *ids, *self._options.columns]
        return list(dict.fromkeys(columns))

    def _check_texts(self, rows: pa.RecordBatch) -> None:
        """Raise `InvalidSource` if an id or a kept column has a text that is too long."""
        for name in {self._id, *self._options.columns} & set(rows.schema.names):
            column = rows.column(name)
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                longest = pc.max(pc.binary_length(column)).as_py() or 0
                if longest > MAX_ENTRY_BYTES:
                    raise InvalidSource(
                        f"Column '{name}' of '{self._file}' has a text of {longest:,} bytes; "
                        f"at most {MAX_ENTRY_BYTES:,} are allowed.",
                        code="source_too_large",
                    )

    def _image_columns(self, schema: pa.Schema) -> list[str]:
        if IMAGE in schema.names and _holds_files(schema.field(IMAGE).type):
            return [IMAGE]
        others = {*NOT_PIXELS, self._id, *self._options.columns}
        numbers = [
            field.name
            for field in schema
            if pa.types.is_integer(field.type) and field.name not in others
        ]
        if len(numbers) == PIXELS:
            return numbers
        raise InvalidSource(
            f"The Parquet file '{self._file}' has no column '{IMAGE}' of picture files, and "
            f"{len(numbers)} columns of integers instead of {PIXELS}. "
            f"Its columns: {listed(schema.names)}"
        )

    def _check_columns(self, schema: pa.Schema) -> None:
        """Raise `InvalidSource` if a requested column is missing or cannot be copied to rows."""
        check_columns(self._file, self._options, schema.names)
        for column in filter(None, [self._options.id, *self._options.columns]):
            kind = schema.field(column).type
            if pa.types.is_nested(kind) or _is_binary(kind):
                raise InvalidSource(
                    f"Column '{column}' of '{self._file}' is {short(kind)}, "
                    "not text, a number or a time."
                )

    def _decode_files(self, rows: pa.RecordBatch, start: int, images: Sequence[str]) -> Records:
        column = rows.column(IMAGE)
        files = column.field(BYTES) if pa.types.is_struct(column.type) else column

        def read(entry: Entry) -> bytes:
            file: bytes | None = files[entry.location[0]].as_py()
            if file is None:
                raise InvalidSource("The row has no picture file.", code="invalid_record")
            return file

        ids, are_numbers = self._ids(rows, start)
        entries = [
            Entry(f"row {start + row}", [], NO_ID) if name is None else Entry(str(name), [row])
            for row, name in enumerate(ids)
        ]
        records = self._decoder.records(entries, read, self._kept_columns(rows))
        return replace(records, ids=list(map(int, records.ids))) if are_numbers else records

    def _stack_pixels(self, rows: pa.RecordBatch, start: int, images: Sequence[str]) -> Records:
        missing = np.zeros(len(rows), bool)
        pixels = np.empty((len(rows), PIXELS), np.int64)
        for position, name in enumerate(images):
            column = rows.column(name)
            missing |= column.is_null().to_numpy(zero_copy_only=False)
            pixels[:, position] = column.fill_null(0).to_numpy(zero_copy_only=False)
        invalid = missing | ((pixels < 0) | (pixels > 255)).any(axis=1)
        ids, _ = self._ids(rows, start)
        good = ~invalid & np.array([name is not None for name in ids])
        errors: list[tuple[str, LoupeError]] = [
            (f"row {start + row}", InvalidSource(NO_ID, code="invalid_record"))
            if ids[row] is None
            else (str(ids[row]), InvalidPixels("The row has a pixel that is not in 0..255."))
            for row in np.flatnonzero(~good)
        ]
        kept = self._kept_columns(rows)
        return Records(
            [ids[row] for row in np.flatnonzero(good)],
            pixels[good].astype(np.uint8).reshape(-1, SIDE, SIDE),
            errors,
            None if kept is None else kept.filter(pa.array(good)),
        )

    def _kept_columns(self, rows: pa.RecordBatch) -> pa.Table | None:
        columns = list(self._options.columns)
        return pa.Table.from_batches([rows]).select(columns) if columns else None

    def _ids(self, rows: pa.RecordBatch, start: int) -> tuple[list[Any], bool]:
        """Return the ids, `None` for a row without one, and whether they are numbers."""
        if self._id not in rows.schema.names:
            return list(range(start, start + len(rows))), True
        ids = rows.column(self._id).to_pylist()
        if pa.types.is_integer(rows.schema.field(self._id).type):
            return ids, True
        return [None if name is None else printable(str(name)) for name in ids], False


def _rows_at_a_time(index: Path) -> int:
    try:
        return int((index / ROWS_AT_A_TIME).read_text())
    except FileNotFoundError:  # an older version planned the job, which is still in progress
        return 1


def _rows(
    file: pq.ParquetFile, start: int, stop: int, batch_size: int, columns: list[str]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield batches of rows with the number of their first row; other row groups are not read."""
    groups: list[int] = []
    row = group_start = 0
    for group in range(file.num_row_groups):
        group_stop = group_start + file.metadata.row_group(group).num_rows
        if group_start < stop and group_stop > start:
            row = row if groups else group_start
            groups.append(group)
        group_start = group_stop
    for rows in file.iter_batches(batch_size, row_groups=groups, columns=columns):
        first, last = max(start, row), min(stop, row + len(rows))
        if first < last:
            yield first, rows.slice(first - row, last - first)
        row += len(rows)
        if row >= stop:
            return
    raise ValueError(f"its rows end at {row:,}, before {stop:,}")


def _is_binary(kind: pa.DataType) -> bool:
    is_variable = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(is_variable or pa.types.is_fixed_size_binary(kind))


def _holds_files(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index(BYTES) >= 0 and _holds_files(kind.field(BYTES).type)
    return _is_binary(kind) and not pa.types.is_fixed_size_binary(kind)
