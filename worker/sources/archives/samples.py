"""Samples of WebDataset: members of a tar archive that share a name up to its first dot.

Source: https://github.com/webdataset/webdataset, "The WebDataset Format".
"""

import re
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import IO, Any

from loupe.jobs import ScoringOptions
from worker.sources.checks import check_columns
from worker.sources.collection import Entry
from worker.sources.source import as_text, read_json

NAME = re.compile(r"((?:.*/)?[^./]+)\.([^/]*)", re.DOTALL)
JSON = "json"
MAX_BYTES = 2**20  # of a text or JSON file
MAX_PICTURES = 100
MAX_KNOWN = 20  # names of columns for errors


class Sample:
    """The pictures of a sample, and its other files as columns: `cls`, `txt`, keys of its JSON.

    Args:
        path: Path of the source, for errors.
        columns: Names of the columns that are requested.
        key: Name that the members share.
        is_first: Whether missing columns are an error.
    """

    def __init__(
        self, path: str, columns: Sequence[str], key: str = "", *, is_first: bool = True
    ) -> None:
        self._path = path
        self._columns = columns
        self._key = key
        self._is_first = is_first
        self._pictures: list[Entry] = []
        self._values: dict[str, str | None] = {}
        self._known: list[str] = []
        self._refused: str | None = None

    def next(self, name: str) -> "Sample":
        """Return the sample that begins with a member."""
        is_first = self._is_first and not self._pictures
        return Sample(self._path, self._columns, _split(name)[0], is_first=is_first)

    def holds(self, name: str) -> bool:
        """Return whether a member belongs to this sample."""
        return _split(name)[0] == self._key

    def add_column(self, member: tarfile.TarInfo, archive: IO[bytes]) -> bool:
        """Add a member as a column, if it is one that is requested."""
        kind = _split(member.name)[1]
        self._know([kind])
        if not member.isreg() or (kind not in self._columns and kind != JSON):
            return False
        if member.size > MAX_BYTES:
            self._refused = f"The sample's .{kind} has more than {MAX_BYTES:,} bytes."
            return True
        archive.seek(member.offset_data)
        text = archive.read(member.size).decode("utf-8", "surrogateescape").strip()
        if kind == JSON:
            self._add_json(text)
        self._values[kind] = as_text(text)
        return True

    def add_picture(self, entry: Entry) -> None:
        """Add a picture."""
        if len(self._pictures) == MAX_PICTURES:
            raise tarfile.ReadError(f"a sample of more than {MAX_PICTURES} pictures")
        self._pictures.append(entry)

    def entries(self) -> Iterator[Entry]:
        """Yield the pictures with their columns.

        Raises:
            InvalidSource: If the first sample lacks a column.
        """
        if self._pictures and self._is_first:
            options = ScoringOptions(keep=tuple(self._columns))
            check_columns(self._path, options, [*self._values, *self._known])
        columns = [self._values.get(name) for name in self._columns]
        for entry in self._pictures:
            yield entry._replace(refused=entry.refused or self._refused, columns=columns)

    def _know(self, names: Iterable[str]) -> None:
        """Remember the names of columns, for errors."""
        self._known += islice(names, MAX_KNOWN - len(self._known))

    def _add_json(self, text: str) -> None:
        try:
            found: Any = read_json(text)
        except (ValueError, RecursionError):
            self._refused = "The sample's .json is damaged."
            return
        if isinstance(found, dict):
            self._know(found)
            for name in self._columns:
                if name in found:
                    self._values.setdefault(name, as_text(found[name]))


def _split(name: str) -> tuple[str, str]:
    """Return what a member shares with its sample, and its kind in lower case."""
    match = NAME.fullmatch(name)
    return (match[1], match[2].lower()) if match else (name, "")
