"""Archives of pictures, some of them damaged or hostile."""

import bz2
import gzip
import io
import json
import lzma
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from loupe.errors import InvalidSource, LoupeError, SourceChanged
from loupe.images.decode import MAX_FILE_BYTES
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from tests.support import pictures
from tests.worker.conftest import MAX_PIXELS, scored
from worker.sources.opening import check_source, open_source

IMAGES = pictures.digits(11)
FILES = {
    f"{'deep/' * (place % 3)}{place:02}-é.png": pictures.png(image)
    for place, image in enumerate(IMAGES)
}
Files = Mapping[str, bytes]


def as_zip(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


def as_stored_zip(path: Path, files: Files) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        archive.comment = b"a comment that ends in PK\x05\x06"
        for name, data in files.items():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(data)


def as_self_extracting_zip(path: Path, files: Files) -> None:
    as_zip(path, files)
    path.write_bytes(b"#!/bin/sh\nexit\n" + path.read_bytes())


def as_tar(path: Path, files: Files) -> None:
    with tarfile.open(path, "w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))


def as_packed_tar(path: Path, files: Files) -> None:
    as_tar(path, files)
    path.write_bytes(gzip.compress(path.read_bytes()))


def as_bzip2_tar(path: Path, files: Files) -> None:
    as_tar(path, files)
    data = path.read_bytes()  # some programs write several streams
    path.write_bytes(b"".join(map(bz2.compress, (data[:1000], data[1000:]))))


def as_xz_tar(path: Path, files: Files) -> None:
    as_tar(path, files)
    data = path.read_bytes()
    path.write_bytes(lzma.compress(data[:1000]) + bytes(8) + lzma.compress(data[1000:]))


def as_zstandard_tar(path: Path, files: Files) -> None:
    as_tar(path, files)
    data = path.read_bytes()
    codec = pa.Codec("zstd")
    path.write_bytes(
        b"".join(codec.compress(part, asbytes=True) for part in (data[:1000], data[1000:]))
    )


TARS = [as_tar, as_packed_tar, as_bzip2_tar, as_xz_tar, as_zstandard_tar]
KINDS = [as_zip, as_stored_zip, as_self_extracting_zip, *TARS]
Write = Callable[[Path, Files], None]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return tmp_path / "file without a suffix"


def read(path: Path, index_folder: Path, shard_images: int = 1000) -> dict[str | int, UInt8Array]:
    seen: dict[str | int, UInt8Array] = {}
    for records in scored(path, index_folder, shard_images):
        seen.update(zip(records.ids, records.images, strict=True))
    return seen


def errors(
    path: Path, index_folder: Path, options: ScoringOptions = DEFAULT_OPTIONS
) -> dict[str, str]:
    return {
        name: error.message
        for records in scored(path, index_folder, options=options)
        for name, error in records.errors
    }


@pytest.mark.parametrize("write", KINDS)
@pytest.mark.parametrize("shard_images", [1, 4, 1000])
def test_pictures_are_read_in_the_order_of_the_archive(
    archive: Path, index_folder: Path, write: Write, shard_images: int
) -> None:
    write(
        archive, {"notes.txt": b"not scored", **FILES, "inner.zip": b"PK", "deep/.hidden.png": b""}
    )
    check_source(archive, ImageSpec("ink"))
    seen = read(archive, index_folder, shard_images)

    assert list(seen) == list(FILES)
    np.testing.assert_array_equal(list(seen.values()), IMAGES)


@pytest.mark.parametrize("write", TARS)
@pytest.mark.parametrize("pattern", ["a-{000..002}.tar.x", "a-*.tar.x", "a-00[0-2].tar.x"])
def test_many_tar_archives_are_one_source(
    tmp_path: Path, index_folder: Path, write: Write, pattern: str
) -> None:
    names = list(FILES)
    for number in range(3):
        write(tmp_path / f"a-00{number}.tar.x", {name: FILES[name] for name in names[number::3]})
    (tmp_path / "b-000.tar.x").touch()
    seen = read(tmp_path / pattern, index_folder, 4)

    assert list(seen) == [
        f"a-00{number}.tar.x/{name}" for number in range(3) for name in names[number::3]
    ]
    np.testing.assert_array_equal(
        list(seen.values()), np.concatenate([IMAGES[number::3] for number in range(3)])
    )


def test_missing_tar_archive_of_a_pattern_is_named(
    tmp_path: Path,
) -> None:
    as_tar(tmp_path / "a-0.tar", FILES)
    with pytest.raises(InvalidSource, match=r"1 of the 2 tar archives .*a-1\.tar'"):
        check_source(tmp_path / "a-{0..1}.tar", ImageSpec("ink"))


def test_pattern_of_pictures_is_read_in_the_order_of_their_paths(
    tmp_path: Path, index_folder: Path
) -> None:
    for name, data in FILES.items():
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(data)
    (tmp_path / "images" / "other.txt").touch()
    assert list(read(tmp_path / "images" / "**" / "*.png", index_folder, 4)) == sorted(FILES)
    (empty := tmp_path / "other index").mkdir()
    assert list(read(tmp_path / "images" / "0?-*.png", empty)) == [
        name for name in FILES if "/" not in name and name < "1"
    ]


def test_pattern_without_matches_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidSource, match=r"\*\.png"):
        check_source(tmp_path / "*.png", ImageSpec("ink"))


@pytest.mark.parametrize("write", KINDS)
def test_members_outside_of_the_archive_are_errors(
    archive: Path, index_folder: Path, write: Write
) -> None:
    good = FILES["00-é.png"]
    write(
        archive,
        {
            "../up.png": good,
            "/root.png": good,
            "a/../../b.png": good,
            "c:\\d.png": good,
            "good..png": good,
        },
    )

    found = errors(archive, index_folder)
    assert [name.replace("\\", "/") for name in found] == [
        "../up.png",
        "/root.png",
        "a/../../b.png",
        "c:/d.png",
    ]
    assert all("out of the archive" in message for message in found.values())


@pytest.mark.parametrize("write", KINDS)
def test_members_have_the_paths_of_the_folder_form(
    archive: Path, index_folder: Path, write: Write
) -> None:
    good = FILES["00-é.png"]
    write(archive, {"./a.png": good, "./b//c.png": good, "d/./e.png": good, "f../g.png": good})

    assert list(read(archive, index_folder)) == ["a.png", "b/c.png", "d/e.png", "f../g.png"]


def zip_named(path: Path, name: bytes, *, flags: int = 0, unicode_path: bytes = b"") -> None:
    """Write a zip of one picture under a name in any encoding."""
    info = zipfile.ZipInfo("n" * len(name))
    info.extra = unicode_path
    with zipfile.ZipFile(path, "w") as made:
        made.writestr(info, FILES["00-é.png"])
    data = bytearray(path.read_bytes().replace(info.filename.encode(), name))
    data[data.rfind(b"PK\x01\x02") + 9] |= flags >> 8
    path.write_bytes(data)


def unicode_path(raw: bytes, name: str, version: int = 1) -> bytes:
    """Return Info-ZIP's extra field with a name."""
    content = struct.pack("<BL", version, zlib.crc32(raw)) + name.encode()
    return struct.pack("<2H", 0x7075, len(content)) + content


@pytest.mark.parametrize(
    ("raw", "flags", "extra", "name"),
    [
        ("写真/靴.png".encode(), 0, b"", "写真/靴.png"),
        ("写真/靴.png".encode(), 0x800, b"", "写真/靴.png"),
        (b"caf\x82.png", 0, b"", "café.png"),
        (b"\x8e\x82.png", 0, unicode_path(b"\x8e\x82.png", "写.png"), "写.png"),
        (b"??.png", 0, unicode_path(b"??.png", "写真.png"), "写真.png"),
        (b"caf\x82.png", 0, unicode_path(b"other.png", "写.png"), "café.png"),
        (b"caf\x82.png", 0, unicode_path(b"caf\x82.png", "写.png", 2), "café.png"),
        (b"train\\boot\\1.png", 0, b"", "train/boot/1.png"),
        (b".\\1.png", 0, b"", "1.png"),
        (b"a.png", 0, unicode_path(b"a.png", ""), "a.png"),
        (b"12:30.png", 0, b"", "12:30.png"),
    ],
)
def test_names_in_a_zip_are_read_whatever_program_wrote_them(
    archive: Path, index_folder: Path, raw: bytes, flags: int, extra: bytes, name: str
) -> None:
    zip_named(archive, raw, flags=flags, unicode_path=extra)

    assert list(read(archive, index_folder)) == [name]


def test_links_in_a_zip_are_no_pictures(archive: Path, index_folder: Path) -> None:
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("a.png", FILES["00-é.png"])
        for name in ("link.png", "folder", ".hidden"):
            info = zipfile.ZipInfo(name)
            info.create_system, info.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
            made.writestr(info, "a.png")

    plan = open_source(archive, ImageSpec("ink"), MAX_PIXELS).plan(9, index_folder)

    assert plan.skipped == {"not_a_file": {"none": 1}, "hidden": {"none": 1}}
    assert list(read(archive, index_folder)) == ["a.png"]
    assert list(errors(archive, index_folder)) == ["link.png"]


def test_backslashes_do_not_lead_out_of_a_zip(archive: Path, index_folder: Path) -> None:
    zip_named(archive, b"..\\..\\up.png")

    assert list(errors(archive, index_folder)) == ["../../up.png"]


@pytest.mark.parametrize("pattern", ["*/s-0.tar", "{a,b}/s-0.tar", "**/s-?.tar"])
def test_archives_of_one_name_in_different_folders_keep_their_ids_apart(
    tmp_path: Path, index_folder: Path, pattern: str
) -> None:
    for folder in "ab":
        (tmp_path / "sets" / folder).mkdir(parents=True)
        as_tar(tmp_path / "sets" / folder / "s-0.tar", {"1.png": FILES["00-é.png"]})

    seen = read(tmp_path / "sets" / pattern, index_folder)
    assert list(seen) == ["a/s-0.tar/1.png", "b/s-0.tar/1.png"]


SAMPLES = {
    "a/000.png": FILES["00-é.png"],
    "a/000.cls": b"3\n",
    "a/000.json": json.dumps({"url": "é", "size": [1, 2]}).encode(),
    "a/001.cls": b"4",
    "a/001.json": json.dumps({"url": None}).encode(),
    "a/001.left.PNG": FILES["00-é.png"],
    "a/001.right.png": FILES["00-é.png"],
    "b/001.png": FILES["00-é.png"],
    "b/002.json": b"{",
    "b/002.png": FILES["00-é.png"],
}


@pytest.mark.parametrize("write", TARS)
def test_files_of_a_sample_are_the_columns_of_its_pictures(
    archive: Path, index_folder: Path, write: Write
) -> None:
    write(archive, SAMPLES)
    options = ScoringOptions(labels="column:cls", keep=("url", "size"))
    check_source(archive, ImageSpec("ink"), options)
    seen = scored(archive, index_folder, options=options)

    rows = {
        name: tuple(row.values())
        for records in seen
        if records.columns is not None
        for name, row in zip(records.ids, records.columns.to_pylist(), strict=True)
    }
    assert rows == {
        "a/000.png": ("é", "[1, 2]", "3"),
        "a/001.left.PNG": (None, None, "4"),
        "a/001.right.png": (None, None, "4"),
        "b/001.png": (None, None, None),
    }
    assert list(errors(archive, index_folder, options)) == ["b/002.png"]


def test_missing_column_of_a_sample_is_named_with_those_it_has(archive: Path) -> None:
    as_tar(archive, SAMPLES)
    with pytest.raises(InvalidSource) as raised:
        check_source(archive, ImageSpec("ink"), ScoringOptions(labels="column:label"))
    assert raised.value.code == "column_not_found"
    assert "cls" in raised.value.message


def test_without_requested_columns_samples_are_pictures(archive: Path, index_folder: Path) -> None:
    as_tar(archive, SAMPLES)
    plan = open_source(archive, ImageSpec("ink"), MAX_PIXELS).plan(100, index_folder)

    assert plan.total == 5
    assert plan.skipped == {"not_a_picture": {".cls": 2, ".json": 3}}


def test_links_and_devices_are_errors(archive: Path, index_folder: Path) -> None:
    with tarfile.open(archive, "w") as tar:
        for name, kind in [
            ("a.png", tarfile.SYMTYPE),
            ("b.png", tarfile.LNKTYPE),
            ("c.png", tarfile.CHRTYPE),
            ("d.png", tarfile.FIFOTYPE),
        ]:
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)

    found = errors(archive, index_folder)
    assert list(found) == ["a.png", "b.png", "c.png", "d.png"]
    assert ["link" in message for message in found.values()] == [True, True, False, False]


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:xz"])
def test_hard_links_in_a_tar_are_the_files_that_they_lead_to(
    archive: Path, index_folder: Path, mode: Literal["w", "w:gz", "w:xz"]
) -> None:
    names = list(FILES)[:2]
    with tarfile.open(archive, mode) as tar:
        for name in names:
            member = tarfile.TarInfo(f"./{name}")
            member.size = len(FILES[name])
            tar.addfile(member, io.BytesIO(FILES[name]))
        for name, target in {
            "copy/a.png": f"./{names[1]}",
            "copy/b.png": "copy/a.png",
            "copy/c.png": names[0],
            "missing.png": "nothing.png",
        }.items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.LNKTYPE, target
            tar.addfile(member)
    seen = scored(archive, index_folder)

    found = [name for batch in seen for name in batch.ids]
    assert found == [*names, "copy/a.png", "copy/b.png", "copy/c.png"]
    first, second, *copies = np.concatenate([batch.images for batch in seen])
    np.testing.assert_array_equal(copies, [second, second, first])
    assert [name for batch in seen for name, _ in batch.errors] == ["missing.png"]


def test_zip_bomb_is_an_error(archive: Path, index_folder: Path) -> None:
    as_zip(archive, {"bomb.bmp": bytes(2**22), "good.png": FILES["00-é.png"]})
    with zipfile.ZipFile(archive) as made:
        packed = made.getinfo("bomb.bmp").compress_size

    found = errors(archive, index_folder)
    assert list(found) == ["bomb.bmp"]
    assert "4,194,304" in found["bomb.bmp"]
    assert f"{packed:,}" in found["bomb.bmp"]


def test_too_large_member_is_an_error(archive: Path, index_folder: Path) -> None:
    member = tarfile.TarInfo("large.png")
    member.size = MAX_FILE_BYTES + 1
    with archive.open("wb") as file:
        file.write(member.tobuf())
        file.truncate(
            tarfile.BLOCKSIZE
            + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            + 2 * tarfile.BLOCKSIZE
        )

    found = errors(archive, index_folder)
    assert list(found) == ["large.png"]
    assert "268,435,457" in found["large.png"]


def test_encrypted_members_and_other_compression_methods_are_errors(
    archive: Path, index_folder: Path
) -> None:
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("lzma.png", b"x", zipfile.ZIP_LZMA)
        made.writestr("secret.png", b"x")
    data = bytearray(archive.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 8] |= 1  # the flag for encryption
    archive.write_bytes(data)

    found = errors(archive, index_folder)
    assert list(found) == ["lzma.png", "secret.png"]
    assert "method 14" in found["lzma.png"]
    assert "encrypted" in found["secret.png"]


@pytest.mark.parametrize("write", KINDS)
def test_only_the_last_of_several_members_with_the_same_path_is_scored(
    archive: Path, index_folder: Path, write: Write
) -> None:
    pictures = list(FILES.values())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("warnings.warn", lambda *_, **__: None)  # zipfile's own, of the second
        write(
            archive,
            _Repeating([*zip(["a.png", "b.png", "./a.png", "a.png"], pictures[:4], strict=True)]),
        )
    check_source(archive, ImageSpec("ink"))
    seen = read(archive, index_folder)
    assert list(seen) == ["b.png", "a.png"]
    np.testing.assert_array_equal(list(seen.values()), IMAGES[[1, 3]])


class _Repeating(dict[str, bytes]):
    """A dict that yields repeated items."""

    def __init__(self, repeated: list[tuple[str, bytes]]) -> None:
        self._repeated = repeated

    def items(self):  # type: ignore[no-untyped-def]
        """Return all items."""
        return self._repeated


def test_damaged_member_is_an_error_and_the_others_are_read(
    archive: Path, index_folder: Path
) -> None:
    as_stored_zip(archive, FILES)
    data = bytearray(archive.read_bytes())
    at = data.find(b"IDAT")
    data[at + 10] ^= 0xFF
    archive.write_bytes(data)

    found = errors(archive, index_folder)
    assert list(found) == ["00-é.png"]
    assert "checksum" in found["00-é.png"]


def test_wrong_offset_in_the_directory_is_an_error(archive: Path, index_folder: Path) -> None:
    as_zip(archive, {"a.png": FILES["00-é.png"]})
    data = bytearray(archive.read_bytes())
    at = data.rfind(b"PK\x01\x02")
    data[at + 42 : at + 46] = struct.pack("<L", 5)
    archive.write_bytes(data)

    found = errors(archive, index_folder)
    assert list(found) == ["a.png"]
    assert "directory" in found["a.png"]


@pytest.mark.parametrize("write", KINDS)
def test_archive_that_changes_after_the_plan_is_refused(
    archive: Path, index_folder: Path, write: Write
) -> None:
    write(archive, FILES)
    source = open_source(archive, ImageSpec("ink"), MAX_PIXELS)
    plan = source.plan(100, index_folder)
    archive.write_bytes(archive.read_bytes() + b"more")

    with pytest.raises(SourceChanged):
        list(source.batches(plan.shards[0], 10, index_folder, plan.revision))


@pytest.mark.parametrize("write", [as_zip, *TARS])
def test_archive_without_pictures_is_refused(
    archive: Path, index_folder: Path, write: Write
) -> None:
    write(archive, {"a.txt": b"text"})
    for refuse in (
        lambda: check_source(archive, ImageSpec("ink")),
        lambda: scored(archive, index_folder),
    ):
        with pytest.raises(InvalidSource, match=r"\.txt 1"):
            refuse()


@pytest.mark.parametrize("write", KINDS)
def test_truncated_archive_is_refused(archive: Path, index_folder: Path, write: Write) -> None:
    write(archive, FILES)
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])

    with pytest.raises(InvalidSource):
        scored(archive, index_folder)


def test_damaged_header_between_members_is_not_the_end(archive: Path, index_folder: Path) -> None:
    as_tar(archive, FILES)
    with tarfile.open(archive) as made:
        at = made.getmembers()[3].offset
    data = bytearray(archive.read_bytes())
    data[at] ^= 0xFF
    archive.write_bytes(data)

    with pytest.raises(InvalidSource, match=rf"{re.escape(str(archive))}' is damaged: .* {at:,}"):
        scored(archive, index_folder)


def test_header_that_claims_a_terabyte_is_not_read(archive: Path, index_folder: Path) -> None:
    first, hostile = tarfile.TarInfo("a.png"), tarfile.TarInfo("x")
    hostile.type, hostile.size = tarfile.XHDTYPE, 2**40
    archive.write_bytes(first.tobuf() + hostile.tobuf(tarfile.GNU_FORMAT) + bytes(1024))

    with pytest.raises(InvalidSource, match="1,099,511,627,776 bytes"):
        scored(archive, index_folder)


@pytest.mark.parametrize("write", KINDS)
@given(data=st.data())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_damage_of_any_kind_raises_an_error_of_loupe(
    tmp_path_factory: pytest.TempPathFactory, write: Write, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("archive")
    archive = folder / "archive"
    write(archive, FILES)
    damaged = bytearray(archive.read_bytes())
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, len(damaged) - 1), st.integers(0, 255)), max_size=5)
    ):
        damaged[at] = value
    archive.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])

    with suppress(LoupeError):
        scored(archive, folder)
