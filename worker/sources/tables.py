"""A Parquet file with picture files in a column, as Hugging Face's have it, or with one column for each pixel."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loupe.errors import InvalidPixels, LoupeError
from loupe.images.spec import SIDE
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from loupe.old_errors.worker import ColumnNotFound, InvalidRecord, InvalidSource
from worker.queue.steps import Shard
from worker.sources.pictures import Decoder, Entry
from worker.sources.source import (
    BatchReader,
    Records,
    ShardPlan,
    check_unchanged,
    cut,
    printable,
    stamp,
)
from worker.storage import AnyPath

PARQUET_MAGIC = b"PAR1"
IMAGE, BYTES, ID = "image", "bytes", "id"
NO_PIXELS = frozenset(
    {ID, "label", "class", "target"}
)  # numbers that say something about the picture
PIXELS = SIDE * SIDE
NO_ID = "a row without an id"
BRIGHTEST = 255


class TableSource:
    """The rows of a Parquet file. Their ids are those of its column `id`, or of the one that the options name, or their numbers.

    Args:
        file: The file.
        decoder: What makes images of picture files.
        options: Which of its columns are read besides.
    """

    def __init__(
        self, file: AnyPath, decoder: Decoder, options: ScoringOptions = DEFAULT_OPTIONS
    ) -> None:
        self._file = file
        self._decoder = decoder
        self._options = options
        self._id = options.id or ID

    def check(self) -> None:
        """See `ImageSource.check`."""
        self._count()

    def plan(self, shard_images: int, notes: Path) -> ShardPlan:
        """See `ImageSource.plan`."""
        total = self._count()
        return ShardPlan(total, stamp(self._file), cut(total, shard_images))

    def batches(
        self, shard: Shard, batch_size: int, notes: Path, revision: str
    ) -> Iterator[BatchReader]:
        """See `ImageSource.batches`."""
        check_unchanged(str(self._file), revision, stamp(self._file))
        with self._open() as file:
            images = self._image_columns(file.schema_arrow)
            others = [
                *([self._id] if self._id in file.schema_arrow.names else []),
                *self._options.columns,
            ]
            columns = [*images, *dict.fromkeys(others)]
            decode = self._pictures if images == [IMAGE] else self._pixels
            for row, rows in _rows(file, shard.start, shard.stop, batch_size, columns):
                yield partial(decode, rows, row, images)

    def record_id(self, shard: Shard, place: int, notes: Path) -> str:
        """See `ImageSource.record_id`."""
        row = shard.start + place
        with self._open() as file:
            if self._id not in file.schema_arrow.names:
                return str(row)
            ((_, rows),) = _rows(file, row, row + 1, 1, [self._id])
        return str(rows.column(self._id)[0].as_py())

    def _count(self) -> int:
        """How many rows it has; `InvalidSource` if it has none, or no images."""
        with self._open() as file:
            self._image_columns(file.schema_arrow)
            self._check_columns(file.schema_arrow)
            if not file.metadata.num_rows:
                raise InvalidSource(str(self._file), "a Parquet file without rows")
            return int(file.metadata.num_rows)

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(
                self._file if isinstance(self._file, Path) else self._file.open("rb")
            )
        except (pa.ArrowException, OSError) as error:
            raise InvalidSource(str(self._file), f"a damaged Parquet file ({error})") from error

    def _image_columns(self, schema: pa.Schema) -> list[str]:
        if IMAGE in schema.names and _holds_files(schema.field(IMAGE).type):
            return [IMAGE]
        others = {*NO_PIXELS, self._id, *self._options.columns}
        numbers = [
            field.name
            for field in schema
            if pa.types.is_integer(field.type) and field.name not in others
        ]
        if len(numbers) == PIXELS:
            return numbers
        received = f"a Parquet file with {len(numbers)} columns of whole numbers, and no column '{IMAGE}' of picture files"
        raise InvalidSource(str(self._file), f"{received} ({', '.join(schema.names[:5])} …)")

    def _check_columns(self, schema: pa.Schema) -> None:
        """Raises `ColumnNotFound` if one that was asked for is not there, `InvalidSource` if it is of a type that rows cannot have."""
        for column in [*([self._options.id] if self._options.id else []), *self._options.columns]:
            if column not in schema.names:
                raise ColumnNotFound(str(self._file), column, schema.names)
            kind = schema.field(column).type
            if pa.types.is_nested(kind) or _is_binary(kind):
                raise InvalidSource(
                    str(self._file),
                    f"a Parquet file whose column '{column}' is no text, number or time, but {kind}",
                )

    def _pictures(self, rows: pa.RecordBatch, first: int, images: Sequence[str]) -> Records:
        ids = self._ids(rows, first)
        column = rows.column(IMAGE)
        files = (column.field(BYTES) if pa.types.is_struct(column.type) else column).to_pylist()

        def read(entry: Entry) -> bytes:
            file = files[entry.where[0]]
            if file is None:
                raise InvalidRecord("a row without a picture file")
            return bytes(file)

        entries = [
            Entry(f"row {first + place}", [], NO_ID) if name is None else Entry(str(name), [place])
            for place, name in enumerate(ids)
        ]
        records = self._decoder.records(entries, read, self._others(rows))
        return (
            replace(records, ids=list(map(int, records.ids)))
            if self._numbered(rows.schema)
            else records
        )

    def _pixels(self, rows: pa.RecordBatch, first: int, images: Sequence[str]) -> Records:
        ids = self._ids(rows, first)
        null = np.zeros(len(rows), bool)
        pixels = np.empty((len(rows), PIXELS), np.int64)
        for place, name in enumerate(images):
            column = rows.column(name)
            null |= column.is_null().to_numpy(zero_copy_only=False)
            pixels[:, place] = column.fill_null(0).to_numpy(zero_copy_only=False)
        outside = ((pixels < 0) | (pixels > BRIGHTEST)).any(axis=1)
        nameless = np.array([name is None for name in ids])
        good = ~(null | outside | nameless)
        expected = f"{PIXELS} whole numbers from 0 to {BRIGHTEST}"
        errors: list[tuple[str, LoupeError]] = [
            (f"row {first + place}", InvalidRecord(NO_ID))
            if nameless[place]
            else (
                str(ids[place]),
                InvalidPixels(f"The row does not hold {expected}."),
            )
            for place in np.flatnonzero(~good)
        ]
        kept = [ids[place] for place in np.flatnonzero(good)]
        others = self._others(rows)
        columns = None if others is None else others.filter(pa.array(good))
        return Records(kept, pixels[good].astype(np.uint8).reshape(-1, SIDE, SIDE), errors, columns)

    def _others(self, rows: pa.RecordBatch) -> pa.Table | None:
        """What else is read of these rows."""
        return (
            pa.Table.from_batches([rows]).select(list(self._options.columns))
            if self._options.columns
            else None
        )

    def _ids(self, rows: pa.RecordBatch, first: int) -> list[Any]:
        """Numbers or texts; nothing for a row that has none."""
        if self._id not in rows.schema.names:
            return list(range(first, first + len(rows)))
        ids = rows.column(self._id).to_pylist()
        return (
            ids
            if self._numbered(rows.schema)
            else [None if name is None else printable(str(name)) for name in ids]
        )

    def _numbered(self, schema: pa.Schema) -> bool:
        return self._id not in schema.names or bool(
            pa.types.is_integer(schema.field(self._id).type)
        )


def _rows(
    file: pq.ParquetFile, start: int, stop: int, batch_size: int, columns: list[str]
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Rows from `start` on, a few at a time with the number of the first; row groups that have none of them are not read."""
    groups: list[int] = []
    first = begins = 0
    for group in range(file.num_row_groups):
        ends = begins + file.metadata.row_group(group).num_rows
        if begins < stop and ends > start:
            first = first if groups else begins
            groups.append(group)
        begins = ends
    row = first
    for rows in file.iter_batches(batch_size, row_groups=groups, columns=columns):
        wanted = rows.slice(
            max(0, start - row), max(0, min(stop, row + len(rows)) - max(start, row))
        )
        if len(wanted):
            yield max(start, row), wanted
        row += len(rows)
        if row >= stop:
            return


def _is_binary(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
        or pa.types.is_fixed_size_binary(kind)
    )


def _holds_files(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return kind.get_field_index(BYTES) >= 0 and _holds_files(kind.field(BYTES).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
