"""Patterns of paths below a folder, matched part by part while the folder is walked."""

from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

ANY_FOLDERS = "**"


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
