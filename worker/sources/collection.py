"""Collections of picture files, and the entries that list them."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

from loupe.files import ReadableFolders
from loupe.images.formats import File
from loupe.images.selection import Skipped
from worker.storage import AnyPath, unwrap, versions

LOOKS_AT_ONCE = 256  # files whose first bytes are fetched together
MAX_LOOKS = 100_000  # files of a remote source, a minute or two of requests; names tell the others


class Entry(NamedTuple):
    """One record of a collection, as a line of JSON in the index.

    Attributes:
        id: Path or key.
        location: Values with which the collection finds the picture; for a hard link in an archive,
            the id of the entry that it leads to.
        refused: Why the record is not read, if it is not.
        columns: Values of the requested columns.
    """

    id: str
    location: list[Any]
    refused: str | None = None
    columns: Sequence[str | None] = ()


def is_link(entry: Entry) -> bool:
    """Return whether an entry is a hard link to another."""
    return len(entry.location) == 1 and isinstance(entry.location[0], str)


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
        has_links: Whether `entries` has found hard links.
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
        self.has_links = False

    def version(self) -> str:
        """Return a text that changes when `files` do."""
        return versions(self.files) if self.files else ""

    def entries(self, index: Path | None) -> Iterator[Entry]:
        """Yield all entries in the same order every time; write what `open` needs to `index`.

        Files that are not entries count as `skipped`.
        """
        raise NotImplementedError

    def open(self, entries: Sequence[Entry], index: Path) -> AbstractContextManager[ReadEntry]:
        """Open these entries for reading; fetch those of which `fetched_bytes` is not 0."""
        raise NotImplementedError

    def fetched_bytes(self, entry: Entry) -> int:
        """Return the approximate size of an entry that `open` fetches, else 0."""
        raise NotImplementedError


def read_fetched(entries: Iterable[Entry], results: Iterable[bytes | BaseException]) -> ReadEntry:
    """Return a function that returns or raises what was fetched; it works once per entry."""
    fetched = {entry.id: result for entry, result in zip(entries, results, strict=True)}
    return lambda entry: unwrap(fetched.pop(entry.id))
