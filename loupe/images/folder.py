"""The pictures in a folder: a walk that follows links, and counts the files that it skips.

Each link to a file is followed, under its own name. Links to folders are followed after all other
folders, unless they lead to a folder that is walked already, or around the link.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import NamedTuple

from loupe.files import ReadableFolders, is_below, open_regular
from loupe.images.formats import HEAD_BYTES
from loupe.images.selection import Reason, Skipped, is_hidden, why_skipped

ANY_FOLDERS = "**"  # in a pattern
Sort = Callable[[Iterable[str]], Iterable[str]]
# Other errors of a folder may pass.
UNREADABLE = frozenset({errno.EACCES, errno.EPERM, errno.ENAMETOOLONG})


@dataclass(frozen=True)
class Pattern:
    """A pattern of `*`, `**`, `?` and `[…]`; only a part that begins with `.` matches hidden names.

    Attributes:
        parts: The pattern, divided at `/`.
        waiting: Indices of the parts that the next part of a path may match.
    """

    parts: tuple[str, ...]
    waiting: frozenset[int]

    @classmethod
    def parse(cls, text: str) -> "Pattern":
        """Return the pattern for paths below a folder."""
        parts = tuple(text.split("/"))
        return cls(parts, _without_folders(parts, [0]))

    def below(self, folder: str) -> "Pattern | None":
        """Return the pattern for paths below a subfolder; `None` if none of them can match."""
        reached = [
            index if self.parts[index] == ANY_FOLDERS else index + 1
            for index in self.waiting
            if self._fits(index, folder)
        ]
        waiting = _without_folders(self.parts, reached)
        return Pattern(self.parts, waiting) if waiting else None

    def matches(self, file: str) -> bool:
        """Return whether the name of a file matches the rest of the pattern."""
        last = len(self.parts) - 1
        return last in self.waiting and self._fits(last, file)

    def _fits(self, index: int, name: str) -> bool:
        part = self.parts[index]
        if name.startswith(".") and not part.startswith("."):
            return False
        return part == ANY_FOLDERS or fnmatchcase(name, part)


def _without_folders(parts: tuple[str, ...], indices: Iterable[int]) -> frozenset[int]:
    """Return the indices, and those that follow because `**` may match no folder."""
    found = set[int]()
    for index in indices:
        while index < len(parts):
            found.add(index)
            if parts[index] != ANY_FOLDERS:
                break
            index += 1
    return frozenset(found)


class File(NamedTuple):
    """A picture: its path below the folder, and the status of the file that it leads to."""

    name: str
    status: os.stat_result


class _Place(NamedTuple):
    """A folder to walk: its path, its path below the first one, and what its files match."""

    path: str
    name: str
    pattern: Pattern | None


def pictures(
    folder: str | os.PathLike[str],
    skipped: Skipped,
    *,
    pattern: str = "",
    folders: ReadableFolders | None = None,
    sort: Sort = sorted,
) -> Iterator[File]:
    """Yield the pictures below a folder: first its own, then those of each subfolder.

    With a pattern, they come in the order of their paths.

    Args:
        folder: Where to start.
        skipped: Counts the other files.
        pattern: What the paths match; see `Pattern`. Files that do not are not counted.
        folders: Those that links must stay in; all by default.
        sort: Sorts names, of which there may be more than memory should hold.

    Raises:
        OSError: If a folder cannot be listed, and the reason may pass.
    """
    walk = _Walk(os.fspath(folder), skipped, folders, iter if pattern else sort)
    names: Iterable[str] = walk.files(Pattern.parse(pattern) if pattern else None)
    for name in sort(names) if pattern else names:
        path = os.path.join(walk.folder, name)  # noqa: PTH118 - twice as fast as pathlib
        found = _find(path, name, folders)
        if isinstance(found, str):
            skipped.add(found, name)
        else:
            yield File(name, found)


def holds_pictures(folder: str | os.PathLike[str]) -> bool:
    """Return whether a picture is directly in a folder."""
    with os.scandir(folder) as entries:
        return any(
            not _is_folder(entry) and not isinstance(_find(entry.path, entry.name, None), str)
            for entry in entries
        )


def files(
    folder: str | os.PathLike[str],
    skipped: Skipped,
    *,
    pattern: str = "",
    folders: ReadableFolders | None = None,
) -> Iterator[str]:
    """Yield the paths of all visible files below a folder; see `pictures`."""
    walk = _Walk(os.fspath(folder), skipped, folders, sorted)
    for name in walk.files(Pattern.parse(pattern) if pattern else None):
        if is_hidden(name):
            skipped.add("hidden", name)
        else:
            yield name


def _find(path: str, name: str, folders: ReadableFolders | None) -> os.stat_result | Reason:
    """Return the status of a picture, or why a file is skipped."""

    def read_head() -> bytes:
        with open_regular(path, folders) as file:
            return file.read(HEAD_BYTES)

    is_link = False
    try:
        status = os.lstat(path)
        if is_link := stat.S_ISLNK(status.st_mode):
            if folders is not None and not folders.hold(path):
                return "outside"
            status = os.stat(path)  # noqa: PTH116
        if not stat.S_ISREG(status.st_mode) and not is_hidden(name):
            return "not_a_file"
        return why_skipped(name, read_head) or status
    except OSError as error:
        if is_hidden(name):
            return "hidden"
        return "unreadable" if error.errno in UNREADABLE or not is_link else "broken_link"


class _Walk:
    """A walk over all that is not a folder.

    Args:
        folder: Where to start.
        skipped: Counts what cannot be walked.
        folders: Those that links must stay in; all by default.
        sort: Sorts the names of one folder.
    """

    def __init__(
        self, folder: str, skipped: Skipped, folders: ReadableFolders | None, sort: Sort
    ) -> None:
        self.folder = folder
        self._skipped = skipped
        self._folders = folders
        self._sort = sort
        self._walked: set[tuple[int, int]] = set()  # devices and inodes
        self._links: deque[_Place] = deque()

    def files(self, pattern: Pattern | None) -> Iterator[str]:
        """Yield the paths below the folder that match; all by default."""
        waiting = [_Place(self.folder, "", pattern)]
        while waiting or self._links:
            place = waiting.pop() if waiting else self._links.popleft()
            prefix = f"{place.name}/" if place.name else ""
            subfolders: list[_Place] = []
            try:
                if self._enter(place):
                    for name in self._sort(self._list(place, prefix, subfolders)):
                        yield prefix + name
            except OSError as error:
                if error.errno not in UNREADABLE or not place.name:
                    raise
                self._skipped.add("unreadable", place.name)
            waiting += sorted(subfolders, key=lambda below: below.name, reverse=True)

    def _enter(self, place: _Place) -> bool:
        """Mark a folder as walked; return `False` if it was walked before."""
        status = os.stat(place.path)  # noqa: PTH116
        identity = status.st_dev, status.st_ino
        if identity in self._walked:
            self._skipped.add("link_loop", place.name)
            return False
        self._walked.add(identity)
        return True

    def _list(self, place: _Place, prefix: str, subfolders: list[_Place]) -> Iterator[str]:
        """Yield the names of a folder's files; add its subfolders, and keep links for later."""
        links: list[_Place] = []
        with os.scandir(place.path) as entries:
            for entry in entries:
                name, pattern = entry.name, place.pattern
                if not _is_folder(entry):
                    if pattern is None or pattern.matches(name):
                        yield name
                elif pattern is None and is_hidden(name):
                    self._count_hidden(entry)
                elif pattern is None or (pattern := pattern.below(name)) is not None:
                    below = _Place(entry.path, prefix + name, pattern)
                    if not entry.is_symlink():
                        subfolders.append(below)
                    elif reason := self._why_not_followed(place.path, entry.path):
                        self._skipped.add(reason, below.name)
                    else:
                        links.append(below)
        self._links += sorted(links, key=lambda link: link.name)

    def _why_not_followed(self, folder: str, link: str) -> Reason | None:
        """Return why a link in a folder, which leads to a folder, is not followed."""
        target = os.path.realpath(link)
        if self._folders is not None and not self._folders.hold(target):
            return "outside"
        around = any(is_below(os.path.realpath(inner), target) for inner in (folder, self.folder))
        return "link_loop" if around else None

    def _count_hidden(self, entry: os.DirEntry[str]) -> None:
        """Count the files in a hidden folder, without following links."""
        if entry.is_symlink():
            self._skipped.add("hidden", entry.name)
            return
        waiting = [entry.path]
        while waiting:
            try:
                with os.scandir(waiting.pop()) as entries:
                    for below in entries:
                        if below.is_dir(follow_symlinks=False):
                            waiting.append(below.path)
                        else:
                            self._skipped.add("hidden", below.name)
            except OSError:
                self._skipped.add("hidden", entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry is a folder or a link to one; a link to itself is not."""
    try:
        return entry.is_dir()
    except OSError:
        return False
