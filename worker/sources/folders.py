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
from loupe.files import ReadableFolders
from loupe.images.decode import read_with_status
from loupe.images.folder import pictures
from worker.sources.collection import Collection, Entry, ReadEntry, read_fetched

MAX_NAMES = 50_000  # in memory while names are sorted


class Folder(Collection):
    """Picture files below a folder in the order of `loupe.images.folder.pictures`.

    With a pattern such as `**/*.png`, those that match it in the order of their paths.
    """

    def __init__(
        self, folder: str | Path, pattern: str = "", folders: ReadableFolders | None = None
    ) -> None:
        super().__init__(str(Path(folder, pattern)), folders=folders)
        self._folder, self._pattern = str(folder), pattern

    def entries(self, index: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        found = pictures(
            self._folder,
            self.skipped,
            pattern=self._pattern,
            folders=self.folders,
            sort=sort_names,
        )
        try:
            for file in found:
                yield Entry(file.name, [_version(file.status)])
        except OSError as error:
            raise InvalidSource(
                f"Cannot list '{error.filename}' in '{self.path}': {error.strerror}."
            ) from error

    @contextmanager
    def open(self, entries: Sequence[Entry], index: Path) -> Iterator[ReadEntry]:
        """See `Collection.open`. Files are read while another thread decodes."""
        yield read_fetched(entries, map(self._read, entries))

    def fetched_bytes(self, entry: Entry) -> int:
        """See `Collection.fetched_bytes`."""
        return int(entry.location[0][0])

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
