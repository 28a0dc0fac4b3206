"""Images in one array: `.npy`, `.npz`, and the IDX files of MNIST."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from loupe import idx
from loupe.errors import InvalidPixels, InvalidSource
from loupe.images import SIDE, UInt8Array, check_batch
from worker.jobs import Step
from worker.sources.source import Batch, Plan, Records, check_unchanged, cut, stamp

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK"


class ArraySource:
    """An array of images, mapped from disk where it can be."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def check(self) -> None:
        """See `Source.check`."""
        self._open()

    def plan(self, shard_images: int, notes: Path) -> Plan:
        """See `Source.plan`."""
        total = len(self._open())
        return Plan(total, stamp(self._path), cut(total, shard_images))

    def batches(self, shard: Step, batch_size: int, notes: Path, revision: str) -> Iterator[Batch]:
        """See `Source.batches`."""
        check_unchanged(str(self._path), revision, stamp(self._path))
        images = self._open()
        for start in range(shard["start"], shard["stop"], batch_size):
            yield partial(_read_rows, images, start, min(start + batch_size, shard["stop"]))

    def record_id(self, shard: Step, place: int, notes: Path) -> str:
        """See `Source.record_id`."""
        return str(shard["start"] + place)

    def _open(self) -> UInt8Array:
        """All of its images; `InvalidSource` if it is no array of images."""
        try:
            array = self._load()
            images = check_batch(array)
        except InvalidSource:
            raise
        except InvalidPixels as error:
            raise InvalidSource(
                str(self._path), f"{array.dtype}, shape {array.shape}, not uint8 (n, {SIDE}, {SIDE})"
            ) from error
        except Exception as error:  # NumPy hands on what Python's tokenizer makes of a hostile header
            raise InvalidSource(str(self._path), f"a file that is neither ({error})") from error
        if not len(images):
            raise InvalidSource(str(self._path), "an array without images")
        return images

    def _load(self) -> np.ndarray[Any, np.dtype[Any]]:
        with self._path.open("rb") as file:
            magic = file.read(len(NPY_MAGIC))
        if magic == NPY_MAGIC:
            return np.load(self._path, mmap_mode="r", allow_pickle=False)  # type: ignore[no-any-return]
        if not magic.startswith(ZIP_MAGIC):
            return idx.read(self._path)
        with self._path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            if len(arrays.files) != 1:
                named = ", ".join(sorted(arrays.files)[:5]) or "none"
                raise InvalidSource(str(self._path), f"{len(arrays.files)} arrays ({named}), not one")
            return arrays[arrays.files[0]]  # type: ignore[no-any-return]


def _read_rows(images: UInt8Array, start: int, stop: int) -> Records:
    return Records(list(range(start, stop)), images[start:stop], [])
