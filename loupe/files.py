"""Files: atomic writes, locks, directory walks, and paths as text."""

import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import BinaryIO


@contextmanager
def atomic_path(path: Path, *, sync: bool = False, new: bool = False) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends without an error.

    Readers see the old file or the whole new one. The temporary name is hidden and unique, because
    readers of folders skip hidden files, and workers in containers often share a process id.

    Args:
        path: Its folder must exist.
        sync: Flush the file to disk before it gets its name, so that it survives a power cut.
        new: Raise `FileExistsError` instead of replacing a file.
    """
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield temporary
        if sync:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        if new:
            os.link(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: Path, data: bytes | str, *, sync: bool = False) -> None:
    """Write a whole file, or leave `path` as it is. Text is encoded as UTF-8."""
    with atomic_path(path, sync=sync) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def open_regular(path: str | Path) -> BinaryIO:
    """Open a regular file for reading. Pipes, devices and sockets are refused, not opened.

    Raises:
        OSError: Also if the path is no regular file.
    """
    if not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    # If a pipe replaces the file meanwhile, opening it does not wait for a writer.
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


@contextmanager
def lock(path: Path, *, shared: bool = False, wait: bool = True) -> Iterator[FileIO]:
    """Hold a lock on a file, open for appending, while the block runs.

    The lock ends with its process, even if the process is killed.

    Args:
        path: Created if it does not exist.
        shared: Several processes can hold a shared lock; an exclusive one excludes all others.
        wait: Whether to wait for other holders.

    Raises:
        BlockingIOError: If the lock is taken and `wait` is false.
    """
    with FileIO(path, "a") as file:
        operation = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        fcntl.flock(file, operation if wait else operation | fcntl.LOCK_NB)
        yield file


def walk_files(
    folder: str | Path,
    *,
    choose: Callable[[str], bool] = lambda name: True,
    sort: Callable[[Iterable[str]], Iterable[str]] = sorted,
) -> Iterator[str]:
    """Yield the paths of visible files, relative to `folder`: first its own, then each subfolder's.

    Hidden names and links to folders are skipped. Strings are twice as fast as `pathlib` here.

    Args:
        folder: Where to start.
        choose: Selects files by their names.
        sort: Sort the names of one folder, which may be more than memory should hold.

    Raises:
        OSError: If a folder cannot be listed.
    """
    subfolders: list[str] = []

    def names() -> Iterator[str]:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if not entry.is_dir():
                    if choose(entry.name):
                        yield entry.name
                elif not entry.is_symlink():
                    subfolders.append(entry.name)

    yield from sort(names())
    for name in sorted(subfolders):
        below = os.path.join(folder, name)  # noqa: PTH118 - twice as fast as pathlib
        for path in walk_files(below, choose=choose, sort=sort):
            yield f"{name}/{path}"


def printable(path: str) -> str:
    r"""Return a path as text that can be encoded; bytes that are not UTF-8 become `\udc..`."""
    return path.encode("utf-8", "backslashreplace").decode()
