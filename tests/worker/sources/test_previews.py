"""Small copies of original pictures, for the contact sheets of a job."""

import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loupe.images.spec import ImageSpec, UInt8Array
from tests.support import pictures
from tests.worker.conftest import MAX_PIXELS
from worker.sources.opening import open_source
from worker.sources.pictures import PREVIEW

SHEET = pictures.digit_sheet()  # (120, 90)
DIGIT = pictures.digits(1)[0]


def as_folder(path: Path, files: Path) -> Path:
    return files


def as_zip(path: Path, files: Path) -> Path:
    with zipfile.ZipFile(path / "all.zip", "w") as archive:
        for file in files.rglob("*.png"):
            archive.write(file, file.relative_to(files))
    return path / "all.zip"


def as_tar(path: Path, files: Path) -> Path:
    with tarfile.open(path / "all.tgz", "w:gz") as archive:
        for file in sorted(files.rglob("*.png")):
            archive.add(file, str(file.relative_to(files)))
    return path / "all.tgz"


@pytest.fixture
def files(tmp_path: Path) -> Path:
    files = tmp_path / "files"
    (files / "deep").mkdir(parents=True)
    (files / "deep" / "sheet.png").write_bytes(pictures.png(SHEET))
    (files / "digit.png").write_bytes(pictures.png(DIGIT))
    (files / "damaged.png").write_bytes(pictures.png(SHEET)[:100])
    (files / "other.png").write_bytes(pictures.png(DIGIT))
    return files


def previews(source: Path, index: Path, *ids: str) -> dict[str, UInt8Array]:
    opened = open_source(source, ImageSpec("ink"), MAX_PIXELS)
    index.mkdir()
    opened.plan(2, index)
    return opened.previews(set(ids), index)


@pytest.mark.parametrize("pack", [as_folder, as_zip, as_tar])
def test_asked_pictures_are_shown_small_and_in_colour(
    pack: Callable[[Path, Path], Path], files: Path, tmp_path: Path
) -> None:
    ids = ["deep/sheet.png", "digit.png", "damaged.png", "absent.png"]
    found = previews(pack(tmp_path, files), tmp_path / "index", *ids)

    assert found.keys() == {"deep/sheet.png", "digit.png"}
    np.testing.assert_array_equal(found["digit.png"], np.repeat(DIGIT[..., None], 3, axis=2))
    assert max(found["deep/sheet.png"].shape) == PREVIEW.height


def test_arrays_and_tables_have_no_pictures(tmp_path: Path) -> None:
    np.save(tmp_path / "digits.npy", pictures.digits(3))
    pq.write_table(pa.table({"image": [pictures.png(DIGIT)]}), tmp_path / "t.parquet")

    assert previews(tmp_path / "digits.npy", tmp_path / "1", "0", "1") == {}
    assert previews(tmp_path / "t.parquet", tmp_path / "2", "0") == {}
