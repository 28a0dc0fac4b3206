"""Picture files, wherever they lie: what is common to folders, archives, manifests and tables of them."""

import hashlib
import json
import threading
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol, TypeAlias

import numpy as np
import pyarrow as pa

from loupe.errors import InvalidImage, LoupeError
from loupe.images.decode import Picture, open_picture
from loupe.images.spec import SIDE, Look, UInt8Array
from loupe.old_errors.worker import InvalidRecord, InvalidSource, SourceChanged, StorageUnavailable
from worker.queue.steps import Shard
from worker.sources.source import BatchReader, Records, ShardPlan, check_unchanged, cut, printable
from worker.storage import unwrap

SMALL_PIXELS = 64 * 64  # up to here, decoding is mostly Python
FETCHED_BYTES = 2**24  # of picture files, at a time, by one thread
LISTING, STAMP = "listing.jsonl", "stamp"


class Entry(NamedTuple):
    """One record of a collection, as a line of JSON.

    Attributes:
        id: Path or key, always a text that says which record it is.
        where: Whatever the collection needs to find the picture.
        refused: Why it is not even tried, if it is not.
        columns: What else is said of it, in the order in which that was asked for.
    """

    id: str
    where: list[Any]
    refused: str | None = None
    columns: Sequence[str | None] = ()


Read: TypeAlias = Callable[[Entry], bytes]
"""The file of one picture; raises `LoupeError` or `OSError` where there is none."""


class Collection(Protocol):
    """Pictures that can be listed without being read."""

    where: str  # for errors
    nothing: str  # what to call it where there are none
    quick: bool  # whether the first entry is there before all of them are listed

    def stamp(self) -> str:
        """Changes when the collection does; empty where only reading can tell."""

    def entries(self, notes: Path | None) -> Iterator[Entry]:
        """All pictures, always in the same order. `notes` is a folder to keep what reading needs beside the entries, if it will be read."""

    def reading(self, entries: Sequence[Entry], notes: Path) -> AbstractContextManager[Read]:
        """While the context lasts, its function reads these pictures. Those of `fetched_bytes` are fetched when it begins."""

    def fetched_bytes(self, entry: Entry) -> int:
        """About how much memory one of them takes that is fetched; 0 where it is read only when its turn comes."""


class Decoder:
    """From files to images, for one thread of decoding where that is mostly Python's work, and for many where it is not.

    Args:
        look: How the model's training images look.
        max_pixels: Most pixels of a picture, width × height.
    """

    def __init__(self, look: Look, max_pixels: int) -> None:
        self._look = look
        self._max_pixels = max_pixels
        self._turn = threading.Lock()

    def records(self, entries: list[Entry], read: Read, columns: pa.Table | None = None) -> Records:
        """Read and decode these, of which `columns` has a row each; what cannot be read is an error of its own."""
        ids: list[str] = []
        places: list[int] = []
        images: list[UInt8Array] = []
        errors: list[tuple[str, LoupeError]] = []
        with (
            self._turn
        ):  # threads that decode small pictures at once only fight over the interpreter
            for place, entry in enumerate(entries):
                name = printable(entry.id)
                try:
                    if entry.refused is not None:
                        raise InvalidRecord(entry.refused)
                    images.append(
                        self._pixels(open_picture(read(entry), max_pixels=self._max_pixels))
                    )
                    ids.append(name)
                    places.append(place)
                except (SourceChanged, StorageUnavailable):
                    raise
                except LoupeError as error:
                    errors.append(
                        (name, error.with_traceback(None))
                    )  # else its frames would keep all pictures
                except OSError as error:
                    errors.append(
                        (name, InvalidImage(f"The file cannot be read: {error.strerror}."))
                    )
        stacked = np.stack(images) if images else np.empty((0, SIDE, SIDE), np.uint8)
        return Records(
            ids,
            stacked,
            errors,
            None if columns is None else columns.take(pa.array(places, pa.int64())),
        )

    def _pixels(self, picture: Picture) -> UInt8Array:
        if picture.pixel_count <= SMALL_PIXELS:
            return picture.pixels(self._look)
        self._turn.release()  # large ones are decoded outside of the interpreter, on as many cores as there are
        try:
            return picture.pixels(self._look)
        finally:
            self._turn.acquire()


class PictureSource:
    """The pictures of a collection.

    Args:
        collection: Where they are.
        decoder: What makes images of them.
        columns: Names of what else its entries say.
    """

    def __init__(
        self, collection: Collection, decoder: Decoder, columns: Sequence[str] = ()
    ) -> None:
        self._collection = collection
        self._decoder = decoder
        self._columns = columns

    def check(self) -> None:
        """See `ImageSource.check`. No more than the first entry is looked at, and what is slow to list is left to the plan."""
        if self._collection.quick and next(self._collection.entries(None), None) is None:
            raise InvalidSource(self._collection.where, self._collection.nothing)

    def plan(self, shard_images: int, notes: Path) -> ShardPlan:
        """See `ImageSource.plan`. The listing gets one entry a line, so that no shard has to list the collection again."""
        stamp = self._collection.stamp()
        listing = notes / LISTING
        hashes = _write(listing, self._collection.entries(notes))
        if not hashes:
            raise InvalidSource(self._collection.where, self._collection.nothing)
        _refuse_repeated(listing, hashes)
        shards = cut(len(hashes), shard_images)
        begins = {shard.start: shard.index for shard in shards}
        revision = hashlib.sha256(stamp.encode())
        with listing.open("rb") as lines:
            for number, line in enumerate(iter(lines.readline, b"")):
                if number in begins:
                    index = begins[number]
                    shards[index] = replace(shards[index], offset=lines.tell() - len(line))
                revision.update(line)
        (notes / STAMP).write_text(stamp)
        return ShardPlan(len(hashes), revision.hexdigest(), shards)

    def batches(
        self, shard: Shard, batch_size: int, notes: Path, revision: str
    ) -> Iterator[BatchReader]:
        """See `ImageSource.batches`."""
        check_unchanged(
            self._collection.where, (notes / STAMP).read_text(), self._collection.stamp()
        )
        with (notes / LISTING).open("rb") as lines:
            lines.seek(shard.offset)
            entries = [_entry(lines.readline()) for _ in range(shard.start, shard.stop)]
        for batch in _cut(entries, batch_size, self._collection.fetched_bytes):
            yield partial(self._read, batch, notes)

    def record_id(self, shard: Shard, place: int, notes: Path) -> str:
        """See `ImageSource.record_id`."""
        with (notes / LISTING).open("rb") as lines:
            lines.seek(shard.offset)
            line = next(islice(lines, place, None))
        return printable(_entry(line).id)

    def _read(self, entries: list[Entry], notes: Path) -> Records:
        with self._collection.reading(
            [entry for entry in entries if entry.refused is None], notes
        ) as read:
            return self._decoder.records(entries, read, self._table(entries))

    def _table(self, entries: Sequence[Entry]) -> pa.Table | None:
        """What the entries say of their pictures, as text."""
        if not self._columns:
            return None
        rows = [entry.columns or [None] * len(self._columns) for entry in entries]
        columns = [pa.array(values, pa.string()) for values in zip(*rows, strict=True)]
        return pa.table(columns, names=list(self._columns))


def reading_fetched(entries: Iterable[Entry], answers: Iterable[bytes | BaseException]) -> Read:
    """A function that knows what has been fetched of each entry, or why nothing was; each can be had once."""
    fetched = {entry.id: answer for entry, answer in zip(entries, answers, strict=True)}
    return lambda entry: unwrap(fetched.pop(entry.id))


def _cut(
    entries: list[Entry], batch_size: int, bytes_of: Callable[[Entry], int]
) -> Iterator[list[Entry]]:
    """Batches of as many entries, or of fewer where those are too much to fetch at once."""
    batch: list[Entry] = []
    size = 0
    for entry in entries:
        more = 0 if entry.refused else bytes_of(entry)
        if len(batch) == batch_size or (batch and size + more > FETCHED_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(entry)
        size += more
    if batch:
        yield batch


def _write(listing: Path, entries: Iterable[Entry]) -> "array[int]":
    """Eight bytes of each id, to tell whether there are two alike."""
    hashes = array("q")
    with listing.open("wb") as lines:
        for entry in entries:
            lines.write(json.dumps(entry).encode() + b"\n")
            hashes.append(hash(entry.id))
    return hashes


def _refuse_repeated(listing: Path, hashes: "array[int]") -> None:
    """Of entries with the same id all but the first are refused."""
    values = np.sort(np.frombuffer(hashes, np.int64))
    repeated = set(values[1:][values[1:] == values[:-1]].tolist())
    if not repeated:
        return
    earlier = listing.rename(listing.with_suffix(".repeated"))
    with earlier.open("rb") as lines:
        _write(listing, _refused(map(_entry, lines), repeated))
    earlier.unlink()


def _refused(entries: Iterable[Entry], repeated: set[int]) -> Iterator[Entry]:
    seen = set()
    for entry in entries:
        if hash(entry.id) not in repeated:
            yield entry
        elif entry.id in seen:
            yield entry._replace(refused="the id of a record before it")
        else:
            seen.add(entry.id)
            yield entry


def _entry(line: bytes) -> Entry:
    return Entry(*json.loads(line))
