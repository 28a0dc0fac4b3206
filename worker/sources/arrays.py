"""Images in one array: `.npy`, `.npz`, and the IDX files of MNIST."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from loupe.errors import InvalidPixels, InvalidSource, LoupeError
from loupe.images import idx
from loupe.images.spec import SIDE, UInt8Array, check_batch
from worker.queue.steps import Shard
from worker.sources.source import BatchReader, Records, ShardPlan, check_unchanged, cut
from worker.storage import AnyPath, local_copy, open_ranges, versions

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK"
ROWS = "rows"  # file of the index: pixels of all images in C order
AnyArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class ArraySource:
    """An array of images, whose ids are row numbers.

    A shard reads only its rows. Planning copies compressed files and Fortran arrays to the index,
    because their rows do not stand one after another.
    """

    def __init__(self, file: AnyPath) -> None:
        self._file = file

    def check(self) -> None:
        """See `ImageSource.check`."""
        self._open()

    def plan(self, shard_images: int, index: Path) -> ShardPlan:
        """See `ImageSource.plan`."""
        images, offset = self._open()
        if offset is None:
            images.tofile(index / ROWS)
        return ShardPlan(len(images), versions([self._file]), cut(len(images), shard_images))

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
        offset = 0
        if not file.exists():
            images, found = self._open()
            if found is None:  # an older version planned the job, which is still in progress
                return np.ascontiguousarray(images[start:stop])
            file, offset = self._file, found
        first, last = (offset + row * SIDE * SIDE for row in (start, stop))
        with open_ranges(file, [(first, last)]) as read_at:
            data = read_at(last - first, first)
        whole = len(data) // SIDE**2 * SIDE**2
        return np.frombuffer(data, np.uint8, whole).reshape(-1, SIDE, SIDE)

    def _open(self) -> tuple[UInt8Array, int | None]:
        """Return the images and `None`, or only their outline and the offset of their first row.

        Raises:
            InvalidSource: If the file is not an array of images.
        """
        try:
            array, offset = _read_outline(self._file) or (self._load(), None)
            images = check_batch(array)
        except InvalidPixels as error:
            raise InvalidSource(
                f"'{self._file}' holds an array of {array.dtype}, shape {array.shape}. "
                f"Images are uint8 of shape (n, {SIDE}, {SIDE})."
            ) from error
        except LoupeError:
            raise
        except Exception as error:  # NumPy evaluates the header, which may be hostile
            raise InvalidSource(
                f"'{self._file}' is not a folder, archive, table or array of images ({error})."
            ) from error
        if not len(images):
            raise InvalidSource(f"'{self._file}' holds an array without images.")
        return images, offset

    def _load(self) -> AnyArray:
        with local_copy(self._file) as path:
            with path.open("rb") as file:
                if not file.read(len(ZIP_MAGIC)).startswith((ZIP_MAGIC, NPY_MAGIC[:2])):
                    return idx.read(path)
            with path.open("rb") as file:
                loaded = np.load(file, allow_pickle=False)
                if isinstance(loaded, np.ndarray):
                    return loaded
                if len(loaded.files) != 1:
                    names = ", ".join(sorted(loaded.files)[:5]) or "none"
                    raise InvalidSource(
                        f"'{self._file}' holds {len(loaded.files)} arrays ({names}) instead of one."
                    )
                return loaded[loaded.files[0]]  # type: ignore[no-any-return]


def _records(images: UInt8Array, start: int) -> Records:
    return Records(list(range(start, start + len(images))), images, [])


def _read_outline(file: AnyPath) -> tuple[AnyArray, int] | None:
    """Return an array of the file's dtype and shape without its values, and their offset.

    Returns `None` for compressed files and Fortran arrays.
    """
    with file.open("rb") as opened:
        magic = opened.read(len(NPY_MAGIC))
        opened.seek(0)
        if magic == NPY_MAGIC:
            is_version_1 = np.lib.format.read_magic(opened) == (1, 0)
            format_ = np.lib.format
            read_header = (
                format_.read_array_header_1_0 if is_version_1 else format_.read_array_header_2_0
            )
            shape, is_fortran, dtype = read_header(opened)
            offset = opened.tell()
            if is_fortran:
                return None
        elif magic.startswith((ZIP_MAGIC, idx.GZIP_MAGIC)):
            return None
        else:
            shape, offset = idx.header(opened.read(idx.MAX_HEADER_BYTES))
            dtype = np.dtype(np.uint8)
        length = opened.seek(0, os.SEEK_END) - offset
    outline = np.broadcast_to(np.zeros((), dtype), shape)
    if outline.nbytes > length or (outline.nbytes < length and magic != NPY_MAGIC):
        raise ValueError(f"a header of shape {shape} followed by {length:,} bytes")
    return outline, offset
