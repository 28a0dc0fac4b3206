"""A CSV with a column for each pixel, as on Kaggle; planning copies it to a Parquet file."""

from collections.abc import Container, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from loupe.errors import InvalidSource
from loupe.files import ReadableFolders, printable
from loupe.images.arrays import tables
from loupe.images.arrays.tables import Layout
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from worker.queue.steps import Shard
from worker.sources.checks import check_columns, check_unchanged, damaged
from worker.sources.source import BatchReader, ColumnTypes, Records, ShardPlan, cut
from worker.sources.tables.parquet import ID
from worker.sources.tables.rows import check_texts, read_rows, row_name, stacked
from worker.storage import AnyPath, open_file, versions

COPY = "pixels.parquet"  # file of the index
IMAGE = "image"  # column of the copy; null if a pixel is invalid
INVALID = "The row has more or fewer values than others, or a pixel that is no integer in 0..255."
COLUMN = "column-{}"  # names in the copy, since those of the file may be anything


class PixelSource:
    """The rows of a CSV of pixels, with ids from a column or, without one, row numbers."""

    def __init__(
        self,
        file: AnyPath,
        layout: Layout,
        spec: ImageSpec,
        options: ScoringOptions = DEFAULT_OPTIONS,
        folders: ReadableFolders | None = None,
    ) -> None:
        self._file = file
        self._layout = layout
        self._spec = spec
        self._folders = folders
        self._kept = options.columns
        self._has_ids = options.id is not None or ID in layout.names
        ids = [options.id or ID] if self._has_ids else []
        self._columns = list(dict.fromkeys([*self._kept, *ids]))
        self._id = options.id or ID
        check_columns(file, options, layout.others)

    def check(self) -> None:
        """See `ImageSource.check`."""
        with self._reading() as rows:
            if next(rows, None) is None:
                self._refuse_empty()

    def plan(self, shard_images: int, index: Path) -> ShardPlan:
        """See `ImageSource.plan`."""
        total = 0
        texts = [
            pa.field(COLUMN.format(number), pa.string()) for number in range(len(self._columns))
        ]
        kind = pa.binary(self._spec.nbytes)
        schema = pa.schema([pa.field(IMAGE, kind), *texts])
        with self._reading() as rows, pq.ParquetWriter(index / COPY, schema) as copy:
            for pixels, are_valid, columns in rows:
                check_texts(self._file, zip(columns.column_names, columns.columns, strict=True))
                images = pa.FixedSizeBinaryArray.from_buffers(
                    kind, len(pixels), [None, pa.py_buffer(pixels)]
                )
                images = pc.if_else(pa.array(are_valid), images, pa.scalar(None, kind))
                copy.write_table(pa.table([images, *columns.columns], schema=schema))
                total += len(pixels)
        if not total:
            self._refuse_empty()
        return ShardPlan(total, versions([self._file]), cut(total, shard_images))

    def column_types(self, index: Path) -> ColumnTypes:
        """See `ImageSource.column_types`."""
        kept = pa.schema([(name, pa.string()) for name in self._kept])
        return ColumnTypes(pa.string() if self._has_ids else pa.int64(), kept)

    def batches(
        self, shard: Shard, batch_size: int, index: Path, revision: str
    ) -> Iterator[BatchReader]:
        """See `ImageSource.batches`."""
        check_unchanged(self._file, revision, versions([self._file]))
        for row, rows in self._copied(index, shard.start, shard.stop, batch_size):
            yield partial(self._records, rows, row)

    def record_id(self, shard: Shard, position: int, index: Path) -> str:
        """See `ImageSource.record_id`."""
        row = shard.start + position
        ((_, rows),) = self._copied(index, row, row + 1, 1)
        return row_name(self._ids(rows, row)[0], row)

    def previews(self, ids: Container[str], index: Path) -> dict[str, UInt8Array]:
        """See `ImageSource.previews`."""
        return {}

    def _copied(
        self, index: Path, start: int, stop: int, batch_size: int
    ) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield batches of rows from the copy, under their own names."""
        with pq.ParquetFile(index / COPY) as file:
            for row, rows in read_rows(file, start, stop, batch_size, file.schema_arrow.names):
                yield row, rows.rename_columns([IMAGE, *self._columns])

    def _records(self, rows: pa.RecordBatch, start: int) -> Records:
        images: list[bytes | None] = rows.column(0).to_pylist()
        nothing = bytes(self._spec.nbytes)
        data = b"".join(image or nothing for image in images)
        pixels: UInt8Array = np.frombuffer(data, np.uint8).reshape(-1, *self._spec.shape)
        are_valid = np.array([image is not None for image in images])
        columns = pa.table(rows.columns[1:], self._columns)
        kept = columns.select(list(self._kept)) if self._kept else None
        ids = self._ids(rows, start)
        return stacked(ids, pixels, are_valid, start, kept, INVALID)

    def _ids(self, rows: pa.RecordBatch, start: int) -> list[Any]:
        """Return the ids; `None` for a row without one."""
        if not self._has_ids:
            return list(range(start, start + len(rows)))
        column = rows.column(1 + self._columns.index(self._id))
        return [printable(name) if name else None for name in column.to_pylist()]

    @contextmanager
    def _reading(self) -> Iterator[Iterator[tables.Rows]]:
        """Open the file; raise `InvalidSource` for all damage."""
        try:
            with open_file(self._file, self._folders) as file:
                yield tables.read_rows(file, self._layout, self._columns)
        except (pa.ArrowException, OSError, ValueError) as error:
            raise damaged(f"CSV of pixels '{self._file}'", error) from error

    def _refuse_empty(self) -> None:
        raise InvalidSource(f"'{self._file}' has no rows.")
