"""Pictures of a job's source."""

import gzip
import io
import struct
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from loupe.errors import NotFound
from loupe.images.arrays import idx
from loupe.settings import Settings
from service.jobs import pictures
from service.jobs.pictures import read_picture
from tests.support.pictures import digits, png

PICTURE = png(digits(1)[0])


def archive(**options: int) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as opened:  # type: ignore[call-overload]
        opened.writestr("a/ü.png", PICTURE)
        opened.writestr("notes.png", b"text")
    return file.getvalue()


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", job_roots=str(tmp_path / "images"))


def upload(settings: Settings, content: bytes) -> str:
    path = settings.home / "jobs" / "3f" / "upload"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def refused(source: str, row: str, settings: Settings) -> bool:
    with pytest.raises(NotFound) as raised:
        read_picture(source, row, settings)
    return raised.value.code == "picture_not_found"


def test_picture_of_an_uploaded_archive(settings: Settings) -> None:
    source = upload(settings, archive(compression=zipfile.ZIP_DEFLATED))

    assert read_picture(source, "a/ü.png", settings) == (PICTURE, "image/png")
    assert refused(source, "notes.png", settings)
    assert refused(source, "none.png", settings)


def tarred(**options: Any) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", **options) as opened:
        for name, content in (("./a/ü.png", PICTURE), ("notes.png", b"text"), ("a", None)):
            member = tarfile.TarInfo(name)
            member.type = tarfile.DIRTYPE if content is None else tarfile.REGTYPE
            member.size = len(content or b"")
            opened.addfile(member, io.BytesIO(content or b""))
    return file.getvalue()


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_picture_of_a_tar_archive(settings: Settings, kind: int) -> None:
    source = upload(settings, tarred(format=kind))

    assert read_picture(source, "a/ü.png", settings) == (PICTURE, "image/png")
    for row in ("notes.png", "a", "none.png", "0"):
        assert refused(source, row, settings)


def test_hostile_tar_archive_is_not_read(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, 2**30
    assert refused(upload(settings, header.tobuf() + tarred()), "a/ü.png", settings)
    monkeypatch.setattr(pictures, "MAX_MEMBERS", 1)
    assert refused(upload(settings, tarred() + bytes(512)), "a/ü.png", settings)


def npy(images: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, images)
    return file.getvalue()


IMAGES = np.random.default_rng(0).integers(0, 256, (5, 28, 28), np.uint8)
COLOURED = np.random.default_rng(0).integers(0, 256, (5, 20, 24, 3), np.uint8)


@pytest.mark.parametrize(
    ("content", "images"),
    [
        pytest.param(npy(IMAGES), IMAGES, id="npy"),
        pytest.param(npy(IMAGES.reshape(5, -1)), IMAGES, id="flat"),
        pytest.param(npy(IMAGES[..., None]), IMAGES, id="one channel"),
        pytest.param(npy(COLOURED), COLOURED, id="colours"),
        pytest.param(npy(COLOURED.transpose(0, 3, 1, 2).copy()), COLOURED, id="colours first"),
        pytest.param(idx.encode(IMAGES), IMAGES, id="idx"),
        pytest.param(gzip.compress(idx.encode(IMAGES)), IMAGES, id="gzipped idx"),
    ],
)
def test_row_of_an_array_is_a_picture(
    settings: Settings, content: bytes, images: NDArray[np.uint8]
) -> None:
    source = upload(settings, content)
    picture, media_type = read_picture(source, "3", settings)

    assert media_type == "image/png"
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(picture))), images[3])
    for row in ("5", "-1", "a", ""):
        assert refused(source, row, settings)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(npy(IMAGES.astype(np.float32)), id="floats"),
        pytest.param(npy(np.asfortranarray(IMAGES)), id="Fortran order"),
        pytest.param(npy(np.array(1, np.uint8)), id="no dimension"),
        pytest.param(npy(IMAGES)[:-800], id="cut"),
        pytest.param(npy(np.zeros((5, 7), np.uint8)), id="not square"),
        pytest.param(npy(np.zeros((5, 2**13, 2**12), np.uint8))[:4096], id="large rows"),
        pytest.param(gzip.compress(b"text"), id="gzipped text"),
        pytest.param(gzip.compress(idx.encode(np.zeros((2**17, 28, 28), np.uint8))), id="bomb"),
    ],
)
def test_other_arrays_have_no_pictures(settings: Settings, content: bytes) -> None:
    assert refused(upload(settings, content), "4", settings)


def test_picture_of_a_folder_below_the_roots(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "images" / "set"
    folder.mkdir(parents=True)
    (folder / "a.png").write_bytes(PICTURE)
    (tmp_path / "secret.png").write_bytes(PICTURE)
    (folder / "link.png").symlink_to(tmp_path / "secret.png")

    assert read_picture(str(folder), "a.png", settings) == (PICTURE, "image/png")
    assert refused(str(folder), "../../secret.png", settings)
    assert refused(str(folder), str(tmp_path / "secret.png"), settings)
    assert refused(str(folder), "link.png", settings)
    assert refused(str(folder), "\0", settings)
    assert refused(str(tmp_path), "secret.png", settings)


def test_costly_archive_is_not_opened(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert refused(upload(settings, archive(compression=zipfile.ZIP_LZMA)), "a/ü.png", settings)
    plain = bytearray(archive())
    struct.pack_into("<I", plain, len(plain) - 10, 2**30)  # says how large the index is
    assert refused(upload(settings, bytes(plain)), "a/ü.png", settings)
    assert refused(upload(settings, b"PK\5\6"), "a/ü.png", settings)
    monkeypatch.setattr(pictures, "MAX_PICTURE_BYTES", len(PICTURE) - 1)
    assert refused(upload(settings, archive() + b"\0"), "a/ü.png", settings)
