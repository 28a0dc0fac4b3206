"""What can be scored: a folder of images, an `.npy` array, an IDX file. A source is planned once and then read shard by shard."""

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, Protocol

import numpy as np

from loupe import idx
from loupe.errors import InvalidImage, InvalidPixels, InvalidSource, LoupeError, SourceChanged
from loupe.images import SIDE, SUFFIXES, Look, UInt8Array, check_batch, open_picture
from worker.jobs import Step

NPY_MAGIC = b"\x93NUMPY"
DECODE_CHUNK = (
    64  # files that one thread decodes in a row: handing over single small ones costs more than decoding them
)


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

    def read(self, shard: Step, batch_size: int, listing: Path, revision: str) -> Iterator[Records]:
        """The records of one shard, in batches; `SourceChanged` if the source is not what was planned."""


class ArraySource:
    """Images in one array: an `.npy` file or an IDX file, mapped from disk where it can be."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def plan(self, shard_images: int, listing: Path) -> Plan:
        """See `Source.plan`."""
        total = len(self._open())
        return Plan(total, self._revision(), _cut(total, shard_images))

    def read(self, shard: Step, batch_size: int, listing: Path, revision: str) -> Iterator[Records]:
        """See `Source.read`."""
        if self._revision() != revision:
            raise SourceChanged(str(self._path))
        images = self._open()
        for start in range(shard["start"], shard["stop"], batch_size):
            stop = min(start + batch_size, shard["stop"])
            yield Records(list(range(start, stop)), images[start:stop], [])

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

    def __init__(self, folder: Path, look: Look, max_pixels: int, decoders: ThreadPoolExecutor) -> None:
        self._folder = folder
        self._look = look
        self._max_pixels = max_pixels
        self._decoders = decoders

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

    def read(self, shard: Step, batch_size: int, listing: Path, revision: str) -> Iterator[Records]:
        """See `Source.read`."""
        with listing.open("rb") as lines:
            lines.seek(shard["offset"])
            paths: list[str] = [json.loads(lines.readline()) for _ in range(shard["start"], shard["stop"])]
        for start in range(0, len(paths), batch_size):
            yield self._decode(paths[start : start + batch_size])

    def _decode(self, paths: list[str]) -> Records:
        chunks = [paths[start : start + DECODE_CHUNK] for start in range(0, len(paths), DECODE_CHUNK)]
        ids: list[str] = []
        images: list[UInt8Array] = []
        errors: list[tuple[str, LoupeError]] = []
        for path, outcome in (pair for chunk in self._decoders.map(self._decode_chunk, chunks) for pair in chunk):
            if isinstance(outcome, LoupeError):
                errors.append((printable(path), outcome))
            else:
                ids.append(printable(path))
                images.append(outcome)
        return Records(ids, np.stack(images) if images else np.empty((0, SIDE, SIDE), np.uint8), errors)

    def _decode_chunk(self, paths: list[str]) -> list[tuple[str, UInt8Array | LoupeError]]:
        return [(path, self._decode_file(path)) for path in paths]

    def _decode_file(self, path: str) -> UInt8Array | LoupeError:
        try:
            with open(os.path.join(self._folder, path), "rb") as file:  # noqa: PTH118, PTH123 - twice as fast as pathlib
                data = file.read()
            return open_picture(data, max_pixels=self._max_pixels).pixels(self._look)
        except LoupeError as error:
            return error
        except OSError as error:
            return InvalidImage(f"a file that cannot be read ({error.strerror})")


def open_source(path: Path, look: Look, max_pixels: int, decoders: ThreadPoolExecutor) -> Source:
    """The source at a path.

    Raises:
        InvalidSource: If there is nothing.
    """
    if path.is_dir():
        return FolderSource(path, look, max_pixels, decoders)
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


def _cut(total: int, shard_images: int) -> list[Step]:
    return [
        Step(name=f"shard-{index}", kind="shard", index=index, start=start, stop=min(start + shard_images, total))
        for index, start in enumerate(range(0, total, shard_images))
    ]
