"""The listing of a collection: a line of JSON for each entry in the index of a job."""

import json
from array import array
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InvalidSource
from worker.sources.collection import Entry, is_link

MAX_ENTRY_BYTES = 2**14  # in the index; a shard keeps its entries in memory
MAX_LISTED = 20_000_000  # records; planning takes 8 bytes of memory for each
MAX_LINKED = 100_000  # files of an archive with hard links to them; each is kept in memory
NO_TARGET = "The member is a hard link to no picture before it."
MAX_SHOWN = 100  # characters of a longer name


def write_listing(listing: Path, entries: Iterable[Entry]) -> "array[int]":
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


def resolve_links(listing: Path) -> None:
    """Give each hard link the location of the entry that it leads to, the last one before it."""
    places: dict[str, Entry | None] = {}
    with listing.open("rb") as lines:
        for entry in filter(is_link, map(read_entry, lines)):
            places[entry.location[0]] = None
            if len(places) > MAX_LINKED:
                raise InvalidSource(
                    f"The archive has hard links to more than {MAX_LINKED:,} files.",
                    code="source_too_large",
                )
    unresolved = listing.rename(listing.with_suffix(".unresolved"))
    with unresolved.open("rb") as lines, listing.open("wb") as resolved:
        for entry in map(read_entry, lines):
            if is_link(entry):
                target = places[entry.location[0]] or Entry("", [], NO_TARGET)
                refused = entry.refused or target.refused
                entry = entry._replace(location=target.location, refused=refused)
            if entry.id in places:
                places[entry.id] = entry
            resolved.write(json.dumps(entry).encode() + b"\n")
    unresolved.unlink()


def refuse_replaced(listing: Path, hashes: "array[int]") -> None:
    """Refuse all but the last of the entries with the same id."""
    values = np.frombuffer(hashes, np.int64)
    values.sort()
    repeated, counts = np.unique(values[1:][values[1:] == values[:-1]], return_counts=True)
    if not len(repeated):
        return
    earlier = listing.rename(listing.with_suffix(".repeated"))
    with earlier.open("rb") as lines, listing.open("wb") as marked:
        for entry in _refused(map(read_entry, lines), repeated, counts):
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


def read_entry(line: bytes) -> Entry:
    """Return the entry of a line."""
    return Entry(*json.loads(line))
