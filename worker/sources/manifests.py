"""A table of paths, CSV with a header or JSON lines, with a column `path` and optionally `id`."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

from loupe.errors import InvalidSource
from loupe.files import ReadableFolders, printable
from loupe.images.decode import read_file
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from loupe.settings import HttpsAccess
from worker.remote_path import RemotePath
from worker.sources.buckets import fetch
from worker.sources.pictures import Collection, Entry, ReadEntry
from worker.sources.source import check_columns, damaged, listed
from worker.storage import AnyPath, is_url, map_requests, open_text, parse_path, unwrap

PATH, ID = "path", "id"
OPEN_PROTOCOLS = frozenset({"file", "https"})  # the others use the credentials of the worker
USUAL_BYTES = 2**20  # of a remote picture whose size is not known yet
MAX_RECORD_CHARACTERS = 2**17  # of all columns together


class Manifest(Collection):
    """The picture files that a manifest names, in its order.

    Args:
        file: The manifest. Relative paths start at its folder.
        options: Columns to read.
        https: Which addresses its `https` URLs may lead to.
        folders: Those that local files must be in, and then no bucket; all by default.
    """

    empty = "has no records"

    def __init__(
        self,
        file: AnyPath,
        options: ScoringOptions = DEFAULT_OPTIONS,
        *,
        https: HttpsAccess = "none",
        folders: ReadableFolders | None = None,
    ) -> None:
        super().__init__(str(file), [file], folders)
        self._file = file
        self._options = options
        self._https = https

    def entries(self, index: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        try:
            with open_text(self._file, "utf-8-sig", self.folders) as file:
                for number, record in self._records(_LimitedLines(file)):
                    yield self._entry(number, record)
        except (ValueError, csv.Error, RecursionError) as error:
            raise damaged(f"manifest '{self.path}'", error) from error

    @contextmanager
    def open(self, entries: Sequence[Entry], index: Path) -> Iterator[ReadEntry]:
        """See `Collection.open`."""
        files = {entry.id: self._resolve(entry.location[0]) for entry in entries}
        remote = {name: file for name, file in files.items() if isinstance(file, RemotePath)}
        fetched = dict(zip(remote, map_requests(fetch, remote.values()), strict=True))

        def read(entry: Entry) -> bytes:
            file = files[entry.id]
            if isinstance(file, Path):
                return read_file(file, self.folders)
            return unwrap(fetched.pop(entry.id))

        yield read

    def fetched_bytes(self, entry: Entry) -> int:
        """See `Collection.fetched_bytes`."""
        is_remote = isinstance(self._file, RemotePath) or is_url(entry.location[0])
        return USUAL_BYTES if is_remote else 0

    def _resolve(self, path: str) -> AnyPath:
        """Return the file that a line names.

        Raises:
            InvalidSource: If a manifest in a bucket names a file outside of it, or one that may
                read some folders only names a bucket.
            InvalidUrl: If it is a URL that Loupe cannot read.
        """
        if is_url(path):
            if self.folders is not None and path.partition(":")[0].lower() not in OPEN_PROTOCOLS:
                raise InvalidSource(
                    "A manifest that is submitted over HTTP can name only files and https:// URLs.",
                    code="invalid_record",
                )
            found: AnyPath | None = parse_path(path, https=self._https)
        elif isinstance(self._file, Path):
            return self._file.parent / path
        else:
            found = self._file.parent.resolve(path)
        if found is None or (isinstance(found, Path) and isinstance(self._file, RemotePath)):
            raise InvalidSource(
                "A manifest in a bucket cannot name files outside of it.", code="invalid_record"
            )
        return found

    def _records(self, file: "_LimitedLines") -> Iterator[tuple[int, Any]]:
        """Yield the number of each line and its record."""
        first = next(file, "")
        lines = chain([first], file)
        if first.lstrip().startswith("{"):
            if isinstance(record := json.loads(first), dict):
                check_columns(self.path, self._options, [*record])
            for number, line in enumerate(lines, 1):
                file.left = MAX_RECORD_CHARACTERS
                if line.strip():
                    yield number, json.loads(line)
            return
        reader = csv.DictReader(lines, strict=True)
        columns = list(reader.fieldnames or [])
        if PATH not in columns:
            raise InvalidSource(
                f"The manifest '{self.path}' needs a column '{PATH}'; it has: {listed(columns)}."
            )
        check_columns(self.path, self._options, columns)
        for record in reader:
            file.left = MAX_RECORD_CHARACTERS
            yield reader.line_num, record

    def _entry(self, number: int, record: Any) -> Entry:
        path = record.get(PATH) if isinstance(record, dict) else None
        if not isinstance(path, str) or not path or "\0" in path:
            return Entry(f"line {number}", [], f"The line has no '{PATH}'.")
        name = record.get(self._options.id or ID)
        columns = [_as_text(record.get(column)) for column in self._options.columns]
        return Entry(
            path if name in (None, "") else str(name), [path], self._why_refused(path), columns
        )

    def _why_refused(self, path: str) -> str | None:
        if isinstance(self._file, Path) and not is_url(path):
            return None
        try:
            self._resolve(path)
        except InvalidSource as error:
            return error.message
        return None


class _LimitedLines(Iterator[str]):
    """The lines of a text file; a record that is too long raises `ValueError`.

    Attributes:
        left: Characters that the lines of the next record may have.
    """

    def __init__(self, file: IO[str]) -> None:
        self._file = file
        self.left = MAX_RECORD_CHARACTERS

    def __next__(self) -> str:
        line = self._file.readline(self.left + 1)
        self.left -= len(line)
        if self.left < 0:
            raise ValueError(f"a record has more than {MAX_RECORD_CHARACTERS:,} characters")
        if not line:
            raise StopIteration
        return line


def _as_text(value: Any) -> str | None:
    """Return a value as text, since a column has one type; what is no text becomes JSON."""
    if value is None:
        return None
    return printable(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
