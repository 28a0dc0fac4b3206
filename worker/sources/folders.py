"""Picture files in a folder, or those that match a pattern."""

import glob
import heapq
import json
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import islice, takewhile
from pathlib import Path
from typing import IO

from loupe.errors import InvalidSource, LoupeError, SourceChanged
from loupe.files import ReadableFolders, walk_files
from loupe.images.decode import SUFFIXES, read_with_status
from worker.sources.pictures import Collection, Entry, ReadEntry, read_fetched

MAX_NAMES = 50_000  # in memory while names are sorted


class Folder(Collection):
    """Picture files below a folder in the order of `walk_files`.

    With a pattern such as `**/*.png`, those that match it in the order of their paths.
    """

    def __init__(
        self, folder: str | Path, pattern: str = "", folders: ReadableFolders | None = None
    ) -> None:
        super().__init__(str(Path(folder, pattern)), folders=folders)
        self._folder, self._pattern = str(folder), pattern

    def entries(self, index: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        return map(self._entry, self._names())

    @contextmanager
    def open(self, entries: Sequence[Entry], index: Path) -> Iterator[ReadEntry]:
        """See `Collection.open`. Files are read while another thread decodes."""
        yield read_fetched(entries, map(self._read, entries))

    def fetched_bytes(self, entry: Entry) -> int:
        """See `Collection.fetched_bytes`."""
        status = entry.location[0]
        return status[0] if status else 0

    def _names(self) -> Iterator[str]:
        """Yield paths relative to the folder."""
        if self._pattern:
            found = glob.iglob(self._pattern, root_dir=self._folder, recursive=True)  # noqa: PTH207
            yield from sort_names(filter(is_picture, found))
            return
        try:
            yield from walk_files(self._folder, choose=is_picture, sort=sort_names)
        except OSError as error:
            raise InvalidSource(
                f"Cannot list '{error.filename}' in '{self.path}': {error.strerror}."
            ) from error

    def _entry(self, name: str) -> Entry:
        try:
            path = os.path.join(self._folder, name)  # noqa: PTH118 - twice as fast as pathlib
            status = os.stat(path)  # noqa: PTH116
        except OSError:
            return Entry(name, [None])
        return Entry(name, [_version(status)])

    def _read(self, entry: Entry) -> bytes | Exception:
        path = os.path.join(self._folder, entry.id)  # noqa: PTH118
        try:
            data, status = read_with_status(path, self.folders)
        except (LoupeError, OSError) as error:
            return error
        if _version(status) != entry.location[0]:
            return SourceChanged(f"'{path}' has changed since the job began. Score it again.")
        return data


def split_pattern(pattern: str) -> tuple[str, str]:
    """Return the folder before the first wildcard, and the rest of the pattern."""
    fixed = "/".join(takewhile(lambda part: not glob.has_magic(part), pattern.split("/")))
    return fixed or "/", pattern[len(fixed) + 1 :]


def is_picture(path: str) -> bool:
    """Return whether a file has the name of a picture and is not hidden."""
    name = os.path.basename(path)  # noqa: PTH119
    suffix = os.path.splitext(name)[1]  # noqa: PTH122
    return suffix.lower() in SUFFIXES and not name.startswith(".")


def _version(status: os.stat_result) -> list[int]:
    """Return size and time of the last change in nanoseconds."""
    return [status.st_size, status.st_mtime_ns]


def sort_names(names: Iterable[str], max_names: int = MAX_NAMES) -> Iterator[str]:
    """Yield the names in order; keep at most `max_names` in memory, the others in files."""
    names = iter(names)
    chunk = sorted(islice(names, max_names))
    if len(chunk) < max_names:
        yield from chunk
        return
    with ExitStack() as stack:
        runs = []
        while chunk:
            runs.append(_store(chunk, stack.enter_context(tempfile.TemporaryFile("w+"))))
            chunk = sorted(islice(names, max_names))
        yield from heapq.merge(*runs)


def _store(names: list[str], file: IO[str]) -> Iterator[str]:
    # JSON, because names may contain line breaks and bytes that are not text.
    file.writelines(json.dumps(name) + "\n" for name in names)
    file.seek(0)
    return map(json.loads, file)
