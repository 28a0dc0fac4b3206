"""Images in one array: `.npy`, `.npz`, and the IDX files of MNIST."""

import gzip
import os
import struct
import zlib
from collections.abc import Container, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from loupe.errors import InvalidSource
from loupe.files import ReadableFolders, max_unpacked_bytes, printable
from loupe.images.arrays import idx
from loupe.images.arrays.npy import (
    HEAD_BYTES,
    NPY_MAGIC,
    Header,
    Layout,
    copy_values,
    read_header,
    write_in_c_order,
)
from loupe.images.arrays.shapes import fits, has_planes, to_batch
from loupe.images.arrays.shapes import listed as shapes_of
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from worker.queue.steps import Shard
from worker.sources.archives import zips
from worker.sources.checks import check_columns, check_unchanged, listed, short
from worker.sources.listing import MAX_ENTRY_BYTES
from worker.sources.source import (
    MAX_GROWN_SHARD,
    BatchReader,
    ColumnTypes,
    Records,
    ShardPlan,
    cut,
    id_type,
)
from worker.sources.tables.rows import id_text, read_rows, row_name, stacked
from worker.storage import AnyPath, open_file, open_ranges, versions

ZIP_MAGIC = b"PK"
# Files of the index: pixels in C order, the same with colours first, and pixels in Fortran order.
ROWS, PLANES, FORTRAN = "rows", "planes", "columns"
COLUMNS = "columns.parquet"  # file of the index: the arrays that options name
CHUNK_BYTES = 2**20  # copied at a time
MAX_ARRAYS = 100  # in a file
COLUMN_KINDS = "biufSU"  # NumPy's letters for bool, integers, floats, bytes and text
LONG_DOUBLE = "g"  # NumPy's letter for floats that PyArrow does not have
MAX_COLUMN_BYTES = 2**28  # of labels, ids or kept values, unpacked


class ArraySource:
    """An array of images, whose ids are row numbers.

    In an `.npz`, arrays with a value for each image are its columns.

    A shard reads only its rows. Planning copies compressed files and Fortran arrays to the index,
    because the values of a row are not next to each other.
    """

    def __init__(
        self,
        file: AnyPath,
        spec: ImageSpec,
        options: ScoringOptions = DEFAULT_OPTIONS,
        folders: ReadableFolders | None = None,
    ) -> None:
        self._file = file
        self._spec = spec
        self._folders = folders
        self._options = options
        self._columns = list(filter(None, dict.fromkeys([options.id, *options.columns])))

    def check(self) -> None:
        """See `ImageSource.check`. Of a compressed file, only the beginning is unpacked."""
        with self._opened() as (layout, _, _):
            self._read_columns(layout.images)

    def plan(self, shard_images: int, index: Path) -> ShardPlan:
        """See `ImageSource.plan`."""
        with self._opened() as (layout, chunks, is_packed):
            shards = cut(layout.images, shard_images)
            rows = index / (PLANES if has_planes((0, *layout.shape), self._spec) else ROWS)
            if is_packed or layout.is_fortran:
                copy = index / FORTRAN if layout.is_fortran else rows
                with copy.open("wb") as file:
                    copy_values(layout, chunks, file)
            if columns := self._read_columns(layout.images):
                pq.write_table(pa.table(columns), index / COLUMNS, row_group_size=MAX_GROWN_SHARD)
        if layout.is_fortran:
            write_in_c_order(copy, rows, layout)
            copy.unlink()
        return ShardPlan(layout.images, versions([self._file]), shards)

    def column_types(self, index: Path) -> ColumnTypes:
        """See `ImageSource.column_types`."""
        if not self._columns:
            return ColumnTypes(pa.int64())
        schema = pq.read_schema(index / COLUMNS)
        kept = pa.schema([schema.field(name) for name in self._options.columns])
        ids = id_type(schema.field(self._options.id).type) if self._options.id else pa.int64()
        return ColumnTypes(ids, kept)

    def batches(
        self, shard: Shard, batch_size: int, index: Path, revision: str
    ) -> Iterator[BatchReader]:
        """See `ImageSource.batches`."""
        check_unchanged(self._file, revision, versions([self._file]))
        rows = self._rows(index, shard.start, shard.stop)
        check_unchanged(self._file, revision, versions([self._file]))  # while it was read
        columns = self._planned_columns(index, shard.start, shard.stop)
        for start in range(0, len(rows), batch_size):
            yield partial(
                self._records,
                rows[start : start + batch_size],
                shard.start + start,
                None if columns is None else columns.slice(start, batch_size),
            )

    def record_id(self, shard: Shard, position: int, index: Path) -> str:
        """See `ImageSource.record_id`."""
        row = shard.start + position
        return row_name(self._ids(row, 1, self._planned_columns(index, row, row + 1))[0], row)

    def previews(self, ids: Container[str], index: Path) -> dict[str, UInt8Array]:
        """See `ImageSource.previews`."""
        return {}

    def _rows(self, index: Path, start: int, stop: int) -> UInt8Array:
        """Read some rows. They are not mapped: access to a truncated mapped file is fatal."""
        file, shape, offset = self._planned_rows(index)
        size = self._spec.nbytes
        first, last = (offset + row * size for row in (start, stop))
        folders = self._folders if file == self._file else None
        with open_ranges(file, [(first, last)], folders) as read_at:
            data = read_at(last - first, first)
        rows = np.frombuffer(data, np.uint8, len(data) // size * size).reshape(-1, *shape)
        return to_batch(rows, self._spec)

    def _planned_rows(self, index: Path) -> tuple[AnyPath, tuple[int, ...], int]:
        """Return the file with the pixels in C order, the shape of one image, and its offset."""
        if (index / ROWS).exists():
            return index / ROWS, self._spec.shape, 0
        if (index / PLANES).exists():
            return index / PLANES, (self._spec.channels, self._spec.height, self._spec.width), 0
        with self._opened() as (layout, _, _):
            return self._file, layout.shape, layout.offset

    def _records(self, images: UInt8Array, start: int, columns: pa.Table | None) -> Records:
        names, ids = list(self._options.columns), self._ids(start, len(images), columns)
        kept = columns.select(names) if columns is not None and names else None
        if None not in ids:
            return Records(ids, images, [], kept)
        return stacked(ids, images, np.ones(len(ids), bool), start, kept)

    def _ids(self, start: int, count: int, columns: pa.Table | None) -> list[Any]:
        """Return the ids of some rows; `None` for a row without one."""
        if columns is None or not self._options.id:
            return list(range(start, start + count))
        column = columns[self._options.id]
        ids: list[Any] = column.to_pylist()
        return ids if id_type(column.type) == pa.int64() else list(map(id_text, ids))

    def _planned_columns(self, index: Path, start: int, stop: int) -> pa.Table | None:
        """Return the requested columns of some rows."""
        if not self._columns:
            return None
        with pq.ParquetFile(index / COLUMNS) as file:
            found = read_rows(file, start, stop, stop - start, self._columns)
            return pa.Table.from_batches([rows for _, rows in found])

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """Raise `InvalidSource` for all damage of the file."""
        try:
            yield
        except (ValueError, EOFError, gzip.BadGzipFile, struct.error, zlib.error) as error:
            raise InvalidSource(
                f"'{self._file}' is not a folder, archive, table or array of images "
                f"({short(error)})."
            ) from error

    @contextmanager
    def _opened(self) -> Iterator[tuple[Layout, Iterator[bytes], bool]]:
        """Open the file; yield its layout, the unpacked bytes, and whether they were packed.

        Raises:
            InvalidSource: If the file is not an array of images, or cannot hold what it claims.
        """
        with self._reading(), open_file(self._file, self._folders) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            magic = file.read(2)
            file.seek(0)
            is_packed = magic in (ZIP_MAGIC, idx.GZIP_MAGIC)
            chunks = self._unpacked(file, magic)
            head = next(chunks, b"")
            layout = self._layout(head[:HEAD_BYTES], is_packed=is_packed)
            if is_packed and layout.stop > max_unpacked_bytes(size):
                raise InvalidSource(
                    f"'{self._file}' claims {layout.images:,} images in {size:,} bytes. "
                    "Unpack the file first.",
                    code="source_too_large",
                )
            if not is_packed and (size < layout.stop or (layout.ends and size > layout.stop)):
                raise ValueError(
                    f"a header of shape {(layout.images, *layout.shape)} followed by "
                    f"{size - layout.offset:,} bytes"
                )
            yield layout, chain([head], chunks), is_packed

    def _unpacked(self, file: IO[bytes], magic: bytes) -> Iterator[bytes]:
        """Yield the bytes of the array in chunks."""
        if magic == ZIP_MAGIC:
            yield from self._unpack(self._choose(self._arrays(file)))
            return
        self._refuse_name()
        with gzip.open(file) if magic == idx.GZIP_MAGIC else nullcontext(file) as opened:
            while chunk := opened.read(CHUNK_BYTES):
                yield chunk

    def _arrays(self, file: IO[bytes]) -> dict[str, zips.Member]:
        """Return the arrays of an `.npz` by name."""
        members = list(islice(zips.read_directory(file), MAX_ARRAYS + 1))
        if len(members) > MAX_ARRAYS:
            raise InvalidSource(
                f"'{self._file}' holds more than {MAX_ARRAYS} arrays.", code="source_too_large"
            )
        return {member.name.removesuffix(".npy"): member for member in members}

    def _choose(self, arrays: dict[str, zips.Member]) -> zips.Member:
        """Return the array to score."""
        if self._options.array is not None and self._options.array not in arrays:
            self._refuse_name(listed(sorted(arrays)))
        names = [self._options.array] if self._options.array is not None else list(arrays)
        if len(names) > 1:
            headers = {name: self._header(member) for name, member in arrays.items()}
            names = [name for name in names if fits(headers[name].shape, self._spec)]
        if len(names) != 1:
            known = [f"{name} {headers[name].shape}" for name in names or sorted(arrays)]
            raise InvalidSource(
                f"'{self._file}' holds {len(names)} arrays of images, uint8 of shape "
                f"{shapes_of(self._spec)}: choose one with --array. Arrays: {listed(known)}.",
                code="array_not_found",
            )
        return arrays[names[0]]

    def _refuse_name(self, known: str = "its array has no name") -> None:
        """Raise `InvalidSource` if an array is requested by name."""
        if self._options.array is not None:
            raise InvalidSource(
                f"'{self._file}' has no array {self._options.array!r}: {known}.",
                code="array_not_found",
            )

    def _unpack(self, member: zips.Member) -> Iterator[bytes]:
        """Yield the bytes of an array in chunks."""
        if why := member.why_unreadable():
            raise ValueError(why)
        _, _, method, crc, unpacked, compressed, offset, _ = member
        with open_ranges(self._file, [], self._folders) as read_at:
            yield from zips.unpack(read_at, offset, compressed, unpacked, method, crc)

    def _header(self, member: zips.Member) -> Header:
        return read_header(next(self._unpack(member), b""))

    def _read_columns(self, images: int) -> dict[str, pa.Array]:
        """Return the requested columns, arrays of an `.npz` with a value for each image."""
        if not self._columns:
            return {}
        with self._reading(), open_file(self._file, self._folders) as file:
            is_npz = file.read(2) == ZIP_MAGIC
            members = self._arrays(file) if is_npz else {}
            headers = {name: self._header(member) for name, member in members.items()}
            check_columns(self._file, self._options, list(headers) if is_npz else None)
            for name in self._columns:
                self._check_column(name, headers[name], images)
            return {name: self._values(members[name], headers[name]) for name in self._columns}

    def _check_column(self, name: str, header: Header, images: int) -> None:
        """Raise `InvalidSource` if an array has not one number or text for each image."""
        is_value = header.dtype.kind in COLUMN_KINDS and header.dtype.char != LONG_DOUBLE
        if header.shape not in ((images,), (images, 1)) or not is_value:
            raise InvalidSource(
                f"The array {name!r} of '{self._file}' cannot be a column: it is "
                f"{short(header.dtype)} of shape {short(header.shape)}. A column has one number or "
                f"text for each of the {images:,} images; of one-hot labels, save the argmax."
            )

    def _values(self, member: zips.Member, header: Header) -> pa.Array:
        """Return the values of a column."""
        stop = header.offset + header.nbytes
        if header.dtype.itemsize > MAX_ENTRY_BYTES or stop > MAX_COLUMN_BYTES:
            raise InvalidSource(
                f"The array '{member.name}' of '{self._file}' claims {stop:,} bytes.",
                code="source_too_large",
            )
        data = bytearray()
        for chunk in self._unpack(member):
            data += chunk
            if len(data) > stop:
                break
        if len(data) != stop:
            raise ValueError(f"'{member.name}' has more or fewer bytes than its header claims")
        values = np.frombuffer(data, header.dtype, offset=header.offset)
        if values.dtype.kind == "S":
            return pa.array(value.decode("utf-8", "backslashreplace") for value in values.tolist())
        if values.dtype.kind == "U":
            return pa.array(map(printable, values.tolist()))
        return pa.array(values.astype(values.dtype.newbyteorder("=")))  # PyArrow wants it

    def _layout(self, head: bytes, *, is_packed: bool) -> Layout:
        """Return the layout that a header describes; raise `ValueError` if it has none."""
        if is_npy := head.startswith(NPY_MAGIC):
            found = read_header(head)
        else:
            shape, offset = idx.header(head)
            found = Header(shape, offset, is_fortran=False, dtype=np.dtype(np.uint8))
        if found.dtype != np.uint8 or not fits(found.shape, self._spec):
            raise InvalidSource(
                f"'{self._file}' holds an array of {short(found.dtype)}, shape "
                f"{short(found.shape)}. The model takes uint8 of shape {shapes_of(self._spec)}."
            )
        if not found.shape[0]:
            raise InvalidSource(f"'{self._file}' holds an array without images.")
        return Layout(
            found.shape[0],
            found.offset,
            found.is_fortran,
            tuple(found.shape[1:]),
            ends=is_packed or not is_npy,
        )
