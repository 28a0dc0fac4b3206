"""Picture files in a folder, or those that a pattern names."""

import glob
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from pathlib import Path
from typing import NoReturn

from loupe.errors import LoupeError
from loupe.images.decode import SUFFIXES, read_with_status
from loupe.old_errors.worker import InvalidSource, SourceChanged
from worker.sources.pictures import Entry, Read, reading_fetched
from worker.sources.sorting import in_order


class Folder:
    """Picture files below a folder, in the order of their paths. Hidden files are passed over."""

    nothing = f"a folder without {', '.join(sorted(SUFFIXES))} files"
    quick = True

    def __init__(self, folder: Path) -> None:
        self.where = str(folder)

    def stamp(self) -> str:
        """Nothing: each file is compared when it is read."""
        return ""

    def entries(self, notes: Path | None = None) -> Iterator[Entry]:
        """See `Collection.entries`."""
        return map(self._entry, self.paths())

    @contextmanager
    def reading(self, entries: Sequence[Entry], notes: Path) -> Iterator[Read]:
        """See `Collection.reading`."""
        yield reading_fetched(entries, map(self._outcome, entries))  # while another thread decodes

    def fetched_bytes(self, entry: Entry) -> int:
        """See `Collection.fetched_bytes`."""
        stamp = entry.where[0]
        return stamp[0] if stamp else 0

    def paths(self) -> Iterator[str]:
        """Relative to the folder."""
        yield from self._paths_below("")

    def _paths_below(self, below: str) -> Iterator[str]:
        """Files of a folder first, then what its folders hold; `below` ends with a slash, but for the first."""
        folders: list[str] = []
        yield from (below + name for name in in_order(self._pictures(below, folders)))
        for name in sorted(folders):
            yield from self._paths_below(f"{below}{name}/")

    def _pictures(self, below: str, folders: list[str]) -> Iterator[str]:
        """Names of the picture files in a folder, in any order; those of its folders are added to the list."""
        try:
            with os.scandir(os.path.join(self.where, below)) as listed:  # noqa: PTH118
                for each in listed:
                    if not each.is_dir():
                        if is_picture(each.name):
                            yield each.name
                    elif not each.name.startswith(".") and not each.is_symlink():
                        folders.append(each.name)
        except OSError as error:
            self._refuse(error)

    def _entry(self, path: str) -> Entry:
        return Entry(path, [_stamp(os.path.join(self.where, path))])  # noqa: PTH118 - twice as fast as pathlib

    def _outcome(self, entry: Entry) -> bytes | Exception:
        try:
            return self._read(entry)
        except (LoupeError, OSError) as error:
            return error

    def _read(self, entry: Entry) -> bytes:
        path = os.path.join(self.where, entry.id)  # noqa: PTH118
        data, status = read_with_status(path)
        if _stamp_of(status) != entry.where[0]:
            raise SourceChanged(path)
        return data

    def _refuse(self, error: OSError) -> NoReturn:
        received = f"a folder that cannot be listed ({error.strerror}: {error.filename})"
        raise InvalidSource(self.where, received) from error


class Pattern(Folder):
    """Picture files that a pattern such as `photos/**/*.png` names, in the order of their paths."""

    def __init__(self, pattern: str) -> None:
        super().__init__(Path(_fixed_part(pattern)))
        self._pattern = os.path.relpath(pattern, self.where)
        self.nothing = f"a pattern that no {', '.join(sorted(SUFFIXES))} file fits"

    def paths(self) -> Iterator[str]:
        """Relative to the part of the pattern that stands for itself."""
        found: Iterable[str] = glob.iglob(self._pattern, root_dir=self.where, recursive=True)  # noqa: PTH207 - as the shell has it
        yield from in_order(filter(is_picture, found))


def is_picture(path: str) -> bool:
    """By its name."""
    name = os.path.basename(path)  # noqa: PTH119
    return os.path.splitext(name)[1].lower() in SUFFIXES and not name.startswith(".")  # noqa: PTH122


def _fixed_part(pattern: str) -> str:
    parts = Path(pattern).parts
    return str(Path(*takewhile(lambda part: not glob.has_magic(part), parts)))


def _stamp(path: str) -> list[int] | None:
    """Size, and time of the last change in nanoseconds; nothing where there is no file."""
    try:
        return _stamp_of(os.stat(path))  # noqa: PTH116
    except OSError:
        return None


def _stamp_of(status: os.stat_result) -> list[int]:
    return [status.st_size, status.st_mtime_ns]
