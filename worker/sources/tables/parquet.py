"""Parquet files with a column of picture files, as on Hugging Face, or a column for each pixel."""

import hashlib
import json
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from loupe.errors import InvalidSource
from loupe.files import ReadableFolders
from loupe.images.arrays.tables import as_pixels, pixel_columns
from loupe.images.formats import File
from loupe.images.selection import SkippedFiles
from loupe.images.spec import UInt8Array
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from worker.queue.steps import Shard
from worker.sources.checks import check_columns, check_unchanged, damaged, listed, short
from worker.sources.collection import Entry
from worker.sources.pictures import MAX_FETCHED_BYTES, Decoder
from worker.sources.source import BatchReader, ColumnTypes, Records, ShardPlan, cut, id_type
from worker.sources.tables import pages
from worker.sources.tables.rows import (
    NO_ID,
    check_texts,
    id_text,
    read_rows,
    row_name,
    stacked,
    without_views,
)
from worker.storage import AnyPath, open_file, size_of, versions

PARQUET_MAGIC = b"PAR1"
IMAGE, BYTES, ID = "image", "bytes", "id"
# pyarrow takes as long for one value of a column as for thousands.
READ_PIXELS = 2**23  # to read at a time
COLUMNS_AT_A_TIME = 1024  # of pixels, to convert at a time
ROWS_AT_A_TIME, ROW_COUNTS = "rows-at-a-time", "row-counts"  # files of the index


class TableSource:
    """The rows of Parquet files, with ids from a column or, without one, row numbers.

    Args:
        path: Path or pattern of the files, for errors.
        files: The files in their order; rows are counted over all of them.
        decoder: Decodes picture files.
        options: Other columns to read.
        folders: Those that local files must be in; all by default.
        skipped: Other files of their folder.
    """

    def __init__(
        self,
        path: AnyPath,
        files: Sequence[AnyPath],
        decoder: Decoder,
        options: ScoringOptions = DEFAULT_OPTIONS,
        folders: ReadableFolders | None = None,
        skipped: SkippedFiles | None = None,
    ) -> None:
        self._path = path
        self._skipped = skipped or {}
        self._files = files
        self._folders = folders
        self._decoder = decoder
        self._options = options
        self._id = options.id or ID

    def check(self) -> None:
        """See `ImageSource.check`. Of several files, only the first is opened."""
        with self._open(self._files[0]) as (file, _):
            rows = self._count(self._files[0], file)
        if len(self._files) == 1:
            self._refuse_empty(rows)

    def plan(self, shard_images: int, index: Path) -> ShardPlan:
        """See `ImageSource.plan`."""
        counts: list[int] = []
        rows = pages.MAX_ROWS_AT_A_TIME
        kinds: pa.Schema | None = None
        for path in self._files:
            with self._open(path) as (file, source):
                counts.append(self._count(path, file))
                schema = without_views(file.schema_arrow)  # made of the metadata each time
                columns = self._columns(schema, self._image_columns(path, schema))
                fields = dict(zip(schema.names, schema, strict=True))
                found = pa.schema([fields[name] for name in columns])
                kinds = self._same_kinds(path, found, kinds or found)
                most = pages.check_pages(path, source, file.metadata, columns, MAX_FETCHED_BYTES)
            rows = min(rows, most)
        self._refuse_empty(sum(counts))
        (index / ROWS_AT_A_TIME).write_text(str(rows))
        (index / ROW_COUNTS).write_text(json.dumps(counts))
        shards = cut(sum(counts), shard_images)
        return ShardPlan(sum(counts), self._version(), shards, self._skipped)

    def column_types(self, index: Path) -> ColumnTypes:
        """See `ImageSource.column_types`."""
        with self._open(self._files[0]) as (file, _):
            schema = without_views(file.schema_arrow)
        kept = pa.schema([schema.field(name) for name in self._options.columns])
        has_ids = self._id in schema.names
        return ColumnTypes(id_type(schema.field(self._id).type) if has_ids else pa.int64(), kept)

    def batches(
        self, shard: Shard, batch_size: int, index: Path, revision: str
    ) -> Iterator[BatchReader]:
        """See `ImageSource.batches`."""
        check_unchanged(self._path, revision, self._version())
        most = _rows_at_a_time(index)
        for path, before, start, stop in self._spans(index, shard.start, shard.stop):
            with self._open(path) as (file, _):
                schema = without_views(file.schema_arrow)
                images = self._image_columns(path, schema)
                columns = self._columns(schema, images)
                decode, count = self._decode_files, batch_size
                if len(images) > 1:
                    decode, count = self._stack_pixels, max(count, READ_PIXELS // len(images))
                for row, rows in read_rows(file, start, stop, min(count, most), columns):
                    kept = {self._id, *self._options.columns} & set(columns)
                    check_texts(path, ((name, rows.column(name)) for name in kept))
                    for first in range(0, len(rows), batch_size):
                        batch = rows.slice(first, batch_size)
                        yield partial(decode, batch, before + row + first, images)

    def record_id(self, shard: Shard, position: int, index: Path) -> str:
        """See `ImageSource.record_id`."""
        row = shard.start + position
        ((path, _, start, stop),) = self._spans(index, row, row + 1)
        with self._open(path) as (file, _):
            if self._id not in file.schema_arrow.names:
                return str(row)
            ((_, rows),) = read_rows(file, start, stop, 1, [self._id])
        return row_name(self._ids(rows, row)[0][0], row)

    def previews(self, ids: Container[str], index: Path) -> dict[str, UInt8Array]:
        """See `ImageSource.previews`."""
        return {}

    def _version(self) -> str:
        version = versions(self._files)
        return version if len(self._files) == 1 else hashlib.sha256(version.encode()).hexdigest()

    def _spans(self, index: Path, start: int, stop: int) -> Iterator[tuple[AnyPath, int, int, int]]:
        """Yield the files that hold these rows, the rows before the file, and its own range."""
        try:
            counts = json.loads((index / ROW_COUNTS).read_text())
        except FileNotFoundError:  # an older version planned the job, which is still in progress
            counts = [stop]
        before = 0
        for path, count in zip(self._files, counts, strict=True):
            first, last = max(start, before), min(stop, before + count)
            if first < last:
                yield path, before, first - before, last - before
            before += count

    def _count(self, path: AnyPath, file: pq.ParquetFile) -> int:
        """Return the number of rows; raise `InvalidSource` if they cannot be scored."""
        schema = without_views(file.schema_arrow)
        self._image_columns(path, schema)
        self._check_columns(path, schema)
        pages.check_rows(file.metadata, size_of(path))
        return int(file.metadata.num_rows)

    def _refuse_empty(self, rows: int) -> None:
        if not rows:
            raise InvalidSource(f"'{self._path}' has no rows.")

    def _same_kinds(self, path: AnyPath, found: pa.Schema, first: pa.Schema) -> pa.Schema:
        """Return the types of the first file; raise `InvalidSource` if those of a file differ."""
        if not found.equals(first):
            raise InvalidSource(
                f"The columns of '{path}' have other names or types than those of "
                f"'{self._files[0]}': {short(found)}."
            )
        return first

    @contextmanager
    def _open(self, path: AnyPath) -> Iterator[tuple[pq.ParquetFile, IO[bytes]]]:
        """Open a file; raise `InvalidSource` for all damage."""
        try:
            with open_file(path, self._folders) as source:
                pages.check_footer(source)
                yield pages.open_file(path, source), source
        except pages.TooCostly as error:
            raise InvalidSource(
                f"The Parquet file '{path}' is too costly to read: it has {error}.",
                code="source_too_large",
            ) from error
        except (pa.ArrowException, OSError, ValueError, RecursionError) as error:
            raise damaged(f"Parquet file '{path}'", error) from error

    def _columns(self, schema: pa.Schema, images: Sequence[str]) -> list[str]:
        """Return all columns to read."""
        ids = [self._id] if self._id in schema.names else []
        columns = [*images, *ids, *self._options.columns]
        return list(dict.fromkeys(columns))

    def _image_columns(self, path: AnyPath, schema: pa.Schema) -> list[str]:
        """Return the column of picture files, or those of pixels in the order of their numbers."""
        name = self._options.image_column or IMAGE
        files = [field.name for field in schema if _holds_files(field.type)]
        if files.count(name) == 1:
            return [name]
        problem = ""
        if self._options.image_column is None:
            try:
                numbers = (field.name for field in schema if _is_number(field.type))
                pixels = pixel_columns(numbers, self._decoder.spec)
            except ValueError as error:
                problem = f", and {error}"
            else:
                if pixels:
                    return pixels
                spec = self._decoder.spec
                problem = f", and no {spec.nbytes:,} numbered columns of pixels, {spec}"
        raise InvalidSource(
            f"The Parquet file '{path}' has no column '{name}' of picture files{problem}. "
            f"Columns of files, to choose with --image-column: {listed(files)}; "
            f"all columns: {listed(schema.names)}.",
            code="column_not_found" if self._options.image_column else None,
        )

    def _check_columns(self, path: AnyPath, schema: pa.Schema) -> None:
        """Raise `InvalidSource` if a requested column is missing or cannot be copied to rows."""
        check_columns(path, self._options, schema.names)
        for column in (self._id, *self._options.columns):
            if schema.names.count(column) > 1:
                raise InvalidSource(f"'{path}' has several columns '{column}'.")
        for column in filter(None, [self._options.id, *self._options.columns]):
            kind = schema.field(column).type
            is_id = column == self._options.id and column not in self._options.columns
            if pa.types.is_nested(kind) or (_is_binary(kind) and not is_id):
                raise InvalidSource(
                    f"Column '{column}' of '{path}' is {short(kind)}, not text, a number or a time."
                )

    def _decode_files(self, rows: pa.RecordBatch, start: int, images: Sequence[str]) -> Records:
        column = rows.column(images[0])
        files = column.field(BYTES) if pa.types.is_struct(column.type) else column
        offsets, values = _parts(files)

        def read(entry: Entry) -> File:
            row = entry.location[0]
            if not files[row : row + 1].is_valid()[0].as_py():
                raise InvalidSource("The row has no picture file.", code="invalid_record")
            return values[offsets[row] : offsets[row + 1]]

        ids, are_numbers = self._ids(rows, start)
        entries = [
            Entry(row_name(name, start + row), [row], NO_ID if name is None else None)
            for row, name in enumerate(ids)
        ]
        records = self._decoder.records(entries, read, self._kept_columns(rows))
        return replace(records, ids=list(map(int, records.ids))) if are_numbers else records

    def _stack_pixels(self, rows: pa.RecordBatch, start: int, images: Sequence[str]) -> Records:
        pixels = np.empty((len(rows), len(images)), np.uint8)
        are_valid = np.ones(len(rows), bool)
        for start_column in range(0, len(images), COLUMNS_AT_A_TIME):
            names = images[start_column : start_column + COLUMNS_AT_A_TIME]
            columns = [rows.column(name) for name in names]
            if any(column.type != columns[0].type for column in columns):
                columns = [column.cast(pa.float64(), safe=False) for column in columns]
            values, are_pixels = as_pixels(pa.concat_arrays(columns))
            part = slice(start_column, start_column + len(names))
            pixels[:, part] = values.reshape(len(names), -1).T
            are_valid &= are_pixels.reshape(len(names), -1).all(axis=0)
        ids, _ = self._ids(rows, start)
        kept = self._kept_columns(rows)
        found = pixels.reshape(-1, *self._decoder.spec.shape)
        return stacked(ids, found, are_valid, start, kept)

    def _kept_columns(self, rows: pa.RecordBatch) -> pa.Table | None:
        columns = list(self._options.columns)
        return pa.Table.from_batches([rows]).select(columns) if columns else None

    def _ids(self, rows: pa.RecordBatch, start: int) -> tuple[list[Any], bool]:
        """Return the ids, `None` for a row without one, and whether they are numbers."""
        if self._id not in rows.schema.names:
            return list(range(start, start + len(rows))), True
        kind = rows.schema.field(self._id).type
        ids = rows.column(self._id).to_pylist()
        if id_type(kind) == pa.int64():
            return ids, True
        return list(map(id_text, ids)), False


def _rows_at_a_time(index: Path) -> int:
    try:
        return int((index / ROWS_AT_A_TIME).read_text())
    except FileNotFoundError:  # an older version planned the job, which is still in progress
        return 1


def _is_number(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def _parts(files: pa.Array) -> tuple[NDArray[Any], memoryview]:
    """Return the offsets and bytes of files: a copy of a file takes longer than most errors."""
    _, offsets, values = files.buffers()
    integer = np.int64 if pa.types.is_large_binary(files.type) else np.int32
    return np.frombuffer(offsets, integer)[files.offset :], memoryview(values or b"")


def _is_binary(kind: pa.DataType) -> bool:
    is_variable = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    return bool(is_variable or pa.types.is_fixed_size_binary(kind))


def _holds_files(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index(BYTES) >= 0 and _holds_files(kind.field(BYTES).type)
    return _is_binary(kind) and not pa.types.is_fixed_size_binary(kind)
