"""What can be scored: a folder of images, an `.npy` array, an IDX file. A source is planned once and then read shard by shard."""

import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NoReturn, Protocol, TypeAlias

import numpy as np

from loupe import idx
from loupe.errors import InvalidImage, InvalidPixels, InvalidSource, LoupeError, SourceChanged
from loupe.images import SIDE, SUFFIXES, Look, Picture, UInt8Array, check_batch, open_picture, read_file
from worker.jobs import Step

NPY_MAGIC = b"\x93NUMPY"
SMALL_PIXELS = 64 * 64  # up to here, decoding is mostly Python


@dataclass(frozen=True)
class Records:
    """Some records of a source, in its order.

    Attributes:
        ids: Path or row number of each record that could be read.
        images: uint8, shape `(len(ids), 28, 28)`.
        errors: Id and error of each record that could not be read.
    """

    ids: list[str] | list[int]
    images: UInt8Array
    errors: list[tuple[str, LoupeError]]


Batch: TypeAlias = Callable[[], Records]  # read when it is called, by whichever thread has time


@dataclass(frozen=True)
class Plan:
    """How a source is cut.

    Attributes:
        total: Records in it.
        revision: Changes when the source does.
        shards: The steps that score it.
    """

    total: int
    revision: str
    shards: list[Step]


class Source(Protocol):
    """A set of images."""

    def plan(self, shard_images: int, listing: Path) -> Plan:
        """Cut the source into shards of at most `shard_images` records. `listing` is a file to keep notes in."""

    def batches(self, shard: Step, batch_size: int, listing: Path, revision: str) -> Iterator[Batch]:
        """The records of one shard, a few at a time; `SourceChanged` if the source is not what was planned."""


class ArraySource:
    """Images in one array: an `.npy` file or an IDX file, mapped from disk where it can be."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def plan(self, shard_images: int, listing: Path) -> Plan:
        """See `Source.plan`."""
        total = len(self._open())
        return Plan(total, self._revision(), _cut(total, shard_images))

    def batches(self, shard: Step, batch_size: int, listing: Path, revision: str) -> Iterator[Batch]:
        """See `Source.batches`."""
        if self._revision() != revision:
            raise SourceChanged(str(self._path))
        images = self._open()
        for start in range(shard["start"], shard["stop"], batch_size):
            yield partial(_read_rows, images, start, min(start + batch_size, shard["stop"]))

    def _open(self) -> UInt8Array:
        try:
            with self._path.open("rb") as file:
                is_npy = file.read(len(NPY_MAGIC)) == NPY_MAGIC
            array = np.load(self._path, mmap_mode="r", allow_pickle=False) if is_npy else idx.read(self._path)
            images = check_batch(array)
        except InvalidPixels as error:
            raise InvalidSource(
                str(self._path), f"{array.dtype}, shape {array.shape}, not uint8 (n, {SIDE}, {SIDE})"
            ) from error
        except Exception as error:  # NumPy hands on what Python's tokenizer makes of a hostile header
            raise InvalidSource(str(self._path), f"a file that is neither ({error})") from error
        if not len(images):
            raise InvalidSource(str(self._path), "an array without images")
        return images

    def _revision(self) -> str:
        status = self._path.stat()
        return f"{status.st_size}-{status.st_mtime_ns}"


class FolderSource:
    """Image files below a folder, in the order of their paths."""

    def __init__(self, folder: Path, look: Look, max_pixels: int) -> None:
        self._folder = folder
        self._look = look
        self._max_pixels = max_pixels
        self._turn = threading.Lock()

    def plan(self, shard_images: int, listing: Path) -> Plan:
        """See `Source.plan`. The listing gets one path a line, as JSON, so that no shard has to list the folder again."""
        revision = hashlib.sha256()
        offsets = []
        total = 0
        with listing.open("wb") as lines:
            for path in _image_files(self._folder):
                if total % shard_images == 0:
                    offsets.append(lines.tell())
                line = json.dumps(path).encode() + b"\n"
                revision.update(line)
                lines.write(line)
                total += 1
        if not total:
            raise InvalidSource(str(self._folder), f"a folder without {', '.join(sorted(SUFFIXES))} files")
        shards = _cut(total, shard_images)
        for shard, offset in zip(shards, offsets, strict=True):
            shard["offset"] = offset
        return Plan(total, revision.hexdigest(), shards)

    def batches(self, shard: Step, batch_size: int, listing: Path, revision: str) -> Iterator[Batch]:
        """See `Source.batches`."""
        with listing.open("rb") as lines:
            lines.seek(shard["offset"])
            paths: list[str] = [json.loads(lines.readline()) for _ in range(shard["start"], shard["stop"])]
        for start in range(0, len(paths), batch_size):
            yield partial(self._decode, paths[start : start + batch_size])

    def _decode(self, paths: list[str]) -> Records:
        with self._turn:  # threads that decode small pictures at once only fight over the interpreter
            return self._decode_all(paths)

    def _decode_all(self, paths: list[str]) -> Records:
        ids: list[str] = []
        images: list[UInt8Array] = []
        errors: list[tuple[str, LoupeError]] = []
        for path in paths:
            outcome = self._decode_file(path)
            if isinstance(outcome, LoupeError):
                errors.append((printable(path), outcome))
            else:
                ids.append(printable(path))
                images.append(outcome)
        return Records(ids, np.stack(images) if images else np.empty((0, SIDE, SIDE), np.uint8), errors)

    def _decode_file(self, path: str) -> UInt8Array | LoupeError:
        try:
            data = read_file(os.path.join(self._folder, path))  # noqa: PTH118 - twice as fast as pathlib
            return self._pixels(open_picture(data, max_pixels=self._max_pixels))
        except LoupeError as error:
            return error
        except OSError as error:
            return InvalidImage(f"a file that cannot be read ({error.strerror})")

    def _pixels(self, picture: Picture) -> UInt8Array:
        if picture.pixel_count <= SMALL_PIXELS:
            return picture.pixels(self._look)
        self._turn.release()  # large ones are decoded outside of the interpreter, on as many cores as there are
        try:
            return picture.pixels(self._look)
        finally:
            self._turn.acquire()


def open_source(path: Path, look: Look, max_pixels: int) -> Source:
    """The source at a path.

    Raises:
        InvalidSource: If there is nothing.
    """
    if path.is_dir():
        return FolderSource(path, look, max_pixels)
    if path.is_file():
        return ArraySource(path)
    raise InvalidSource(str(path), "nothing; no such file or folder")


def check_source(path: Path) -> None:
    """Refuse what is clearly nothing to score, before a job is made of it.

    Raises:
        InvalidSource: If there is nothing, no image below a folder, or no array in a file.
    """
    if path.is_dir():
        if next(_image_files(path), None) is None:
            raise InvalidSource(str(path), f"a folder without {', '.join(sorted(SUFFIXES))} files")
    elif path.is_file():
        ArraySource(path)._open()
    else:
        raise InvalidSource(str(path), "nothing; no such file or folder")


def printable(path: str) -> str:
    """A path as text that can be written anywhere; bytes that are no UTF-8 become `\\udc..`."""
    return path.encode("utf-8", "backslashreplace").decode()


def _image_files(folder: Path) -> Iterator[str]:
    """Paths of the image files below a folder, relative to it, in one stable order. Hidden files are passed over."""

    def refuse(error: OSError) -> NoReturn:
        raise InvalidSource(
            str(folder), f"a folder that cannot be listed ({error.strerror}: {error.filename})"
        ) from error

    for root, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        below = os.path.relpath(root, folder)
        for name in sorted(files):
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                yield name if below == "." else f"{below}/{name}"


def _read_rows(images: UInt8Array, start: int, stop: int) -> Records:
    return Records(list(range(start, stop)), images[start:stop], [])


def _cut(total: int, shard_images: int) -> list[Step]:
    return [
        Step(name=f"shard-{index}", kind="shard", index=index, start=start, stop=min(start + shard_images, total))
        for index, start in enumerate(range(0, total, shard_images))
    ]
