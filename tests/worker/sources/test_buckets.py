"""Sources and outputs in buckets, on a local S3 server."""

import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loupe.errors import (
    InvalidOutput,
    InvalidSource,
    InvalidUrl,
    LoupeError,
    SourceChanged,
    StorageRefused,
)
from loupe.images.arrays import idx
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.jobs import ScoringOptions
from tests.support import pictures
from tests.support.files import bombs
from tests.support.servers import buckets
from tests.support.servers.buckets import put
from tests.worker.conftest import MAX_PIXELS, scored
from tests.worker.results.test_outputs import CLASSES, JOB, part
from worker.remote_path import RemotePath
from worker.results import claims, outputs
from worker.results.claims import claim_folder, release_folder
from worker.results.outputs import (
    read_errors,
    write_part,
    write_summary,
)
from worker.results.receipts import valid_receipts, write_receipt
from worker.results.statistics import StepStatistics
from worker.scoring.task import PlanIndexes
from worker.sources.opening import check_source, open_source
from worker.sources.source import Records
from worker.storage import AnyPath, is_inside, parse_path, publish, read_text, write_file

IMAGES = pictures.digits(11)
NAMES = [f"{'deep/' * (number % 3)}{number:02}-é.png" for number in range(len(IMAGES))]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pictures in folders, two of them broken, and files that are ignored."""
    made = tmp_path / "images"
    for name, image in zip(NAMES, IMAGES, strict=True):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(pictures.png(image))
    (made / "deep" / "03-text.png").write_bytes(b"text")
    (made / "03-empty.png").touch()
    (made / "notes.txt").write_text("not scored")
    (made / ".hidden").mkdir()
    (made / ".hidden" / "a.png").write_bytes(pictures.png(IMAGES[0]))
    return made


def as_zip(folder: Path, file: Path) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*.*")):
            archive.write(path, path.relative_to(folder))


def as_tar(folder: Path, file: Path) -> None:
    with tarfile.open(file, "w") as archive:
        archive.add(folder, "")


def as_packed_tar(folder: Path, file: Path) -> None:
    with tarfile.open(file, "w:gz") as archive:
        archive.add(folder, "")


def as_npy(folder: Path, file: Path) -> None:
    file.write_bytes(_npy(IMAGES))


def as_fortran_npy(folder: Path, file: Path) -> None:
    file.write_bytes(_npy(np.asfortranarray(IMAGES)))


def as_idx(folder: Path, file: Path) -> None:
    file.write_bytes(idx.encode(IMAGES))


def as_packed_idx(folder: Path, file: Path) -> None:
    file.write_bytes(gzip.compress(idx.encode(IMAGES)))


def as_parquet(folder: Path, file: Path) -> None:
    files = [pictures.png(image) for image in IMAGES]
    pq.write_table(
        pa.table({"image": [*files, b"text"], "id": [*NAMES, "broken"]}), file, row_group_size=5
    )


def _npy(images: UInt8Array) -> bytes:
    file = io.BytesIO()
    np.save(file, images)
    return file.getvalue()


FILES = [as_zip, as_tar, as_packed_tar, as_npy, as_fortran_npy, as_idx, as_packed_idx, as_parquet]
Write = Callable[[Path, Path], None]


def summarized(
    batches: list[Records],
) -> tuple[list[tuple[str | int, bytes]], dict[str, dict[str, str]]]:
    """Return rows and errors, however the batches are cut."""
    rows: list[tuple[str | int, bytes]] = []
    for batch in batches:
        names: list[str | int] = [*batch.ids]
        rows.extend(
            (name, image.tobytes()) for name, image in zip(names, batch.images, strict=True)
        )
    return rows, {name: error.to_json() for batch in batches for name, error in batch.errors}


def assert_read_alike(local: AnyPath, remote: AnyPath, folder: Path) -> None:
    check_source(remote, ImageSpec("ink"))
    found = []
    for number, source in enumerate([local, remote]):
        (index_folder := folder / f"index-{number}").mkdir()
        found.append(summarized(scored(source, index_folder)))
    assert found[0] == found[1]
    assert found[0][0]


# Sources


@pytest.mark.parametrize("write", FILES)
def test_file_in_a_bucket_is_read_like_a_local_file(
    tmp_path: Path, folder: Path, bucket: RemotePath, write: Write
) -> None:
    write(folder, tmp_path / "file")
    put((tmp_path / "file").read_bytes(), bucket / "a folder/file")

    assert_read_alike(tmp_path / "file", bucket / "a folder/file", tmp_path)


def test_npz_in_a_bucket_is_read_like_a_local_file(tmp_path: Path, bucket: RemotePath) -> None:
    np.savez_compressed(tmp_path / "images.npz", images=IMAGES)
    put((tmp_path / "images.npz").read_bytes(), bucket / "images.npz")

    assert_read_alike(tmp_path / "images.npz", bucket / "images.npz", tmp_path)


@pytest.mark.parametrize("pattern", ["", "data/*.parquet", "data/{1..2}.parquet", "**/*.parquet"])
def test_parquet_files_in_a_bucket_are_read_like_local_ones(
    tmp_path: Path, bucket: RemotePath, pattern: str
) -> None:
    local = tmp_path / "set"
    (local / "data").mkdir(parents=True)
    for number in (1, 2):
        files = [pictures.png(image) for image in IMAGES[number::2]]
        pq.write_table(pa.table({"image": files}), local / "data" / f"{number}.parquet")
    (local / "README.md").touch()
    buckets.put_all(local, bucket / "set")

    remote = bucket / "set" / pattern if pattern else bucket / "set"
    assert_read_alike(local / pattern, remote, tmp_path)


def test_parquet_file_in_a_bucket_with_a_large_row_group_is_refused(
    tmp_path: Path, bucket: RemotePath, index_folder: Path
) -> None:
    table = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": [bytes(123_456)]}), table, compression="none")
    size = pq.read_metadata(table).row_group(0).column(0).total_compressed_size
    bombs.claim(table, size, 500 * 10**6)
    put(table.read_bytes(), bucket / "a.parquet")

    with pytest.raises(InvalidSource) as raised:
        scored(bucket / "a.parquet", index_folder)
    assert raised.value.code == "source_too_large"


@pytest.mark.parametrize("name", ["list.csv", "pixels.csv", "keras.npz", "a.tar.xz", "a.tar.zst"])
def test_other_file_in_a_bucket_is_read_like_a_local_file(
    tmp_path: Path, folder: Path, bucket: RemotePath, name: str
) -> None:
    local = folder / name
    if name == "list.csv":
        text = "label;file_name\n" + "".join(f"1;{path}\n" for path in NAMES)
        local.write_text(text, encoding="utf-16")
    elif name == "pixels.csv":
        np.savetxt(local, IMAGES.reshape(-1, 784), "%d", ",")
    elif name == "keras.npz":
        np.savez(local, x_test=IMAGES, y_test=np.arange(len(IMAGES)))
    else:
        as_tar(folder, tmp_path / "a.tar")
        kind = {"a.tar.xz": lzma.compress, "a.tar.zst": pa.Codec("zstd").compress}[name]
        local.write_bytes(bytes(kind((tmp_path / "a.tar").read_bytes())))
    buckets.put_all(folder, bucket)

    assert_read_alike(local, bucket / name, tmp_path)


def test_folder_in_a_bucket_is_read_like_a_local_folder(
    tmp_path: Path, folder: Path, bucket: RemotePath
) -> None:
    buckets.put_all(folder, bucket / "images")
    bucket.fs.call_s3(
        "put_object", Bucket=bucket.path, Key="images/", Body=b""
    )  # some programs mark folders so

    assert_read_alike(folder, bucket / "images", tmp_path)
    (tmp_path / "again").mkdir()
    assert_read_alike(folder, parse_path(f"{bucket}/images/"), tmp_path / "again")


PICTURE = pictures.png(IMAGES[0])
UNCLEAR = {"e.raw": PICTURE, "f.bin": PICTURE, "g.bin": b"text", "no suffix": PICTURE, "h": b"text"}
CLEAR = {"a.png": PICTURE, "b.jfif": PICTURE, "c.txt": b"text", "d.svg": b"<svg >", "i.nef": b"II*"}


def write_named(folder: Path, bucket: RemotePath, kind: str) -> tuple[Path, RemotePath]:
    """Write `CLEAR`, `UNCLEAR` and other files as a folder or zip archive; return both paths."""
    (folder / "named" / ".k").mkdir(parents=True)
    for name, data in {**CLEAR, **UNCLEAR, "_SUCCESS": b"", ".k/l.png": PICTURE}.items():
        (folder / "named" / name).write_bytes(data)
    if kind == "folder":
        buckets.put_all(folder / "named", bucket / "named")
        return folder / "named", bucket / "named"
    with zipfile.ZipFile(folder / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted((folder / "named").rglob("*")):  # those of folders, too
            archive.write(path, path.relative_to(folder / "named"))
    put((folder / "a.zip").read_bytes(), bucket / "a.zip")
    return folder / "a.zip", bucket / "a.zip"


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_content_decides_in_a_bucket_as_in_a_folder(
    tmp_path: Path, bucket: RemotePath, kind: str
) -> None:
    skipped = []
    local, remote = write_named(tmp_path, bucket, kind)
    paths: list[AnyPath] = [local, remote]
    for number, path in enumerate(paths):
        (index_folder := tmp_path / f"plan-{number}").mkdir()
        plan = open_source(path, ImageSpec("ink"), MAX_PIXELS).plan(10, index_folder)
        assert plan.total == 5
        skipped.append(plan.skipped)

    assert_read_alike(local, remote, tmp_path)
    assert skipped[0] == skipped[1]
    assert skipped[1] == {
        "hidden": {".png": 1},
        "not_a_picture": {"none": 2, ".txt": 1, ".bin": 1},
        "unsupported_format": {".svg": 1, ".nef": 1},
    }


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_only_files_whose_names_do_not_tell_are_looked_into(
    tmp_path: Path, bucket: RemotePath, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, remote = write_named(tmp_path, bucket, kind)
    looks: list[str] = []

    def note(path: RemotePath, start: int, stop: int) -> bytes:
        assert stop - start <= 1024
        looks.append(path.name)
        return b""

    monkeypatch.setattr(RemotePath, "read_bytes", note)
    monkeypatch.setattr("worker.storage._fetch_ranges", lambda *_: [])
    source = open_source(remote, ImageSpec("ink"), MAX_PIXELS)
    source.plan(10, tmp_path)

    empty = [] if kind == "folder" else ["_SUCCESS"]
    expected = [*UNCLEAR, *empty]
    assert sorted(looks) == sorted(expected if kind == "folder" else ["a.zip"] * len(expected))


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_looks_into_remote_files_are_bounded(
    tmp_path: Path, bucket: RemotePath, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "worker.sources.buckets" if kind == "folder" else "worker.sources.archives.zips"
    monkeypatch.setattr(f"{module}.MAX_LOOKS", 0)
    _, remote = write_named(tmp_path, bucket, kind)
    plan = open_source(remote, ImageSpec("ink"), MAX_PIXELS).plan(10, tmp_path)

    assert plan.total + sum(sum(each.values()) for each in plan.skipped.values()) == 12
    assert plan.skipped["not_looked_at"] == {".bin": 2}


def test_object_that_may_not_be_read_is_skipped(
    tmp_path: Path, bucket: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, remote = write_named(tmp_path, bucket, "folder")

    def refuse(*_: object) -> bytes:
        raise StorageRefused("no")

    monkeypatch.setattr(RemotePath, "read_bytes", refuse)
    plan = open_source(remote, ImageSpec("ink"), MAX_PIXELS).plan(10, tmp_path)

    assert plan.total == 2
    assert plan.skipped["unreadable"] == {".raw": 1, ".bin": 2, "none": 2}


@pytest.mark.parametrize("pattern", ["**/*.png", "*.png", "deep/0[1-7]-*.png", "d*p/*/?2-*"])
def test_pattern_of_objects_is_read_like_a_pattern_of_files(
    tmp_path: Path, folder: Path, bucket: RemotePath, pattern: str
) -> None:
    buckets.put_all(folder, bucket)

    assert_read_alike(folder / pattern, bucket / pattern, tmp_path)


@pytest.mark.parametrize("pattern", ["a-{000..001}.tar", "a-*.tar"])
def test_many_tar_archives_in_a_bucket_are_one_source(
    tmp_path: Path, folder: Path, bucket: RemotePath, pattern: str
) -> None:
    for number, write in enumerate([as_tar, as_packed_tar]):
        write(folder, tmp_path / f"a-00{number}.tar")
        put((tmp_path / f"a-00{number}.tar").read_bytes(), bucket / f"a-00{number}.tar")

    assert_read_alike(tmp_path / pattern, bucket / pattern, tmp_path)


def test_manifest_may_name_objects(tmp_path: Path, folder: Path, bucket: RemotePath) -> None:
    buckets.put_all(folder, bucket)
    lines = [
        f"{bucket}/{NAMES[1]}",
        f"{bucket}/gone.png",
        str(folder / NAMES[2]),
        f"file://{folder / NAMES[3]}",
    ]
    (tmp_path / "images.csv").write_text("\n".join(["path", *lines]), encoding="utf-8")
    (index_folder := tmp_path / "index").mkdir()
    rows, errors = summarized(scored(tmp_path / "images.csv", index_folder))

    assert [name for name, _ in rows] == [lines[0], *lines[2:]]
    assert [image for _, image in rows] == [image.tobytes() for image in IMAGES[1:4]]
    assert errors[lines[1]]["code"] == "invalid_image"
    assert "No such file or directory" in errors[lines[1]]["error"]


def test_manifest_in_a_bucket_reaches_only_its_bucket_and_other_objects(
    tmp_path: Path, folder: Path, bucket: RemotePath
) -> None:
    buckets.put_all(folder, bucket)
    inside = [NAMES[3], f"../{NAMES[1]}", f"{bucket}/{NAMES[2]}"]
    outside = {
        "../../a.png": "outside",
        "/etc/passwd": "outside",
        "file:///etc/passwd": "outside",
        "https://example.org/a.png": "LOUPE_HTTPS_SOURCES",
        "ftp://example.org/a.png": "'ftp://example.org/a.png'",
    }
    lines = [json.dumps({"path": path}) for path in [inside[0], *inside[1:], *outside]]
    put(pictures.png(IMAGES[3]), bucket / "lists" / NAMES[3])
    put("\n".join(lines).encode(), bucket / "lists/images.jsonl")
    (index_folder := tmp_path / "index").mkdir()
    rows, errors = summarized(scored(bucket / "lists/images.jsonl", index_folder))

    assert rows == [
        (name, IMAGES[number].tobytes()) for name, number in zip(inside, (3, 1, 2), strict=True)
    ]
    assert list(errors) == list(outside)
    for name, fact in outside.items():
        assert errors[name]["code"] == "invalid_record"
        assert fact in errors[name]["error"]


@pytest.mark.parametrize("write", FILES)
def test_object_that_changes_after_the_plan_is_refused(
    tmp_path: Path, folder: Path, bucket: RemotePath, write: Write
) -> None:
    write(folder, tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    put(data, bucket / "file")
    source = open_source(bucket / "file", ImageSpec("ink"), MAX_PIXELS)
    plan = source.plan(100, tmp_path)
    put(data[:-1] + bytes([data[-1] ^ 1]), bucket / "file")

    with pytest.raises(SourceChanged, match=f"{bucket}/file"):
        list(source.batches(plan.shards[0], 10, tmp_path, plan.revision))


def test_changed_object_of_a_folder_is_refused_and_a_missing_one_is_an_error(
    tmp_path: Path, folder: Path, bucket: RemotePath
) -> None:
    buckets.put_all(folder, bucket)
    source = open_source(bucket, ImageSpec("ink"), MAX_PIXELS)
    plan = source.plan(100, tmp_path)
    (bucket / NAMES[0]).unlink()
    (batch,) = source.batches(plan.shards[0], 100, tmp_path, plan.revision)
    error = summarized([batch()])[1][NAMES[0]]
    assert error["code"] == "invalid_image"
    assert "The specified key does not exist" in error["error"]

    image = bytearray(pictures.png(IMAGES[3]))
    image[-1] ^= 1
    put(bytes(image), bucket / NAMES[3])
    with pytest.raises(SourceChanged):
        batch()


def test_large_pictures_are_fetched_in_smaller_batches(
    tmp_path: Path, bucket: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "worker.sources.pictures.MAX_FETCHED_BYTES", 2 * len(pictures.png(IMAGES[0]))
    )
    for number in range(3):
        put(pictures.png(IMAGES[0]), bucket / f"{number}.png")
    source = open_source(bucket, ImageSpec("ink"), MAX_PIXELS)
    plan = source.plan(100, tmp_path)
    batches = [batch() for batch in source.batches(plan.shards[0], 100, tmp_path, plan.revision)]

    assert [batch.ids for batch in batches] == [["0.png", "1.png"], ["2.png"]]


def test_shard_reads_only_its_members_of_an_archive(
    tmp_path: Path, bucket: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    members = [
        (f"{number}.png", np.random.default_rng(number).bytes(300_000)) for number in range(30)
    ]
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, data in members:
            archive.writestr(name, data)
    put(file.getvalue(), bucket / "images.zip")
    source = open_source(bucket / "images.zip", ImageSpec("ink"), MAX_PIXELS)
    plan = source.plan(3, tmp_path)
    read: list[int] = []
    fetch = bucket.fs.cat_ranges

    def count_bytes(*ranges: Any, **options: Any) -> list[bytes]:
        parts: list[bytes] = fetch(*ranges, **options)
        read.extend(map(len, parts))
        return parts

    monkeypatch.setattr(bucket.fs, "cat_ranges", count_bytes)
    monkeypatch.setattr(bucket.fs, "cat_file", count_bytes)
    for batch in source.batches(plan.shards[4], 3, tmp_path, plan.revision):
        assert len(batch().errors) == 3

    assert len(read) == 1
    assert 900_000 < sum(read) < 1_000_000


@pytest.mark.parametrize("archive", ["images.zip", "images.tar"])
def test_members_that_are_empty_or_refused_are_not_fetched(
    tmp_path: Path, bucket: RemotePath, archive: str
) -> None:
    for name in ("../outside.png", "empty.png"):
        if archive.endswith("zip"):
            with zipfile.ZipFile(tmp_path / archive, "w") as zipped:
                zipped.writestr(name, b"")
        else:
            with tarfile.open(tmp_path / archive, "w") as tar:
                tar.addfile(tarfile.TarInfo(name), io.BytesIO(b""))
        put((tmp_path / archive).read_bytes(), bucket / archive)
        (index_folder := tmp_path / f"index of {Path(name).name}").mkdir()
        rows, errors = summarized(scored(bucket / archive, index_folder))

        assert rows == []
        assert list(errors) == [name]


def test_empty_object_is_read(bucket: RemotePath) -> None:
    put(b"", bucket / "empty")

    assert read_text(bucket / "empty") == ""


@pytest.mark.parametrize("write", FILES)
def test_damaged_object_is_refused(
    tmp_path: Path, folder: Path, bucket: RemotePath, write: Write
) -> None:
    write(folder, tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    for damaged in (b"", data[:3], data[: len(data) // 2 + 100]):
        put(damaged, bucket / "file")
        with pytest.raises(InvalidSource):
            scored(bucket / "file", tmp_path)


# Refusals


def refusal(path: str) -> LoupeError:
    with pytest.raises(LoupeError) as raised:
        check_source(parse_path(path), ImageSpec("ink"))
    return raised.value


@pytest.mark.parametrize(
    ("url", "code", "fact"),
    [
        ("ftp://example.org/a.zip", "invalid_url", "s3://"),
        ("zip://a.png::s3://bucket/a.zip", "invalid_url", "s3://"),
        ("https://example.org/a.zip", "invalid_url", "LOUPE_HTTPS_SOURCES"),
        ("http://example.org/a.zip", "invalid_url", "s3://"),
        ("s3:///a.zip", "invalid_url", "no bucket"),
        ("s3://zip::file/a.zip", "invalid_url", "no bucket"),
        ("file://host/a.zip", "invalid_url", "another machine"),
        ("gs://bucket/a.zip", "protocol_unavailable", "pip install gcsfs"),
        ("az://container/a.zip", "protocol_unavailable", "pip install adlfs"),
    ],
)
def test_unusable_url_is_refused(url: str, code: str, fact: str) -> None:
    error = refusal(url)
    assert error.code == code
    assert fact in error.message


def test_missing_bucket_or_object_is_refused(bucket: RemotePath) -> None:
    for url in ("s3://no-such-bucket/images", f"{bucket}/nothing.zip"):
        assert isinstance(refusal(url), InvalidSource)
        assert url in refusal(url).message
    assert isinstance(refusal("s3://No Bucket At All/images"), InvalidUrl)
    assert isinstance(refusal("s3://*/images/*.png"), LoupeError)


def test_unreadable_bucket_is_refused(bucket: RemotePath, tmp_path: Path) -> None:
    put(pictures.png(IMAGES[0]), bucket / "a.png")
    put(_npy(IMAGES), bucket / "a.npy")
    source = open_source(bucket, ImageSpec("ink"), MAX_PIXELS)
    plan = source.plan(10, tmp_path)
    buckets.forbid("s3:GetObject", bucket)

    assert isinstance(refusal(f"{bucket}/a.npy"), StorageRefused)
    (batch,) = source.batches(plan.shards[0], 10, tmp_path, plan.revision)
    with pytest.raises(StorageRefused, match=rf"{bucket}/a\.png"):
        batch()


# Paths


def test_file_url_is_a_local_path() -> None:
    assert parse_path("file:///a%20folder/images.zip") == Path("/a folder/images.zip")
    assert parse_path("images.zip") == Path("images.zip").absolute()


def test_is_inside_compares_paths_and_not_prefixes(bucket: RemotePath, tmp_path: Path) -> None:
    assert is_inside(bucket / "a/b", bucket / "a")
    assert is_inside(bucket / "a", parse_path(f"{bucket}/a/"))
    assert not is_inside(bucket / "ab", bucket / "a")
    assert not is_inside(bucket, bucket / "a")
    assert not is_inside(tmp_path, bucket)
    assert is_inside(tmp_path / "a", tmp_path)


# Outputs


def test_folder_in_a_bucket_is_claimed_once(bucket: RemotePath) -> None:
    bucket.fs.call_s3(
        "put_object", Bucket=bucket.path, Key="out/", Body=b""
    )  # some programs mark folders so
    claim_folder(bucket / "out", JOB.request)
    assert buckets.names(bucket / "out") == ["_RUNNING"]
    with pytest.raises(InvalidOutput, match=r"1 entries .*_RUNNING"):
        claim_folder(bucket / "out", JOB.request)

    release_folder(bucket / "out")
    claim_folder(bucket / "out", JOB.request)
    with pytest.raises(FileExistsError):
        write_file(bucket / "out" / "_RUNNING", "of another job", new=True)


def test_unwritable_bucket_is_refused(bucket: RemotePath) -> None:
    with pytest.raises(InvalidOutput, match="The specified bucket does"):
        claim_folder(RemotePath("s3://no-such-bucket/out"), JOB.request)
    buckets.forbid("s3:PutObject", bucket)
    with pytest.raises(StorageRefused):
        claim_folder(bucket / "out", JOB.request)


@pytest.mark.parametrize("single", [False, True])
def test_results_in_a_bucket_equal_those_in_a_folder(
    tmp_path: Path, bucket: RemotePath, single: bool
) -> None:
    job = replace(JOB, options=ScoringOptions(single=single))
    summaries = []
    for out in (tmp_path / "out", bucket / "out"):
        claim_folder(out, JOB.request)
        with outputs.temporary_index(out) as index_folder:
            (index_folder / "listing.jsonl").write_text("a line")
            outputs.publish_index(out, index_folder, job.revision)
        write_part(out, 0, 2, part(["a", "b", "c"]), CLASSES, job.options)
        write_part(
            out, 1, 2, part(["d"], [("e", InvalidSource("x"))], seed=1), CLASSES, job.options
        )
        errors = list(read_errors(out))
        write_summary(out, job, CLASSES, range(2), StepStatistics())
        summary = outputs.read_summary(out)
        summaries.append(
            [
                errors,
                *(
                    summary[name]
                    for name in ("labels", "errors", "mean_confidence", "done", "parts")
                ),
            ]
        )
    local = sorted(path.name for path in (tmp_path / "out").iterdir())

    assert buckets.names(bucket / "out") == local
    assert ("predictions.parquet" in local) == single
    assert summaries[0] == summaries[1]
    for name in local:
        if name.startswith("predictions"):
            with (bucket / "out" / name).open("rb") as file:
                assert file.read() == (tmp_path / "out" / name).read_bytes()


def test_job_in_a_bucket_continues_with_intact_parts(bucket: RemotePath) -> None:
    out = bucket / "out"
    claim_folder(out, JOB.request)
    for shard, ids in enumerate([["a", "b"], ["c"], ["d"]]):
        files = write_part(out, shard, 3, part(ids), CLASSES)
        write_receipt(
            out,
            shard,
            3,
            files,
            fingerprint="one",
            done=len(ids),
            failed=0,
            figures=StepStatistics(),
        )
    put(b"damaged", out / "predictions-00001-of-00003.parquet")
    held = claims.read_claim(out)

    assert held == claims.Claim(JOB.request, "_RUNNING")
    assert [
        (shard, receipt.done) for shard, receipt in valid_receipts(out, range(3), 3, "one")
    ] == [
        (0, 2),
        (2, 1),
    ]
    assert list(valid_receipts(out, range(3), 3, "another")) == []
    claims.reclaim_folder(out, JOB.request)
    with outputs.temporary_index(out) as index_folder:
        (index_folder / "listing.jsonl").write_text("a line")
        outputs.publish_index(out, index_folder, JOB.revision)
    put(b"notes of a user", out / "notes.txt")
    put(b"of a user, too", out / "predictions-by-hand.csv")
    claims.replace_claim(out, held, JOB.request)
    claims.remove_replaced(out, JOB.request)
    assert buckets.names(out) == ["_RUNNING", "notes.txt", "predictions-by-hand.csv"]


def test_file_that_fails_half_way_is_not_published(bucket: RemotePath) -> None:
    def half() -> None:
        with publish(bucket / "out" / "part") as path:
            path.write_bytes(b"half a fi")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        half()

    assert buckets.names(bucket) == []


def test_worker_copies_the_index_of_a_job_once(bucket: RemotePath, tmp_path: Path) -> None:
    with outputs.temporary_index(bucket / "out") as index_folder:
        (index_folder / "listing.jsonl").write_text("a line")
        outputs.publish_index(bucket / "out", index_folder, "revision")
    copies = PlanIndexes()
    kept = outputs.index_path(bucket / "out", "revision")
    copy = copies.local(kept)

    assert (copy / "listing.jsonl").read_text() == "a line"
    (kept / "listing.jsonl").unlink()
    assert copies.local(kept) == copy
    assert copies.local(tmp_path) == tmp_path
    copies.close()
    assert not copy.exists()


def test_least_recently_used_copy_of_an_index_is_removed(
    bucket: RemotePath, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("worker.scoring.task.MAX_COPIES", 2)
    copies, kept = PlanIndexes(), []
    for revision in ("first", "second", "third"):
        with outputs.temporary_index(bucket / "out") as index_folder:
            (index_folder / "listing.jsonl").write_text(revision)
            outputs.publish_index(bucket / "out", index_folder, revision)
        kept.append(outputs.index_path(bucket / "out", revision))
    first, second = copies.local(kept[0]), copies.local(kept[1])
    copies.local(kept[0])
    copies.local(kept[2])

    assert first.exists()  # a shard may still use it
    assert not second.exists()
    copies.close()
