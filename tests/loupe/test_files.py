"""Files: a write is whole or absent, a lock excludes, a walk is sorted and skips hidden files."""

import errno
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from loupe.files import (
    atomic_path,
    lock,
    open_regular,
    printable,
    read_text,
    write_atomically,
)


@pytest.mark.parametrize("sync", [False, True])
def test_atomic_write_replaces_the_file(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "figures.json"
    path.write_text("old")

    write_atomically(path, "né", sync=sync)

    assert path.read_bytes() == "né".encode()
    assert list(tmp_path.iterdir()) == [path]


def test_failed_write_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "figures.json"
    path.write_text("old")

    with suppress(ZeroDivisionError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError

    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("has_links", [True, False], ids=["links", "no links"])
def test_only_one_of_many_writers_makes_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    if not has_links:
        monkeypatch.setattr(os, "link", refuse)
    path = tmp_path / "claim"

    def write(text: str) -> bool:
        try:
            with atomic_path(path, new=True) as temporary:
                temporary.write_text(text)
        except FileExistsError:
            return False
        return True

    with ThreadPoolExecutor(8) as threads:
        written = dict(zip("abcdefgh", threads.map(write, "abcdefgh"), strict=True))

    assert [text for text, is_written in written.items() if is_written] == [path.read_text()]
    assert list(tmp_path.iterdir()) == [path]


def test_exclusive_lock_excludes_every_other(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock(path), pytest.raises(BlockingIOError), lock(path, shared=True, wait=False):
        pass
    shared = lock(path, shared=True)
    with shared, lock(path, shared=True, wait=False):  # noqa: SIM117
        with pytest.raises(BlockingIOError), lock(path, wait=False):
            pass
    with lock(path, wait=False):
        pass


@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "socket"])
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "file"
    with socket.socket(socket.AF_UNIX) as listener:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        elif kind == "folder":
            path.mkdir()
        else:
            listener.bind(str(path))
        for read in (open_regular, read_text):
            with pytest.raises(OSError, match=f"Not a regular file: '{path}'"):
                read(path)


def test_a_small_text_is_read_without_its_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes("\ufeffブーツ\n".encode())

    assert read_text(tmp_path / "text") == "ブーツ\n"
    with pytest.raises(ValueError, match="more than 12 bytes"):
        read_text(tmp_path / "text", max_bytes=12)
    (tmp_path / "text").write_bytes(b"\xff")
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "text")


def test_printable_path_can_be_encoded() -> None:
    assert printable("straße/ブーツ.png") == "straße/ブーツ.png"
    assert printable(os.fsdecode(b"a\xff.png")).encode() == b"a\\udcff.png"
