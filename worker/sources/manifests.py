"""A table of paths, CSV with a header or JSON lines: `path`, and `id` where the path is not to be the id."""

import csv
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from loupe.errors import ColumnNotFound, InvalidSource
from loupe.images import read_file
from worker.jobs import DEFAULT_OPTIONS, Options
from worker.sources.pictures import Entry, Read
from worker.sources.source import printable, stamp

PATH, ID = "path", "id"


class Manifest:
    """The picture files that a manifest names, in its order. Paths are relative to its folder."""

    nothing = "a manifest without records"

    def __init__(self, path: Path, options: Options = DEFAULT_OPTIONS) -> None:
        self.where = str(path)
        self._path = path
        self._options = options

    def stamp(self) -> str:
        """See `Collection.stamp`."""
        return stamp(self._path)

    def entries(self, notes: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        try:
            with self._path.open(encoding="utf-8-sig", newline="") as file:
                for number, record in self._records(file):
                    yield self._entry(number, record)
        except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
            raise InvalidSource(self.where, f"a damaged manifest ({error})") from error

    @contextmanager
    def reading(self, notes: Path) -> Iterator[Read]:
        """See `Collection.reading`."""
        yield lambda entry: read_file(self._path.parent / entry.where[0])

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
            raise InvalidSource(self.where, f"a manifest whose columns ({named}) are without '{PATH}'")
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
        return Entry(path if name in (None, "") else str(name), [path], columns=columns)


def _text(value: Any) -> str | None:
    """A value as the rows have it, in which a column is of one type: text, and what JSON has beside that as JSON."""
    if value is None:
        return None
    return printable(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
