"""Files: atomic writes, locks, and paths as text."""

import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import BinaryIO

# Without O_PATH, as on macOS, opening a folder takes the right to list it.
FOLDER_FLAGS = os.O_DIRECTORY | getattr(os, "O_PATH", os.O_RDONLY)

MAX_COMPRESSION = 200  # only pixels of one colour reach this
SMALL_BYTES = 2**26  # up to this size, files may be compressed more


def max_unpacked_bytes(packed: int, small: int = SMALL_BYTES) -> int:
    """Return how many bytes `packed` bytes may unpack to; `small` is always allowed."""
    return max(small, MAX_COMPRESSION * packed)


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
            _name(temporary, path)
        else:
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _name(temporary: Path, path: Path) -> None:
    """Give a file its name; raise `FileExistsError` if the name is taken."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        raise
    except OSError:  # exFAT, gcsfuse and others have no hard links
        path.touch(exist_ok=False)  # only one process succeeds
        temporary.replace(path)


def write_atomically(path: Path, data: bytes | str, *, sync: bool = False) -> None:
    """Write a whole file, or leave `path` as it is. Text is encoded as UTF-8."""
    with atomic_path(path, sync=sync) as temporary:
        temporary.write_bytes(data.encode() if isinstance(data, str) else data)


def file_inside(folder: Path, name: str) -> Path | None:
    """Return the path of a regular file, to which no link or `..` leads out of the folder."""
    try:
        target = (folder / name).resolve(strict=True)
    except (OSError, RuntimeError):  # missing, or a link to itself
        return None
    inside = target.is_file() and target.is_relative_to(folder.resolve())
    return folder / name if inside else None


@dataclass(frozen=True)
class ReadableFolders:
    """Folders that a caller may read, and no link leads out of.

    Attributes:
        roots: Real paths of the folders.
        private: Real path of a folder that stays closed, also below a root.
    """

    roots: tuple[str, ...]
    private: str

    def hold(self, path: str | Path) -> bool:
        """Return whether the real path is readable. The file need not exist."""
        return self._root_of(os.path.realpath(path)) is not None

    def open(self, path: str | Path) -> int:
        """Return a descriptor of a file to read. Links that appear later are not followed.

        Raises:
            OSError: Also if the file is not readable, whether it exists or not.
        """
        real = os.path.realpath(path)
        root = self._root_of(real)
        if root is None:
            raise PermissionError(errno.EACCES, "It is not below a folder that jobs may read", path)
        folder = os.open(root, FOLDER_FLAGS)
        try:
            *parents, name = os.path.relpath(real, root).split("/")
            for parent in parents:
                below = os.open(parent, FOLDER_FLAGS | os.O_NOFOLLOW, dir_fd=folder)
                os.close(folder)
                folder = below
            return os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=folder)
        finally:
            os.close(folder)

    def _root_of(self, real: str) -> str | None:
        if is_below(real, self.private):
            return None
        return next((root for root in self.roots if is_below(real, root)), None)


def is_below(path: str, folder: str) -> bool:
    """Return whether a normal path is a folder or below it."""
    return f"{path}/".startswith(f"{folder.rstrip('/')}/")


def open_regular(path: str | Path, folders: ReadableFolders | None = None) -> BinaryIO:
    """Open a regular file for reading. Pipes, devices and sockets are refused, not opened.

    Args:
        path: The file.
        folders: Those that the file must be in; all by default.

    Raises:
        OSError: Also if the path is not a regular file.
    """
    if folders is not None:
        descriptor = folders.open(path)
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            return os.fdopen(descriptor, "rb")
        os.close(descriptor)
    if folders is not None or not stat.S_ISREG(Path(path).stat().st_mode):
        raise OSError(errno.EINVAL, "Not a regular file", str(path))
    # If a pipe replaces the file now, opening it does not wait for a writer.
    return open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))


def read_text(path: Path, max_bytes: int = 2**20) -> str:
    """Return the text of a small regular file in UTF-8, without a byte-order mark.

    Raises:
        OSError, ValueError: If the file cannot be read, is not UTF-8, or has more than `max_bytes`.
    """
    with open_regular(path) as file:
        data = file.read(max_bytes + 1)
    if len(data) > max_bytes:
        raise ValueError(f"the file has more than {max_bytes:,} bytes")
    return data.decode("utf-8-sig")


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


def printable(path: str) -> str:
    r"""Return a path as text that can be encoded; bytes that are not UTF-8 become `\udc..`."""
    return path.encode("utf-8", "backslashreplace").decode()
