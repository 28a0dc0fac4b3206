"""Images in one array: `.npy`, `.npz`, and the IDX files of MNIST."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from loupe.errors import InvalidPixels, LoupeError
from loupe.images import idx
from loupe.images.spec import SIDE, UInt8Array, check_batch
from loupe.old_errors.worker import InvalidSource
from worker.queue.steps import Shard
from worker.sources.source import BatchReader, Records, ShardPlan, check_unchanged, cut, stamp
from worker.storage import AnyPath, local_copy, open_ranges

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK"
AnyArray: TypeAlias = np.ndarray[Any, np.dtype[Any]]


class ArraySource:
    """An array of images, of which each shard reads its rows, from disk or from a bucket; packed ones are unpacked as a whole."""

    def __init__(self, file: AnyPath) -> None:
        self._file = file

    def check(self) -> None:
        """See `ImageSource.check`."""
        self._open()

    def plan(self, shard_images: int, notes: Path) -> ShardPlan:
        """See `ImageSource.plan`."""
        images, _ = self._open()
        return ShardPlan(len(images), stamp(self._file), cut(len(images), shard_images))

    def batches(
        self, shard: Shard, batch_size: int, notes: Path, revision: str
    ) -> Iterator[BatchReader]:
        """See `ImageSource.batches`."""
        check_unchanged(str(self._file), revision, stamp(self._file))
        images, begin = self._open()
        first, stop = 0, shard.stop
        if begin is not None:
            first = shard.start
            images = self._fetch(begin, first, stop, revision)
        for start in range(shard.start, stop, batch_size):
            yield partial(
                self._read_rows, images, revision, first, start, min(start + batch_size, stop)
            )

    def record_id(self, shard: Shard, place: int, notes: Path) -> str:
        """See `ImageSource.record_id`."""
        return str(shard.start + place)

    def _read_rows(
        self, images: UInt8Array, revision: str, first: int, start: int, stop: int
    ) -> Records:
        """Rows from `start` on of an array whose first row is `first`."""
        if isinstance(
            self._file, Path
        ):  # who reads from a mapped file what is not there any more is killed (SIGBUS)
            check_unchanged(str(self._file), revision, stamp(self._file))
        return Records(list(range(start, stop)), images[start - first : stop - first].copy(), [])

    def _open(self) -> tuple[UInt8Array, int | None]:
        """All of its images, or only their shape, and where in the file they begin; `InvalidSource` if it is no array of images."""
        try:
            array, begin = self._load()
            images = check_batch(array)
        except InvalidPixels as error:
            raise InvalidSource(
                str(self._file),
                f"{array.dtype}, shape {array.shape}, not uint8 (n, {SIDE}, {SIDE})",
            ) from error
        except LoupeError:
            raise
        except (
            Exception
        ) as error:  # NumPy hands on what Python's tokenizer makes of a hostile header
            raise InvalidSource(str(self._file), f"a file that is neither ({error})") from error
        if not len(images):
            raise InvalidSource(str(self._file), "an array without images")
        return images, begin

    def _load(self) -> tuple[AnyArray, int | None]:
        outline = _outline(self._file)
        if outline is not None:
            return outline
        with local_copy(self._file) as path:
            return self._load_local(path), None

    def _load_local(self, path: Path) -> AnyArray:
        with path.open("rb") as file:
            magic = file.read(len(NPY_MAGIC))
        if magic == NPY_MAGIC:
            return np.load(path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        if not magic.startswith(ZIP_MAGIC):
            return idx.read(path)
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if len(arrays.files) != 1:
                named = ", ".join(sorted(arrays.files)[:5]) or "none"
                raise InvalidSource(
                    str(self._file), f"{len(arrays.files)} arrays ({named}), not one"
                )
            return arrays[arrays.files[0]]  # type: ignore[no-any-return]

    def _fetch(self, begin: int, start: int, stop: int, revision: str) -> UInt8Array:
        """Rows of a file whose images begin somewhere. They are read and not mapped: a file may be cut short at any time."""
        row = SIDE * SIDE
        first, last = begin + start * row, begin + stop * row
        with open_ranges(self._file, [(first, last)]) as read_at:
            data = read_at(last - first, first)
        check_unchanged(str(self._file), revision, stamp(self._file))
        return np.frombuffer(data, np.uint8).reshape(-1, SIDE, SIDE)


def _outline(file: AnyPath) -> tuple[AnyArray, int] | None:
    """An array of the type and the shape of the one in a file, without its values, and where those begin.

    `None` if the rows do not lie there one behind the other: packed ones, and those in Fortran's order.
    """
    with file.open("rb") as opened:
        head = opened.read(len(NPY_MAGIC))
        opened.seek(0)
        if head == NPY_MAGIC:
            version = np.lib.format.read_magic(opened)
            read_header = (
                np.lib.format.read_array_header_1_0
                if version == (1, 0)
                else np.lib.format.read_array_header_2_0
            )
            shape, is_fortran, dtype = read_header(opened)
            begin = opened.tell()
            if is_fortran:
                return None
        elif head.startswith((ZIP_MAGIC, idx.GZIP_MAGIC)):
            return None
        else:
            shape, begin = idx.header(opened.read(idx.MAX_HEADER_BYTES))
            dtype = np.dtype(np.uint8)
        length = opened.seek(0, os.SEEK_END) - begin
    outline = np.broadcast_to(np.zeros((), dtype), shape)
    if outline.nbytes > length or (outline.nbytes < length and head != NPY_MAGIC):
        raise ValueError(f"a header of shape {shape} followed by {length:,} bytes")
    return outline, begin
