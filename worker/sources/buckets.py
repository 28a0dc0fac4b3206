"""Picture files in an object store: below a URL, or those that match a pattern of URLs."""

import glob
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from loupe.errors import InvalidImage, InvalidSource, SourceChanged, StorageRefused
from loupe.images.decode import MAX_FILE_BYTES
from loupe.images.formats import HEAD_BYTES
from loupe.images.selection import Reason, name_tells, why_skipped
from worker.remote_path import RemotePath
from worker.sources.collection import (
    LOOKS_AT_ONCE,
    MAX_LOOKS,
    Collection,
    Entry,
    ReadEntry,
    read_fetched,
)
from worker.sources.folders import split_pattern
from worker.storage import map_requests, unwrap, version_of


class Bucket(Collection):
    """Picture files below a URL, or those that match a pattern, in the order of `Folder`."""

    lists_at_once = False

    def __init__(self, folder: RemotePath, pattern: str = "") -> None:
        super().__init__(str(folder / pattern if pattern else folder))
        self._folder, self._pattern = folder, pattern

    def entries(self, index: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`. The listing takes about 1 kB of memory per file."""
        found = self._folder.find(self._pattern)
        names = sorted(found) if self._pattern else sorted(found, key=_walk_order)
        looks = MAX_LOOKS
        for start in range(0, len(names), LOOKS_AT_ONCE):
            some = names[start : start + LOOKS_AT_ONCE]
            unclear = [name for name in some if found[name]["size"] and not name_tells(name)]
            unclear = unclear[:looks]
            looks -= len(unclear)
            heads = dict(zip(unclear, map_requests(self._head, unclear), strict=True))
            for name in some:
                if found[name]["size"] == 0:  # often a marker
                    heads[name] = b""
                if (reason := _why_skipped(name, heads.get(name))) is None:
                    yield Entry(name, [found[name]["size"], version_of(found[name])])
                else:
                    self.skipped.add(reason, name)

    @contextmanager
    def open(self, entries: Sequence[Entry], index: Path) -> Iterator[ReadEntry]:
        """See `Collection.open`."""
        yield read_fetched(entries, map_requests(self._fetch, entries))

    def fetched_bytes(self, entry: Entry) -> int:
        """See `Collection.fetched_bytes`."""
        return int(entry.location[0])

    def _head(self, name: str) -> bytes:
        return (self._folder / name).read_bytes(0, HEAD_BYTES)

    def _fetch(self, entry: Entry) -> bytes:
        """Return a picture file, unless it has changed since it was listed."""
        file = self._folder / entry.id
        size, version = entry.location
        data = _read(file, size)
        if version_of(file.info()) != version:
            raise SourceChanged(f"'{file}' has changed since the job began. Score it again.")
        return data


def split_remote_pattern(pattern: RemotePath) -> tuple[RemotePath, str]:
    """Return the folder before the first wildcard, and the rest of the pattern."""
    if glob.has_magic(pattern.bucket):
        raise InvalidSource(f"'{pattern}' is a pattern of buckets. Name one bucket.")
    folder, rest = split_pattern(pattern.url)
    return pattern.with_url(folder), rest


def fetch(file: RemotePath) -> bytes:
    """Return a picture file of unknown size."""
    info = file.info()
    if info["type"] != "file" or info.get("size") is None:
        raise InvalidImage("The path is not a file of known size.")
    return _read(file, info["size"])


def _read(file: RemotePath, size: int) -> bytes:
    if size > MAX_FILE_BYTES:
        raise InvalidImage(f"The file has {size:,} bytes, more than {MAX_FILE_BYTES:,}.")
    return file.read_bytes(0, size)


def _why_skipped(name: str, head: bytes | BaseException | None) -> Reason | None:
    """See `why_skipped`; without a head, the name decides."""
    try:
        return why_skipped(name, None if head is None else lambda: unwrap(head))
    except (OSError, StorageRefused):
        return "unreadable"


def _walk_order(path: str) -> list[tuple[bool, str]]:
    """Return a sort key that puts the files of a folder before its subfolders."""
    *folders, name = path.split("/")
    return [*((True, folder) for folder in folders), (False, name)]
