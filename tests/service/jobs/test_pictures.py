"""Pictures of a job's source."""

import io
import struct
import zipfile
from pathlib import Path

import pytest

from loupe.errors import NotFound
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
