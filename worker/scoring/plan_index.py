"""Copies of the notes that a plan has left in a bucket, for the shards of this worker."""

import shutil
import tempfile
from pathlib import Path

from worker.remote_path import RemotePath
from worker.storage import AnyPath

MOST_COPIES = 8  # of jobs that take turns; one for which there is none is copied again


class NoteCopies:
    """Folders on this machine with the notes of plans."""

    def __init__(self) -> None:
        self._copies: dict[AnyPath, Path] = {}

    def of(self, notes: AnyPath) -> Path:
        """The notes themselves where they are on this machine, or else a copy."""
        if isinstance(notes, Path):
            return notes
        copy = self._copies.pop(notes) if notes in self._copies else _copy(notes)
        self._copies[notes] = copy  # what was used last stands last, and is dropped last
        self._drop(MOST_COPIES)
        return copy

    def close(self) -> None:
        """Remove all copies."""
        self._drop(0)

    def _drop(self, most: int) -> None:
        while len(self._copies) > most:
            shutil.rmtree(self._copies.pop(next(iter(self._copies))))


def _copy(notes: RemotePath) -> Path:
    copy = Path(tempfile.mkdtemp(prefix="loupe-notes-"))
    try:
        for file in notes.iterdir():
            file.download(copy / file.name)
    except BaseException:
        shutil.rmtree(copy)
        raise
    return copy
