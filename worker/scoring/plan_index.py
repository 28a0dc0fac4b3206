"""Local copies of plan indexes that are kept in a bucket."""

import shutil
import tempfile
from pathlib import Path

from worker.remote_path import RemotePath
from worker.storage import AnyPath

MAX_COPIES = 8  # of jobs that take turns; others are copied again


class PlanIndexes:
    """The plan indexes of the jobs that this process works on."""

    def __init__(self) -> None:
        self._copies: dict[AnyPath, Path] = {}

    def local(self, index: AnyPath) -> Path:
        """Return the index itself if it is local, else a copy."""
        if isinstance(index, Path):
            return index
        copy = self._copies.pop(index) if index in self._copies else _copy(index)
        self._copies[index] = copy  # the last one is the most recently used
        self._evict(MAX_COPIES)
        return copy

    def close(self) -> None:
        """Delete all copies."""
        self._evict(0)

    def _evict(self, max_copies: int) -> None:
        while len(self._copies) > max_copies:
            shutil.rmtree(self._copies.pop(next(iter(self._copies))))


def _copy(index: RemotePath) -> Path:
    copy = Path(tempfile.mkdtemp(prefix="loupe-index-"))
    try:
        for file in index.iterdir():
            file.download(copy / file.name)
    except BaseException:
        shutil.rmtree(copy)
        raise
    return copy
