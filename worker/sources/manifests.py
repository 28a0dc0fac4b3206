"""A table of paths, CSV with a header or JSON lines: `path`, and `id` where the path is not to be the id."""

import csv
import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any

from loupe.errors import InvalidSource
from loupe.images import read_file
from worker.sources.pictures import Entry, Read
from worker.sources.source import stamp

PATH, ID = "path", "id"


class Manifest:
    """The picture files that a manifest names, in its order. Paths are relative to its folder."""

    nothing = "a manifest without records"

    def __init__(self, path: Path) -> None:
        self.where = str(path)
        self._path = path

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
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield number, json.loads(line)
            return
        reader = csv.DictReader(lines, strict=True)
        if PATH not in (reader.fieldnames or ()):
            named = ", ".join(islice(reader.fieldnames or ["none"], 5))
            raise InvalidSource(self.where, f"a manifest whose columns ({named}) are without '{PATH}'")
        for record in reader:
            yield reader.line_num, record

    def _entry(self, number: int, record: Any) -> Entry:
        path = record.get(PATH) if isinstance(record, dict) else None
        if not isinstance(path, str) or not path or "\0" in path:
            return Entry(f"line {number}", [], f"a line without a '{PATH}'")
        name = record.get(ID, path)
        return Entry(path if name in (None, "") else str(name), [path])
