"""Sources of picture files: folders, archives, manifests and tables of them."""

import hashlib
import threading
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa

from loupe.errors import (
    InvalidImage,
    InvalidSource,
    LoupeError,
    ProgramFailed,
    ShuttingDown,
    SourceChanged,
    StorageUnavailable,
)
from loupe.files import printable
from loupe.images.decode import open_picture, open_quick
from loupe.images.formats import File
from loupe.images.header import is_tiny
from loupe.images.pool import DecoderPool
from loupe.images.selection import COLLECTION_SUFFIXES, Skipped, describe
from loupe.images.spec import ImageSpec, UInt8Array
from worker.queue.steps import Shard
from worker.sources.checks import check_unchanged
from worker.sources.collection import Collection, Entry, ReadEntry
from worker.sources.listing import read_entry, refuse_replaced, resolve_links, write_listing
from worker.sources.source import BatchReader, ColumnTypes, NoPictures, Records, ShardPlan, cut

MAX_FETCHED_BYTES = 2**24  # of picture files that one thread holds
MAX_SEARCHED_BYTES = 2**26  # of a listing, which takes some seconds
PREVIEW = ImageSpec("photo", 112, 112, 3, "pad")
LISTING, VERSION = "listing.jsonl", "stamp"  # files of the index; jobs in progress know them


class Decoder:
    """Decodes picture files: tiny ones in one thread at a time, others in processes.

    Args:
        spec: Images of the model.
        max_pixels: Maximum width × height of a picture.
        processes: Decode pictures that are not tiny; without them, this process decodes all.
        check: Raises if the pictures are no longer needed.
    """

    def __init__(
        self,
        spec: ImageSpec,
        max_pixels: int,
        processes: DecoderPool | None = None,
        check: Callable[[], object] = lambda: None,
    ) -> None:
        self.spec = spec
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
        kept = None if columns is None else columns.take(pa.array(positions, pa.int64()))
        return Records(ids, self.spec.stack(images), errors, kept)

    def preview(self, data: File) -> UInt8Array:
        """Return a small copy of a picture for people, uint8 RGB."""
        if self._processes is None or is_tiny(data):
            picture = open_picture(data, max_pixels=self._max_pixels)
            return np.asarray(picture.preview(PREVIEW.width))
        return self._processes.decode(data, PREVIEW, self._max_pixels, self._check)

    def _pixels(self, data: File) -> UInt8Array:
        if self._processes is None:
            return open_picture(data, max_pixels=self._max_pixels).pixels(self.spec)
        picture = open_quick(data, max_pixels=self._max_pixels)
        if picture is not None:
            return picture.pixels(self.spec)
        self._turn.release()
        try:
            return self._processes.decode(data, self.spec, self._max_pixels, self._check)
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
        hashes = write_listing(listing, self._collection.entries(index))
        if not hashes:
            self._refuse_empty()
        if self._collection.has_links:
            resolve_links(listing)
        if self._collection.replaces:
            refuse_replaced(listing, hashes)
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
            entries = [read_entry(lines.readline()) for _ in range(shard.start, shard.stop)]
        for batch in _cut(entries, batch_size, self._collection.fetched_bytes):
            yield partial(self._read, batch, index)

    def record_id(self, shard: Shard, position: int, index: Path) -> str:
        """See `ImageSource.record_id`."""
        with (index / LISTING).open("rb") as lines:
            lines.seek(shard.offset)
            line = next(islice(lines, position, None))
        return printable(read_entry(line).id)

    def previews(self, ids: Container[str], index: Path) -> dict[str, UInt8Array]:
        """See `ImageSource.previews`. There are none if it would take long to find them."""
        listing, found = index / LISTING, dict[str, UInt8Array]()
        if listing.stat().st_size > MAX_SEARCHED_BYTES:
            return found
        with listing.open("rb") as lines:
            entries = [entry for entry in map(read_entry, lines) if printable(entry.id) in ids]
        for batch in _cut(entries, len(entries), self._collection.fetched_bytes):
            with self._collection.open(batch, index) as read:
                for entry in batch:
                    with suppress(LoupeError, OSError):
                        found[printable(entry.id)] = self._decoder.preview(read(entry))
        return found

    def _refuse_empty(self) -> None:
        files = self._collection.skipped.files
        problem = f"'{self._collection.path}' {self._collection.empty}."
        if files:
            problem += f" Skipped: {describe(files)}."
        if COLLECTION_SUFFIXES.intersection(files.get("not_a_picture", ())):
            problem += " Archives, tables and arrays are scored by their own paths."
        raise NoPictures(problem)

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
