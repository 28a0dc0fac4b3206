"""Sources of callers who may read some folders only."""

import csv
import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loupe.errors import InvalidSource
from loupe.files import ReadableFolders
from loupe.images.spec import ImageSpec
from tests.support import pictures
from tests.worker.conftest import MAX_PIXELS
from worker.sources.opening import open_source
from worker.sources.source import ImageSource, Records

DIGITS = pictures.digits(3)
PICTURE = pictures.png(DIGITS[0])


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a folder that is readable, beside one that is not, and around a private one."""
    for folder in ("root/own", "root/private", "outside/folder"):
        (tmp_path / folder).mkdir(parents=True)
    for file in ("root/own/a.png", "root/private/p.png", "outside/o.png", "outside/folder/f.png"):
        (tmp_path / file).write_bytes(PICTURE)
    return tmp_path / "root"


def opened(path: Path, root: Path) -> ImageSource:
    folders = ReadableFolders((str(root.resolve()),), str(root.resolve() / "private"))
    return open_source(path, ImageSpec("ink"), MAX_PIXELS, folders=folders)


def read(
    path: Path, root: Path, index: Path, meanwhile: Callable[[], object] = lambda: None
) -> Records:
    """Plan a source of one shard, and read it after something else has happened."""
    plan = opened(path, root).plan(100, index)
    meanwhile()
    source = opened(path, root)
    (batch,) = source.batches(plan.shards[0], 100, index, plan.revision)
    return batch()


def outcome(records: Records) -> dict[str, str]:
    """Return what became of each record."""
    codes = {name: error.code for name, error in records.errors}
    return {**{str(name): "read" for name in records.ids}, **codes}


def test_links_are_followed_only_to_readable_folders(root: Path, index_folder: Path) -> None:
    (root / "1-inside.png").symlink_to(root / "own" / "a.png")
    (root / "2-relative.png").symlink_to("../outside/o.png")
    (root / "3-private.png").symlink_to("private/p.png")
    (root / "4-missing.png").symlink_to("../outside/nothing.png")
    (root / "5-chain.png").symlink_to("2-relative.png")

    (root / "6-folder").symlink_to("../outside/folder")
    (root / "7-private").symlink_to("private")
    (root / "8-inside").symlink_to("own")

    assert outcome(read(root, root, index_folder)) == {
        "1-inside.png": "read",
        "own/a.png": "read",
        "private/p.png": "invalid_image",
    }
    # The reason does not tell whether the target exists.
    assert opened(root, root).plan(100, index_folder).skipped == {
        "outside": {".png": 4, "none": 2},
        "link_loop": {"none": 1},
    }


def test_local_sources_follow_links_anywhere(root: Path, index_folder: Path) -> None:
    (root / "own" / "link.png").symlink_to(root.parent / "outside" / "o.png")
    source = open_source(root / "own", ImageSpec("ink"), MAX_PIXELS)
    plan = source.plan(100, index_folder)

    (batch,) = source.batches(plan.shards[0], 100, index_folder, plan.revision)

    assert outcome(batch()) == {"a.png": "read", "link.png": "read"}


def test_entries_of_a_manifest_stay_in_readable_folders(root: Path, index_folder: Path) -> None:
    (root / "folder").symlink_to(root.parent / "outside" / "folder")
    outside = root.parent / "outside" / "o.png"
    paths = {
        "own/a.png": "read",
        str(root / "own" / "a.png"): "read",
        (root / "own" / "a.png").as_uri(): "read",
        str(outside): "invalid_image",
        outside.as_uri(): "invalid_image",
        "../outside/o.png": "invalid_image",
        "own/../../outside/o.png": "invalid_image",
        "folder/f.png": "invalid_image",
        "private/p.png": "invalid_image",
        "s3://bucket/o.png": "invalid_record",
    }
    with (root / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["path"], *([path] for path in paths)])

    assert outcome(read(root / "list.csv", root, index_folder)) == paths


@pytest.mark.parametrize("replaced", ["own/a.png", "own"])
def test_link_that_appears_after_planning_is_not_followed(
    root: Path, index_folder: Path, replaced: str
) -> None:
    """The target has the size and time of the planned picture."""
    status = (root / "own" / "a.png").stat()
    shutil.copytree(root / "own", root.parent / "outside" / "own")
    target = root.parent / "outside" / "own" / "a.png"
    os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

    def replace() -> None:
        (root / replaced).rename(root.parent / "moved")
        (root / replaced).symlink_to(root.parent / "outside" / replaced)

    records = read(root, root, index_folder, replace)

    assert outcome(records)["own/a.png"] == "invalid_image"


@pytest.mark.parametrize("target", ["outside", "outside/o.png", "outside/nothing", "root/private"])
def test_source_that_has_become_a_link_is_refused(root: Path, target: str) -> None:
    (root / "source").symlink_to(root.parent / target)

    with pytest.raises(InvalidSource, match="folder that jobs may read"):
        opened(root / "source", root)


def test_patterns_are_refused(root: Path) -> None:
    for pattern in ("**/*.png", "own/*.png", "{own,../outside}/x.tar"):
        with pytest.raises(InvalidSource):
            opened(root / pattern, root)


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("0.png", PICTURE)
    return file.getvalue()


def tarred(mode: str) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("0.png")
        member.size = len(PICTURE)
        archive.addfile(member, io.BytesIO(PICTURE))
    return file.getvalue()


def saved() -> bytes:
    file = io.BytesIO()
    np.save(file, DIGITS[:1])
    return file.getvalue()


def parquet() -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table({"image": [PICTURE]}), file)
    return file.getvalue()


FILES = {
    "a.zip": zipped(),
    "a.tar": tarred("w"),
    "a.tar.gz": tarred("w:gz"),
    "a.npy": saved(),
    "a.parquet": parquet(),
}


@pytest.mark.parametrize("name", FILES)
def test_file_in_a_readable_folder_is_read(root: Path, index_folder: Path, name: str) -> None:
    (root / name).write_bytes(FILES[name])

    assert list(outcome(read(root / name, root, index_folder)).values()) == ["read"]


@pytest.mark.parametrize("name", [*FILES, "a.csv"])
def test_file_that_becomes_a_link_while_it_is_scored_is_not_read(
    root: Path, index_folder: Path, name: str
) -> None:
    file = root / name
    file.write_bytes(FILES.get(name, b"path\nown/a.png\n"))
    source = opened(file, root)
    file.rename(root.parent / "outside" / name)
    file.symlink_to(root.parent / "outside" / name)

    with pytest.raises((InvalidSource, OSError)):
        source.plan(100, index_folder)
