"""Images in one array: `.npy`, `.npz`, and the IDX files of MNIST."""

import gzip
import io
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from loupe.errors import InvalidSource
from loupe.files import ReadableFolders
from loupe.images import idx
from loupe.images.spec import SIDE, UInt8Array
from worker.queue.steps import Shard
from worker.sources import zips
from worker.sources.source import (
    BatchReader,
    Records,
    ShardPlan,
    check_unchanged,
    cut,
    listed,
    max_unpacked_bytes,
    short,
)
from worker.storage import AnyPath, open_file, open_ranges, versions

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK"
ROWS, COLUMNS = "rows", "columns"  # files of the index: pixels in C order, and in Fortran order
IMAGE_BYTES = SIDE * SIDE
HEAD_BYTES = 2**16  # that a header may take
CHUNK_BYTES = 2**20  # copied at a time
MAX_ARRAYS = 20  # that are counted in a file, which should have one
TRANSPOSED_IMAGES = 2**14  # at a time


class _Layout(NamedTuple):
    """The header of an array of images.

    Attributes:
        images: Number of images.
        offset: First byte of the first image.
        is_fortran: Whether the first pixels of all images come first.
        ends: Whether nothing may follow the images.
    """

    images: int
    offset: int
    is_fortran: bool
    ends: bool


class ArraySource:
    """An array of images, whose ids are row numbers.

    A shard reads only its rows. Planning copies compressed files and Fortran arrays to the index,
    because their rows do not stand one after another.
    """

    def __init__(self, file: AnyPath, folders: ReadableFolders | None = None) -> None:
        self._file = file
        self._folders = folders

    def check(self) -> None:
        """See `ImageSource.check`. Of a compressed file, only the beginning is unpacked."""
        with self._opened():
            pass

    def plan(self, shard_images: int, index: Path) -> ShardPlan:
        """See `ImageSource.plan`."""
        with self._opened() as (layout, chunks, is_packed):
            shards = cut(layout.images, shard_images)
            if is_packed or layout.is_fortran:
                copy = index / (COLUMNS if layout.is_fortran else ROWS)
                with copy.open("wb") as file:
                    _copy_values(layout, chunks, file)
        if layout.is_fortran:
            _transpose(copy, layout.images, index / ROWS)
            copy.unlink()
        return ShardPlan(layout.images, versions([self._file]), shards)

    def batches(
        self, shard: Shard, batch_size: int, index: Path, revision: str
    ) -> Iterator[BatchReader]:
        """See `ImageSource.batches`."""
        check_unchanged(self._file, revision, versions([self._file]))
        rows = self._rows(index, shard.start, shard.stop)
        check_unchanged(self._file, revision, versions([self._file]))  # while it was read
        for start in range(0, len(rows), batch_size):
            yield partial(_records, rows[start : start + batch_size], shard.start + start)

    def record_id(self, shard: Shard, position: int, index: Path) -> str:
        """See `ImageSource.record_id`."""
        return str(shard.start + position)

    def _rows(self, index: Path, start: int, stop: int) -> UInt8Array:
        """Read some rows. They are not mapped: access to a truncated mapped file is fatal."""
        file: AnyPath = index / ROWS
        folders, offset = None, 0
        if not file.exists():
            file, folders = self._file, self._folders
            with self._opened() as (layout, _, _):
                offset = layout.offset
        first, last = (offset + row * IMAGE_BYTES for row in (start, stop))
        with open_ranges(file, [(first, last)], folders) as read_at:
            data = read_at(last - first, first)
        whole = len(data) // IMAGE_BYTES * IMAGE_BYTES
        return np.frombuffer(data, np.uint8, whole).reshape(-1, SIDE, SIDE)

    @contextmanager
    def _opened(self) -> Iterator[tuple[_Layout, Iterator[bytes], bool]]:
        """Open the file; yield its layout, the unpacked bytes, and whether they were packed.

        Raises:
            InvalidSource: If the file is not an array of images, or cannot hold what it claims.
        """
        try:
            with open_file(self._file, self._folders) as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(0)
                magic = file.read(2)
                file.seek(0)
                is_packed = magic in (ZIP_MAGIC, idx.GZIP_MAGIC)
                chunks = self._unpacked(file, magic)
                head = next(chunks, b"")
                layout = self._layout(head[:HEAD_BYTES], is_packed=is_packed)
                length = layout.offset + layout.images * IMAGE_BYTES
                if is_packed and length > max_unpacked_bytes(size):
                    raise InvalidSource(
                        f"'{self._file}' claims {layout.images:,} images in {size:,} bytes. "
                        "Unpack the file first.",
                        code="source_too_large",
                    )
                if not is_packed and (size < length or (layout.ends and size > length)):
                    raise ValueError(
                        f"a header of shape {(layout.images, SIDE, SIDE)} followed by "
                        f"{size - layout.offset:,} bytes"
                    )
                yield layout, chain([head], chunks), is_packed
        except (ValueError, EOFError, gzip.BadGzipFile, struct.error, zlib.error) as error:
            raise InvalidSource(
                f"'{self._file}' is not a folder, archive, table or array of images "
                f"({short(error)})."
            ) from error

    def _unpacked(self, file: IO[bytes], magic: bytes) -> Iterator[bytes]:
        """Yield the bytes of the array in chunks."""
        if magic == ZIP_MAGIC:
            members = list(islice(zips.read_directory(file), MAX_ARRAYS))
            if len(members) != 1:
                names = listed(sorted(member.name.removesuffix(".npy") for member in members))
                raise InvalidSource(
                    f"'{self._file}' holds {len(members)} arrays ({names}) instead of one."
                )
            if why := members[0].why_unreadable():
                raise ValueError(why)
            _, _, method, crc, unpacked, compressed, offset = members[0]
            with open_ranges(self._file, [], self._folders) as read_at:
                yield from zips.unpack(read_at, offset, compressed, unpacked, method, crc)
        else:
            with gzip.open(file) if magic == idx.GZIP_MAGIC else nullcontext(file) as opened:
                while chunk := opened.read(CHUNK_BYTES):
                    yield chunk

    def _layout(self, head: bytes, *, is_packed: bool) -> _Layout:
        """Return the layout that a header describes; raise `ValueError` if it is none."""
        is_fortran = False
        if is_npy := head.startswith(NPY_MAGIC):
            shape, offset, is_fortran, kind = _read_npy_header(head)
        else:
            shape, offset = idx.header(head)
            kind = np.dtype(np.uint8)
        if kind != np.uint8 or shape[1:] != (SIDE, SIDE) or shape[0] < 0:
            raise InvalidSource(
                f"'{self._file}' holds an array of {short(kind)}, shape {short(shape)}. "
                f"Images are uint8 of shape (n, {SIDE}, {SIDE})."
            )
        if not shape[0]:
            raise InvalidSource(f"'{self._file}' holds an array without images.")
        return _Layout(shape[0], offset, is_fortran, ends=is_packed or not is_npy)


def _records(images: UInt8Array, start: int) -> Records:
    return Records(list(range(start, start + len(images))), images, [])


def _read_npy_header(head: bytes) -> tuple[tuple[int, ...], int, bool, np.dtype[Any]]:
    """Return shape, offset of the values, order and type; raise `ValueError` for a bad header."""
    file = io.BytesIO(head)
    try:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, is_fortran, kind = np.lib.format.read_array_header_1_0(file)
        else:
            shape, is_fortran, kind = np.lib.format.read_array_header_2_0(file)
    except Exception as error:  # NumPy evaluates the header, which may be hostile
        raise ValueError(f"a damaged header of NumPy: {error}") from error
    return shape, file.tell(), is_fortran, kind


def _copy_values(layout: _Layout, chunks: Iterator[bytes], to: IO[bytes]) -> None:
    """Write the images of an array; raise `ValueError` if there are fewer or more bytes."""
    skipped, missing = layout.offset, layout.images * IMAGE_BYTES
    for chunk in chunks:
        values = chunk[skipped:]
        skipped = max(0, skipped - len(chunk))
        if len(values) > missing and layout.ends:
            raise ValueError(f"more bytes follow the {layout.images:,} images of the header")
        missing -= to.write(values[:missing])
    if missing:
        raise ValueError(f"{missing:,} bytes of the {layout.images:,} images are missing")


def _transpose(columns: Path, count: int, rows: Path) -> None:
    """Copy images from Fortran order to C order."""
    with columns.open("rb") as source, rows.open("wb") as target:
        for start in range(0, count, TRANSPOSED_IMAGES):
            size = min(TRANSPOSED_IMAGES, count - start)
            values = [
                os.pread(source.fileno(), size, pixel * count + start)
                for pixel in range(IMAGE_BYTES)
            ]
            block = np.frombuffer(b"".join(values), np.uint8).reshape(SIDE, SIDE, size)
            target.write(block.transpose(2, 1, 0).tobytes())
