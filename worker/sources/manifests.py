"""A table of paths, CSV with a header or JSON lines, with a column of paths and optionally `id`."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import IO, Any

from loupe.errors import InvalidSource
from loupe.files import ReadableFolders
from loupe.images.arrays.delimited import detect_delimiter
from loupe.images.decode import read_file
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from loupe.settings import HttpsAccess
from worker.remote_path import RemotePath
from worker.sources.buckets import fetch
from worker.sources.checks import check_columns, damaged, listed
from worker.sources.collection import Collection, Entry, ReadEntry
from worker.sources.source import as_text, read_json
from worker.storage import AnyPath, is_url, map_requests, open_text, parse_path, unwrap

PATHS, ID = ("path", "file_name"), "id"  # Hugging Face's metadata files have `file_name`
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
        self.columns = options.columns
        self._paths = (options.image_column,) if options.image_column else PATHS

    def entries(self, index: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        try:
            with open_text(self._file, None, self.folders) as file:
                for number, record in self._records(_LimitedLines(file)):
                    yield self._entry(number, record)
        except UnicodeDecodeError as error:
            raise InvalidSource(
                f"The manifest '{self.path}' is neither UTF-8 nor UTF-16 ({error}). Spreadsheets "
                "write UTF-8 if you save it as 'CSV UTF-8'."
            ) from error
        except (ValueError, csv.Error, RecursionError) as error:
            raise damaged(f"manifest '{self.path}'", error) from error

    @contextmanager
    def open(self, entries: Sequence[Entry], index: Path) -> Iterator[ReadEntry]:
        """See `Collection.open`."""
        paths = {entry.location[0] for entry in entries}
        files = {path: self._resolve(path) for path in paths}
        remote = {path: file for path, file in files.items() if isinstance(file, RemotePath)}
        fetched = dict(zip(remote, map_requests(fetch, remote.values()), strict=True))

        def read(entry: Entry) -> bytes:
            file = files[entry.location[0]]
            if isinstance(file, Path):
                return read_file(file, self.folders)
            data: bytes = unwrap(fetched[entry.location[0]])
            return data

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
            file = self._file.parent / path
            if "\\" in path and not file.exists():
                file = self._file.parent / path.replace("\\", "/")
            return file
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
            if isinstance(record := read_json(first), dict):
                self._check_columns([*record])
            for number, line in enumerate(lines, 1):
                file.left = MAX_RECORD_CHARACTERS
                if line.strip():
                    yield number, _parse(line)
            return
        delimiter = detect_delimiter(first, self._paths)
        reader = csv.DictReader(lines, strict=True, delimiter=delimiter)
        self._check_columns(list(reader.fieldnames or []))
        row: dict[str | None, Any]
        for row in reader:
            file.left = MAX_RECORD_CHARACTERS
            more = row.pop(None, ())  # an unquoted comma would move the values after it
            yield reader.line_num, None if any(more) or None in row.values() else row

    def _check_columns(self, columns: list[str]) -> None:
        """Raise `InvalidSource` if a column is missing."""
        if not any(name in columns for name in self._paths):
            raise InvalidSource(
                f"The manifest '{self.path}' has no column {self._names}; it has: "
                f"{listed(columns)}. To name the column with the paths: --image-column",
                code="column_not_found" if self._options.image_column else None,
            )
        check_columns(self.path, self._options, columns)

    @property
    def _names(self) -> str:
        """The columns that paths are looked for in, for errors."""
        return " or ".join(f"'{name}'" for name in self._paths)

    def _entry(self, number: int, record: Any) -> Entry:
        found = record if isinstance(record, dict) else {}
        path = next((found[name] for name in self._paths if name in found), None)
        if not isinstance(path, str) or not path or "\0" in path:
            problem = "The line is damaged, has more or fewer values than the header, or has no"
            return Entry(f"line {number}", [], f"{problem} {self._names}.")
        name = record.get(self._options.id or ID)
        columns = [as_text(record.get(column)) for column in self._options.columns]
        return Entry(as_text(name) or path, [path], self._why_refused(path), columns)

    def _why_refused(self, path: str) -> str | None:
        if isinstance(self._file, Path) and not is_url(path):
            return None
        try:
            self._resolve(path)
        except InvalidSource as error:
            return error.message
        return None


def _parse(line: str) -> Any:
    """Return the record of a line of JSON; `None`, which names no picture, if it is damaged."""
    try:
        return read_json(line)
    except json.JSONDecodeError:
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
