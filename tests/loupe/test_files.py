"""Files: a write is whole or absent, a lock excludes, a walk is sorted and skips hidden files."""

import os
from contextlib import suppress
from pathlib import Path

import pytest

from loupe.files import atomic_path, lock, printable, walk_files, write_atomically


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


def test_walk_yields_files_before_subfolders_and_skips_hidden_ones(tmp_path: Path) -> None:
    for path in (
        "b.png",
        "a.png",
        ".hidden.png",
        "z/2.png",
        "z/1.png",
        "c/.git/x.png",
        "c/d/3.png",
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    (tmp_path / "link").symlink_to(tmp_path / "z")

    assert list(walk_files(tmp_path)) == ["a.png", "b.png", "c/d/3.png", "z/1.png", "z/2.png"]
    small = walk_files(
        tmp_path, choose=lambda name: name < "b", sort=lambda names: sorted(names)[::-1]
    )
    assert list(small) == ["a.png", "c/d/3.png", "z/2.png", "z/1.png"]


def test_walk_reports_a_folder_that_cannot_be_listed(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        list(walk_files(tmp_path / "nowhere"))


def test_printable_path_can_be_encoded() -> None:
    assert printable("straße/ブーツ.png") == "straße/ブーツ.png"
    assert printable(os.fsdecode(b"a\xff.png")).encode() == b"a\\udcff.png"
