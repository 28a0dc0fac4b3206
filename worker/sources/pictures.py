"""Sources of picture files: folders, archives, manifests and tables of them."""

import hashlib
import json
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from loupe.errors import (
    InvalidImage,
    InvalidSource,
    LoupeError,
    ProgramFailed,
    ShuttingDown,
    SourceChanged,
    StorageUnavailable,
)
from loupe.files import ReadableFolders, printable
from loupe.images.decode import MAX_FILE_BYTES, open_picture
from loupe.images.formats import File
from loupe.images.header import is_tiny, kind_of
from loupe.images.pool import DecoderPool
from loupe.images.selection import Skipped, describe
from loupe.images.spec import SIDE, Look, UInt8Array
from worker.queue.steps import Shard
from worker.sources.source import (
    BatchReader,
    ColumnTypes,
    NoPictures,
    Records,
    ShardPlan,
    check_unchanged,
    cut,
)
from worker.storage import AnyPath, unwrap, versions

MAX_FETCHED_BYTES = 2**24  # of picture files that one thread holds
MAX_COMPRESSION = 200  # only large pictures of one colour without compression reach this
SMALL_MEMBER_BYTES = 2**20  # up to this size, members may be compressed more
MAX_ENTRY_BYTES = 2**14  # in the index; a shard keeps its entries in memory
MAX_LISTED = 20_000_000  # records; planning takes 8 bytes of memory for each
MAX_SHOWN = 100  # characters of a longer name
LISTING, VERSION = "listing.jsonl", "stamp"  # files of the index; jobs in progress know them


class Entry(NamedTuple):
    """One record of a collection, as a line of JSON in the index.

    Attributes:
        id: Path or key.
        location: Whatever the collection needs to find the picture.
        refused: Why the record is not read, if it is not.
        columns: Values of the requested columns.
    """

    id: str
    location: list[Any]
    refused: str | None = None
    columns: Sequence[str | None] = ()


ReadEntry: TypeAlias = Callable[[Entry], File]
"""Returns the picture file of an entry; raises `LoupeError` or `OSError`."""


class Collection:
    """Picture files that can be listed without reading them.

    Args:
        path: Path, pattern or URL of the collection.
        files: Files that contain it. Without any, each picture is compared with the listing.
        folders: Those that local files must be in; all by default.

    Attributes:
        skipped: Files that `entries` has left out.
    """

    lists_at_once = True  # the first entry is known before all are listed
    replaces = False  # a later file of the same path takes the place of an earlier one
    empty = "has no picture files"
    columns: Sequence[str] = ()  # names of the values in `Entry.columns`

    def __init__(
        self,
        path: str,
        files: Sequence[AnyPath] = (),
        folders: ReadableFolders | None = None,
    ) -> None:
        self.path = path
        self.files = files
        self.folders = folders
        self.skipped = Skipped()

    def version(self) -> str:
        """Return a text that changes when `files` do."""
        return versions(self.files) if self.files else ""

    def entries(self, index: Path | None) -> Iterator[Entry]:
        """Yield all entries in the same order every time; write what `open` needs to `index`.

        Files that are no entries count as `skipped`.
        """
        raise NotImplementedError

    def open(self, entries: Sequence[Entry], index: Path) -> AbstractContextManager[ReadEntry]:
        """Open these entries for reading; fetch those of which `fetched_bytes` is not 0."""
        raise NotImplementedError

    def fetched_bytes(self, entry: Entry) -> int:
        """Return the approximate size of an entry that `open` fetches, else 0."""
        raise NotImplementedError


class Decoder:
    """Decodes picture files: tiny ones in one thread at a time, others in processes.

    Args:
        look: Look of the model's training images.
        max_pixels: Maximum width × height of a picture.
        processes: Decode pictures that are not tiny; without them, this process decodes all.
        check: Raises if the pictures are no longer needed.
    """

    def __init__(
        self,
        look: Look,
        max_pixels: int,
        processes: DecoderPool | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self._look = look
        self._max_pixels = max_pixels
        self._processes = processes
        self._check = check
        self._turn = threading.Lock()

    def records(
        self, entries: list[Entry], read: ReadEntry, columns: pa.Table | None = None
    ) -> Records:
        """Read and decode entries, of which `columns` has a row each."""
        ids: list[str] = []
        positions: list[int] = []
        images: list[UInt8Array] = []
        errors: list[tuple[str, LoupeError]] = []
        with self._turn:  # threads that decode small pictures would only fight over the GIL
            for position, entry in enumerate(entries):
                name = printable(entry.id)
                try:
                    if entry.refused is not None:
                        raise InvalidSource(entry.refused, code="invalid_record")
                    self._check()
                    images.append(self._pixels(read(entry)))
                    ids.append(name)
                    positions.append(position)
                except (ProgramFailed, ShuttingDown, SourceChanged, StorageUnavailable):
                    raise
                except LoupeError as error:
                    # Their tracebacks would keep the files and all pictures in memory.
                    error.__cause__ = error.__context__ = None
                    errors.append((name, error.with_traceback(None)))
                except OSError as error:
                    errors.append((name, InvalidImage(f"Cannot read the file: {error.strerror}.")))
        stacked = np.stack(images) if images else np.empty((0, SIDE, SIDE), np.uint8)
        kept = None if columns is None else columns.take(pa.array(positions, pa.int64()))
        return Records(ids, stacked, errors, kept)

    def _pixels(self, data: File) -> UInt8Array:
        if self._processes is None or is_tiny(data) or kind_of(data) is None:
            return open_picture(data, max_pixels=self._max_pixels).pixels(self._look)
        self._turn.release()
        try:
            return self._processes.decode(data, self._look, self._max_pixels, self._check)
        finally:
            self._turn.acquire()


class PictureSource:
    """The pictures of a collection.

    Args:
        collection: The picture files.
        decoder: Decodes them.
    """

    def __init__(self, collection: Collection, decoder: Decoder) -> None:
        self._collection = collection
        self._decoder = decoder
        self._columns = collection.columns

    def check(self) -> None:
        """See `ImageSource.check`. Only the first entry is listed, if that is quick."""
        if self._collection.lists_at_once and next(self._collection.entries(None), None) is None:
            self._refuse_empty()

    def column_types(self, index: Path) -> ColumnTypes:
        """See `ImageSource.column_types`."""
        return ColumnTypes(kept=pa.schema([(name, pa.string()) for name in self._columns]))

    def plan(self, shard_images: int, index: Path) -> ShardPlan:
        """See `ImageSource.plan`. The index holds the listing, so that shards need not list."""
        version = self._collection.version()
        self._collection.skipped = Skipped()
        listing = index / LISTING
        hashes = _write(listing, self._collection.entries(index))
        if not hashes:
            self._refuse_empty()
        if self._collection.replaces:
            _refuse_replaced(listing, hashes)
        shards = cut(len(hashes), shard_images)
        by_start = {shard.start: shard.index for shard in shards}
        revision = hashlib.sha256(version.encode())
        with listing.open("rb") as lines:
            for number, line in enumerate(iter(lines.readline, b"")):
                if number in by_start:
                    shard = by_start[number]
                    shards[shard] = replace(shards[shard], offset=lines.tell() - len(line))
                revision.update(line)
        (index / VERSION).write_text(version)
        return ShardPlan(len(hashes), revision.hexdigest(), shards, self._collection.skipped.files)

    def batches(
        self, shard: Shard, batch_size: int, index: Path, revision: str
    ) -> Iterator[BatchReader]:
        """See `ImageSource.batches`."""
        planned = (index / VERSION).read_text()
        check_unchanged(self._collection.path, planned, self._collection.version())
        with (index / LISTING).open("rb") as lines:
            lines.seek(shard.offset)
            entries = [_entry(lines.readline()) for _ in range(shard.start, shard.stop)]
        for batch in _cut(entries, batch_size, self._collection.fetched_bytes):
            yield partial(self._read, batch, index)

    def record_id(self, shard: Shard, position: int, index: Path) -> str:
        """See `ImageSource.record_id`."""
        with (index / LISTING).open("rb") as lines:
            lines.seek(shard.offset)
            line = next(islice(lines, position, None))
        return printable(_entry(line).id)

    def _refuse_empty(self) -> None:
        skipped = describe(self._collection.skipped.files)
        raise NoPictures(
            f"'{self._collection.path}' {self._collection.empty}."
            + (f" Skipped: {skipped}." if skipped else "")
        )

    def _read(self, entries: list[Entry], index: Path) -> Records:
        with self._collection.open(
            [entry for entry in entries if entry.refused is None], index
        ) as read:
            return self._decoder.records(entries, read, self._table(entries))

    def _table(self, entries: Sequence[Entry]) -> pa.Table | None:
        """Return the requested columns as text."""
        if not self._columns:
            return None
        rows = [entry.columns or [None] * len(self._columns) for entry in entries]
        columns = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
        return pa.table(columns, names=list(self._columns))


def read_fetched(entries: Iterable[Entry], results: Iterable[bytes | BaseException]) -> ReadEntry:
    """Return a function that returns or raises what was fetched; it works once per entry."""
    fetched = {entry.id: result for entry, result in zip(entries, results, strict=True)}
    return lambda entry: unwrap(fetched.pop(entry.id))


def _cut(
    entries: list[Entry], batch_size: int, size_of: Callable[[Entry], int]
) -> Iterator[list[Entry]]:
    """Yield batches, smaller ones where fetched files would take too much memory."""
    batch: list[Entry] = []
    total = 0
    for entry in entries:
        size = 0 if entry.refused else size_of(entry)
        if len(batch) == batch_size or (batch and total + size > MAX_FETCHED_BYTES):
            yield batch
            batch, total = [], 0
        batch.append(entry)
        total += size
    if batch:
        yield batch


def _write(listing: Path, entries: Iterable[Entry]) -> "array[int]":
    """Write the listing; return 8 bytes per id to find repeated ones."""
    hashes = array("q")
    with listing.open("wb") as lines:
        for entry in entries:
            line = json.dumps(entry).encode()
            if len(line) > MAX_ENTRY_BYTES:
                refused = f"Name and columns take more than {MAX_ENTRY_BYTES:,} bytes."
                line = json.dumps(Entry(entry.id[:MAX_SHOWN], [], refused)).encode()
            lines.write(line + b"\n")
            hashes.append(hash(entry.id))
            if len(hashes) > MAX_LISTED:
                raise InvalidSource(
                    f"The source has more than {MAX_LISTED:,} records. Divide it.",
                    code="source_too_large",
                )
    return hashes


def _refuse_replaced(listing: Path, hashes: "array[int]") -> None:
    """Refuse all but the last of the entries with the same id."""
    values = np.frombuffer(hashes, np.int64)
    values.sort()
    repeated, counts = np.unique(values[1:][values[1:] == values[:-1]], return_counts=True)
    if not len(repeated):
        return
    earlier = listing.rename(listing.with_suffix(".repeated"))
    with earlier.open("rb") as lines, listing.open("wb") as marked:
        for entry in _refused(map(_entry, lines), repeated, counts):
            marked.write(json.dumps(entry).encode() + b"\n")
    earlier.unlink()


def _refused(
    entries: Iterable[Entry], repeated: NDArray[np.int64], later: NDArray[np.int64]
) -> Iterator[Entry]:
    """Yield the entries; among 20 million ids, 64 bits collide once in 100,000 sources.

    Args:
        entries: All entries.
        repeated: Hashes of the ids of several entries.
        later: How many entries with the same id follow the first of each.
    """
    for entry in entries:
        position = np.searchsorted(repeated, hash(entry.id))
        if position < len(repeated) and repeated[position] == hash(entry.id):
            if later[position]:
                entry = entry._replace(refused="A later member of the archive has the same path.")
            later[position] -= 1
        yield entry


def _entry(line: bytes) -> Entry:
    return Entry(*json.loads(line))


def member_path(name: str) -> str:
    """Return the path of an archive's member as a folder has it: without `.` and empty parts."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return name[: name.startswith("/")] + "/".join(parts) + "/" * name.endswith("/")


def why_member_refused(name: str, size: int, compressed: int) -> str | None:
    """Return why a member of an archive is not read; `None` if it can be.

    Args:
        name: Path in the archive.
        size: Bytes of the file.
        compressed: Bytes in the archive.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ":" in name[:3] or ".." in parts:
        return "The path leads out of the archive."
    if size > MAX_FILE_BYTES:
        return f"The member has {size:,} bytes, more than {MAX_FILE_BYTES:,}."
    if size > max(SMALL_MEMBER_BYTES, MAX_COMPRESSION * compressed):
        return f"The member's {compressed:,} bytes would unpack to {size:,}."
    return None
