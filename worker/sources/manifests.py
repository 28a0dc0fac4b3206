"""A table of paths, CSV with a header or JSON lines: `path`, and `id` where the path is not to be the id."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from loupe.images.decode import read_file
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from loupe.old_errors.worker import ColumnNotFound, InvalidRecord, InvalidSource, InvalidUrl
from worker.sources.buckets import fetch
from worker.sources.pictures import Entry, Read, reading_fetched
from worker.sources.source import printable, stamp
from worker.storage import AnyPath, RemotePath, gather, is_url, parse_path

PATH, ID = "path", "id"
USUAL_BYTES = 2**20  # of a picture whose length nobody has told yet


class Manifest:
    """The picture files that a manifest names, in its order: by paths, which are relative to its folder, or by URLs.

    Args:
        file: The manifest.
        options: Which of its columns are read.
        https: Whether it may name URLs of `https`.
    """

    nothing = "a manifest without records"
    quick = True

    def __init__(
        self, file: AnyPath, options: ScoringOptions = DEFAULT_OPTIONS, *, https: bool = False
    ) -> None:
        self.where = str(file)
        self._file = file
        self._options = options
        self._https = https

    def stamp(self) -> str:
        """See `Collection.stamp`."""
        return stamp(self._file)

    def entries(self, notes: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        try:
            with self._file.open(encoding="utf-8-sig", newline="") as lines:
                for number, record in self._records(lines):
                    yield self._entry(number, record)
        except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
            raise InvalidSource(self.where, f"a damaged manifest ({error})") from error

    @contextmanager
    def reading(self, entries: Sequence[Entry], notes: Path) -> Iterator[Read]:
        """See `Collection.reading`."""
        places = [(entry, self._place(entry.where[0])) for entry in entries]
        remote = [(entry, found) for entry, found in places if isinstance(found, RemotePath)]
        read_fetched = reading_fetched(
            [entry for entry, _ in remote],
            gather(partial(fetch, found) for _, found in remote) if remote else [],
        )
        local = {entry.id: found for entry, found in places if isinstance(found, Path)}
        yield lambda entry: read_file(local[entry.id]) if entry.id in local else read_fetched(entry)

    def fetched_bytes(self, entry: Entry) -> int:
        """See `Collection.fetched_bytes`."""
        return USUAL_BYTES if isinstance(self._file, RemotePath) or is_url(entry.where[0]) else 0

    def _place(self, path: str) -> AnyPath:
        """Where a line leads; `InvalidUrl` or `InvalidRecord` if it may not."""
        if isinstance(self._file, Path):
            return parse_path(path, https=self._https) if is_url(path) else self._file.parent / path
        found = (
            parse_path(path, https=self._https) if is_url(path) else self._file.parent.below(path)
        )
        if found is None or isinstance(found, Path):
            raise InvalidRecord("a path that a manifest in a bucket does not reach")
        return found

    def _records(self, file: Iterator[str]) -> Iterator[tuple[int, Any]]:
        """Number of the line, and what stands there."""
        first = next(file, "")
        lines = chain([first], file)
        if first.lstrip().startswith("{"):
            if isinstance(record := json.loads(first), dict):
                self._check_columns([*record])
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, json.loads(line)
            return
        reader = csv.DictReader(lines, strict=True)
        if PATH not in (reader.fieldnames or ()):
            named = ", ".join(islice(reader.fieldnames or ["none"], 5))
            raise InvalidSource(
                self.where, f"a manifest whose columns ({named}) are without '{PATH}'"
            )
        self._check_columns(list(reader.fieldnames or ()))
        for record in reader:
            yield reader.line_num, record

    def _check_columns(self, columns: Sequence[str]) -> None:
        """Raises `ColumnNotFound` if one that was asked for is not among these; of JSON lines, those of the first line."""
        for column in [*([self._options.id] if self._options.id else []), *self._options.columns]:
            if column not in columns:
                raise ColumnNotFound(self.where, column, columns)

    def _entry(self, number: int, record: Any) -> Entry:
        path = record.get(PATH) if isinstance(record, dict) else None
        if not isinstance(path, str) or not path or "\0" in path:
            return Entry(f"line {number}", [], f"a line without a '{PATH}'")
        name = record.get(self._options.id or ID, path)
        columns = [_text(record.get(column)) for column in self._options.columns]
        return Entry(
            path if name in (None, "") else str(name), [path], self._why_refused(path), columns
        )

    def _why_refused(self, path: str) -> str | None:
        if isinstance(self._file, Path) and not is_url(path):
            return None
        try:
            self._place(path)
        except (InvalidRecord, InvalidUrl) as error:
            return error.received
        return None


def _text(value: Any) -> str | None:
    """A value as the rows have it, in which a column is of one type: text, and what JSON has beside that as JSON."""
    if value is None:
        return None
    return printable(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
