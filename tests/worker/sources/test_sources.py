"""Arrays and folders: planned once, read shard by shard in the same order."""

import gzip
import io
import lzma
import math
import os
import pickle
import tracemalloc
import zipfile
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import accumulate
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.errors import InvalidSource, LoupeError, SourceChanged
from loupe.images.arrays import idx
from loupe.images.decode import MAX_FILE_BYTES
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.jobs import ScoringOptions
from tests.support import pictures
from tests.support.garbage import uncollected
from tests.worker.conftest import MAX_PIXELS, scored
from worker.sources import arrays
from worker.sources.arrays import ArraySource
from worker.sources.checks import check_kind
from worker.sources.collection import Entry
from worker.sources.opening import check_source, open_source
from worker.sources.pictures import Decoder
from worker.sources.source import MAX_SHARDS, Records, ShardPlan, cut
from worker.storage import open_ranges


def planned(source: Path, shard_images: int, index_folder: Path) -> ShardPlan:
    return open_source(source, ImageSpec("ink"), MAX_PIXELS).plan(shard_images, index_folder)


def read(
    source: Path, plan: ShardPlan, shard: int, index_folder: Path, batch_size: int = 1000
) -> list[Records]:
    batches = open_source(source, ImageSpec("ink"), MAX_PIXELS).batches(
        plan.shards[shard], batch_size, index_folder, plan.revision
    )
    return [batch() for batch in batches]


def ids(records: list[Records]) -> list[str | int]:
    return [record for batch in records for record in batch.ids]


def errors(records: list[Records]) -> dict[str, LoupeError]:
    return {name: error for batch in records for name, error in batch.errors}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    source = tmp_path / "images"
    source.mkdir()
    return source


# Arrays


def as_npy(images: UInt8Array, path: Path) -> None:
    np.save(path, images)


def as_fortran_npy(images: UInt8Array, path: Path) -> None:
    np.save(path, np.asfortranarray(images))


def as_idx(images: UInt8Array, path: Path) -> None:
    path.write_bytes(idx.encode(images))


def as_packed_idx(images: UInt8Array, path: Path) -> None:
    path.write_bytes(gzip.compress(idx.encode(images)))


@pytest.mark.parametrize("write", [as_npy, as_fortran_npy, as_idx, as_packed_idx])
def test_array_is_read_shard_by_shard(
    tmp_path: Path, index_folder: Path, write: Callable[[UInt8Array, Path], None]
) -> None:
    images = pictures.digits(25)
    source = tmp_path / "images.npy"
    write(images, source)
    plan = planned(source, 10, index_folder)

    assert plan.total == 25
    assert [(shard.name, shard.start, shard.stop) for shard in plan.shards] == [
        ("shard-0", 0, 8),
        ("shard-1", 8, 16),
        ("shard-2", 16, 25),
    ]
    for index, shard in enumerate(plan.shards):
        records = read(source, plan, index, index_folder, batch_size=4)
        assert max(len(batch.ids) for batch in records) <= 4
        assert ids(records) == list(range(shard.start, shard.stop))
        np.testing.assert_array_equal(
            np.concatenate([batch.images for batch in records]),
            images[shard.start : shard.stop],
        )


@pytest.mark.parametrize("write", [as_fortran_npy, as_packed_idx])
def test_array_that_cannot_be_read_in_parts_is_loaded_once(
    tmp_path: Path,
    index_folder: Path,
    write: Callable[[UInt8Array, Path], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = pictures.digits(25)
    source = tmp_path / "images.npy"
    write(images, source)
    plan = planned(source, 10, index_folder)
    monkeypatch.setattr(ArraySource, "_opened", lambda _: pytest.fail("loaded again"))

    found = [
        batch.images
        for index in range(len(plan.shards))
        for batch in read(source, plan, index, index_folder, batch_size=4)
    ]
    np.testing.assert_array_equal(np.concatenate(found), images)


@pytest.mark.parametrize("shape", [(-1, 28, 28, 1), (-1, 1, 28, 28), (-1, 784), (-1, 784, 1)])
@pytest.mark.parametrize("write", [as_npy, as_fortran_npy, as_idx, as_packed_idx])
def test_shape_of_an_array_may_have_one_channel_or_one_index_for_all_pixels(
    tmp_path: Path,
    index_folder: Path,
    write: Callable[[UInt8Array, Path], None],
    shape: tuple[int, ...],
) -> None:
    images = pictures.digits(9)
    write(images.reshape(shape), tmp_path / "images.npy")
    (seen,) = scored(tmp_path / "images.npy", index_folder, 10, 10)

    np.testing.assert_array_equal(seen.images, images)


TRAIN, TEST = pictures.digits(6), pictures.digits(11)[6:]
# Sets that people have: Keras' mnist.npz, MedMNIST, and arrays without names.
NPZ = {
    "keras": {"x_train": TRAIN, "y_train": range(6), "x_test": TEST, "y_test": range(5)},
    "medmnist": {
        "train_images": TRAIN,
        "test_images": TEST[..., None],
        "test_labels": np.arange(5, dtype=np.uint64)[:, None],
    },
    "one array of images": {"arr_0": TEST.reshape(-1, 784), "arr_1": ["é", "b", "c", "d", "e"]},
}


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    ("name", "array", "column", "labels"),
    [
        ("keras", "x_test", "y_test", range(5)),
        ("medmnist", "test_images", "test_labels", range(5)),
        ("one array of images", None, "arr_1", ["é", "b", "c", "d", "e"]),
    ],
)
def test_array_of_several_is_read_with_its_labels(
    tmp_path: Path,
    index_folder: Path,
    save: Callable[..., None],
    name: str,
    array: str | None,
    column: str,
    labels: Sequence[object],
) -> None:
    save(tmp_path / "a.npz", **{name: np.asarray(values) for name, values in NPZ[name].items()})
    options = ScoringOptions(array=array, labels=f"column:{column}", keep=(column,))
    check_source(tmp_path / "a.npz", ImageSpec("ink"), options)
    seen = scored(tmp_path / "a.npz", index_folder, 2, 3, options)

    np.testing.assert_array_equal(np.concatenate([batch.images for batch in seen]), TEST)
    assert ids(seen) == list(range(5))
    columns = [batch.columns for batch in seen if batch.columns is not None]
    assert pa.concat_tables(columns).to_pydict() == {column: list(labels)}


COLUMNS = {
    "floats": (np.array([0, 1, 2, np.nan, 4.5]), [0.0, 1.0, 2.0, np.nan, 4.5]),
    "half floats": (np.arange(5, dtype=np.float16), [0.0, 1.0, 2.0, 3.0, 4.0]),
    "big-endian numbers": (np.arange(5, dtype=">i4"), [0, 1, 2, 3, 4]),
    "bytes": (np.array([b"a", b"b", b"\xc3\xa9", b"\xff", b""]), ["a", "b", "é", "\\xff", ""]),
}


@pytest.mark.parametrize("name", COLUMNS)
def test_column_of_an_archive_may_be_of_any_kind(
    tmp_path: Path, index_folder: Path, name: str
) -> None:
    values, expected = COLUMNS[name]
    np.savez(tmp_path / "a.npz", images=TEST, y=values)
    options = ScoringOptions(labels="column:y", keep=("y",))
    seen = scored(tmp_path / "a.npz", index_folder, options=options)

    columns = [batch.columns for batch in seen if batch.columns is not None]
    np.testing.assert_equal(pa.concat_tables(columns).column("y").to_pylist(), expected)


@pytest.mark.parametrize(
    ("values", "facts"),
    [
        pytest.param(np.eye(5), ["float64", "(5, 5)", "argmax"], id="one-hot"),
        pytest.param(np.arange(4), ["int64", "(4,)", "5 images"], id="count"),
        pytest.param(np.array(["a", 1, 2, 3, 4], object), ["object"], id="objects"),
        pytest.param(np.zeros(5, np.complex64), ["complex64"], id="complex"),
        pytest.param(np.zeros(5, np.longdouble), ["float128"], id="long double"),
    ],
)
def test_array_that_cannot_be_a_column_is_refused_with_the_reason(
    tmp_path: Path, values: np.ndarray[tuple[int, ...], np.dtype[np.generic]], facts: list[str]
) -> None:
    np.savez(tmp_path / "a.npz", images=TEST, y=values)
    with pytest.raises(InvalidSource) as raised:
        check_source(tmp_path / "a.npz", ImageSpec("ink"), ScoringOptions(labels="column:y"))
    for fact in [*facts, "'y'"]:
        assert fact in raised.value.message


@pytest.mark.parametrize("column", ["names", "numbers"])
def test_array_may_have_ids(tmp_path: Path, index_folder: Path, column: str) -> None:
    numbers = np.arange(2**64 - 5, 2**64, dtype=np.uint64)
    np.savez(tmp_path / "a.npz", images=TEST, names=list("abcde"), numbers=numbers)
    options = ScoringOptions(id=column)
    seen = scored(tmp_path / "a.npz", index_folder, options=options)

    expected = list("abcde") if column == "names" else list(map(str, numbers))
    assert ids(seen) == expected
    source = open_source(tmp_path / "a.npz", ImageSpec("ink"), MAX_PIXELS, options)
    shard = source.plan(5, index_folder).shards[0]
    assert source.record_id(shard, 3, index_folder) == expected[3]


def test_image_whose_id_is_missing_is_an_error(tmp_path: Path, index_folder: Path) -> None:
    np.savez(tmp_path / "a.npz", images=TEST, numbers=[0.5, 1, np.nan, 3, 4])
    seen = scored(tmp_path / "a.npz", index_folder, options=ScoringOptions(id="numbers"))

    assert ids(seen) == ["0.5", "1.0", "3.0", "4.0"]
    assert [name for batch in seen for name, _ in batch.errors] == ["row 2"]


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        (ScoringOptions(), ["2 arrays", "x_train (6, 28, 28), x_test (5, 28, 28)"]),
        (ScoringOptions(array="x"), ["'x'", "x_test, x_train, y_test, y_train"]),
        (ScoringOptions(array="y_test"), ["int64, shape (5,)"]),
        (ScoringOptions(array="x_test", labels="column:y_train"), ["'y_train'", "int64", "(6,)"]),
        (ScoringOptions(array="x_test", labels="column:y"), ["'y'", "has x_train, y_train"]),
    ],
)
def test_array_that_is_not_clear_is_named_with_the_others(
    tmp_path: Path, options: ScoringOptions, facts: list[str]
) -> None:
    save: Callable[..., None] = np.savez
    save(tmp_path / "a.npz", **{name: np.asarray(values) for name, values in NPZ["keras"].items()})
    with pytest.raises(InvalidSource) as raised:
        check_source(tmp_path / "a.npz", ImageSpec("ink"), options)
    for fact in [*facts, f"'{tmp_path}/a.npz'"]:
        assert fact in raised.value.message


@pytest.mark.parametrize("name", ["images.npy", "folder", "a.zip", "a.csv", "a.parquet"])
def test_source_without_named_arrays_has_no_requested_array(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "images.npy", TEST)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(pictures.png(TEST[0]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        made.writestr("a.png", pictures.png(TEST[0]))
    (tmp_path / "a.csv").write_text("path\nfolder/a.png\n")
    pq.write_table(pa.table({"image": [pictures.png(TEST[0])]}), tmp_path / "a.parquet")
    with pytest.raises(InvalidSource) as raised:
        check_source(tmp_path / name, ImageSpec("ink"), ScoringOptions(array="x"))
    assert raised.value.code == "array_not_found"


@given(total=st.integers(1, MAX_SHARDS), shard_images=st.integers(1, 5_000))
def test_shards_are_few_and_of_equal_size(total: int, shard_images: int) -> None:
    shards = cut(total, shard_images)
    sizes = [shard.stop - shard.start for shard in shards]

    assert len(shards) == math.ceil(total / shard_images)
    assert max(sizes) <= min(shard_images, min(sizes) + 1)
    assert [shard.start for shard in shards] == list(accumulate([0, *sizes[:-1]]))
    assert sum(sizes) == total


@given(total=st.integers(1, 200), shard_images=st.integers(1, 70), batch_size=st.integers(1, 50))
def test_every_row_of_an_array_is_read_once(
    tmp_path_factory: pytest.TempPathFactory, total: int, shard_images: int, batch_size: int
) -> None:
    folder = tmp_path_factory.mktemp("array")
    np.save(folder / "images.npy", np.zeros((total, 28, 28), np.uint8))
    plan = planned(folder / "images.npy", shard_images, folder)
    shards = [
        read(folder / "images.npy", plan, index, folder, batch_size)
        for index in range(len(plan.shards))
    ]

    assert [row for records in shards for row in ids(records)] == list(range(total))


def test_array_that_changes_after_the_plan_is_refused(tmp_path: Path, index_folder: Path) -> None:
    source = tmp_path / "images.npy"
    np.save(source, pictures.digits(4))
    plan = planned(source, 10, index_folder)
    np.save(source, pictures.digits(5))

    with pytest.raises(SourceChanged, match=r"images\.npy"):
        read(source, plan, 0, index_folder)


@pytest.mark.parametrize("name", ["images.npy", "images-idx3-ubyte"])
def test_array_that_is_truncated_while_it_is_read_is_refused(
    tmp_path: Path, index_folder: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    source = tmp_path / name
    images = pictures.digits(40)
    source.write_bytes(npy(images) if name.endswith(".npy") else idx.encode(images))
    plan = planned(source, 100, index_folder)

    def truncate_and_open(
        file: Path, ranges: list[tuple[int, int]], folders: None
    ) -> AbstractContextManager[Callable[[int, int], bytes]]:
        os.truncate(source, 4096)
        return open_ranges(file, ranges, folders)

    monkeypatch.setattr(arrays, "open_ranges", truncate_and_open)
    with pytest.raises(SourceChanged):
        read(source, plan, 0, index_folder)


def npy(array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


BAD_ARRAYS = [
    ("text", b"not an array", "is text"),
    ("nothing", b"", "is empty"),
    ("other bytes", b"\1\2\3\xff", "no IDX header"),
    ("a picture", pictures.png(pictures.digits(1)[0]), "one picture (PNG)"),
    ("a video", b"\0\0\0\x18ftypisom\0\0\0\0", "does not read"),
    ("control characters", b"\4M\x18", "no IDX header"),
    ("a 7z archive", b"7z\xbc\xaf\x27\x1c\0\4", "7z"),
    ("a RAR archive", b"Rar!\x1a\x07\1\0", "RAR"),
    ("gzipped text", gzip.compress(b"path\na.png\n", mtime=0), "is compressed"),
    ("xz of text", lzma.compress(b"path\na.png\n"), "is compressed"),
    ("an empty tar", bytes(10_240), "empty tar"),
    ("an empty packed tar", gzip.compress(bytes(10_240), mtime=0), "empty tar"),
    ("HDF5", b"\x89HDF\r\n\x1a\n\0\0", "HDF5"),
    ("a pickle", pickle.dumps([b"x"]), "pickle"),
    ("Git LFS", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
    ("a page", b"\n<!DOCTYPE html>\n<title>404</title>", "web page"),
    (
        "floats",
        npy(np.zeros((2, 28, 28), np.float32)),
        "float32, shape (2, 28, 28)",
    ),
    (
        "other sides",
        npy(np.zeros((2, 32, 32), np.uint8)),
        "uint8, shape (2, 32, 32)",
    ),
    ("labels", idx.encode(np.zeros(9, np.uint8)), "uint8, shape (9,)"),
    ("no rows", npy(np.zeros((0, 28, 28), np.uint8)), "without images"),
    ("objects", npy(np.array([{}])), "object, shape (1,)"),
    (
        "a cut npy",
        npy(pictures.digits(3))[:-1],
        "shape (3, 28, 28) followed by 2,351 bytes",
    ),
    ("a cut header", npy(pictures.digits(3))[:30], "not a folder, archive, table or array"),
    (
        "an npy header of brackets",
        b"\x93NUMPY\x01\x00\x05\x00{'a'\n",
        "not a folder, archive, table or array",
    ),
    (
        "a cut IDX file",
        idx.encode(pictures.digits(3))[:-1],
        "shape (3, 28, 28) followed by 2,351 bytes",
    ),
    (
        "a cut gzip file",
        gzip.compress(idx.encode(pictures.digits(3)), mtime=0)[:-9],
        "Compressed file ended",
    ),
    (
        "decompressing data",
        gzip.compress(b"x", mtime=0)[:10] + b"\xff" * 40,
        "decompressing data",
    ),
]


@pytest.mark.parametrize(
    ("data", "fact"), [pytest.param(*bad[1:], id=bad[0]) for bad in BAD_ARRAYS]
)
def test_file_that_is_not_an_array_of_images_is_refused(
    tmp_path: Path, index_folder: Path, data: bytes, fact: str
) -> None:
    source = tmp_path / "file"
    source.write_bytes(data)
    for refuse in (
        lambda: check_source(source, ImageSpec("ink")),
        lambda: planned(source, 10, index_folder),
    ):
        with pytest.raises(InvalidSource) as raised:
            refuse()
        assert str(source) in raised.value.message
        assert fact in raised.value.message


@given(
    st.sampled_from([b"", b"\x1f\x8b\x08", b"\xef\xbb\xbf", b"\xff\xfe", b"P5 ", b"II*\0"]),
    st.binary(max_size=600),
    st.booleans(),
)
def test_beginning_of_any_file_is_described_or_passes(
    head: bytes, rest: bytes, is_manifest: bool
) -> None:
    with suppress(InvalidSource):
        check_kind("file", head + rest, is_manifest=is_manifest)


# Folders


def test_folder_is_read_with_its_subfolders_in_order(folder: Path, index_folder: Path) -> None:
    image = pictures.png(pictures.digits(1)[0])
    for path in (
        "b.png",
        "a.PNG",
        "z/1.png",
        "c/d/e.webp",
        "c/2.jpg",
        "c/10.jpg",
        ".hidden.png",
        ".git/x.png",
        "a.txt",
        "none",
    ):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(image)
    plan = planned(folder, 3, index_folder)

    in_order = ["a.PNG", "a.txt", "b.png", "none", "c/10.jpg", "c/2.jpg", "c/d/e.webp", "z/1.png"]
    assert plan.total == len(in_order)
    assert [ids(read(folder, plan, shard, index_folder)) for shard in (0, 1, 2)] == [
        in_order[:2],
        in_order[2:5],
        in_order[5:],
    ]
    assert plan.skipped == {"hidden": {".png": 2}}


def test_shards_know_the_offset_of_their_entries(folder: Path, index_folder: Path) -> None:
    images = pictures.digits(11)
    for place, image in enumerate(images):
        (folder / f"{'long' * (place % 3)}-é-{place:02}.png").write_bytes(pictures.png(image))
    plan = planned(folder, 4, index_folder)
    seen = [
        records
        for shard in (2, 0, 1)
        for records in read(folder, plan, shard, index_folder, batch_size=3)
    ]

    assert plan.shards[0].offset == 0
    assert sorted(ids(seen)) == sorted(path.name for path in folder.iterdir())
    for records in seen:
        for name, image in zip(records.ids, records.images, strict=True):
            np.testing.assert_array_equal(image, images[int(str(name)[-6:-4])])


def test_revision_of_a_folder_depends_on_its_paths(folder: Path, index_folder: Path) -> None:
    image = pictures.png(pictures.digits(1)[0])
    (folder / "a.png").write_bytes(image)
    first = planned(folder, 10, index_folder).revision
    assert planned(folder, 10, index_folder).revision == first

    (folder / "b.png").write_bytes(image)
    assert planned(folder, 10, index_folder).revision != first


def test_each_unreadable_file_is_one_error(folder: Path, index_folder: Path) -> None:
    (folder / "1-good.png").write_bytes(pictures.png(pictures.digits(1)[0]))
    (folder / "2-text.png").write_bytes(b"text")
    (folder / "4-huge.png").write_bytes(pictures.huge_png(1000))
    (folder / "5-good.png").write_bytes(pictures.png(pictures.digits(2)[1]))
    (folder / "6-late.png").write_bytes(pictures.png(pictures.digits(2)[1]))
    plan = planned(folder, 10, index_folder)
    (folder / "6-late.png").unlink()
    records = read(folder, plan, 0, index_folder)

    assert ids(records) == ["1-good.png", "5-good.png"]
    found = errors(records)
    assert {name: error.code for name, error in found.items()} == {
        "2-text.png": "invalid_image",
        "4-huge.png": "image_too_large",
        "6-late.png": "invalid_image",
    }
    assert "No such file or directory" in found["6-late.png"].message


def test_batch_of_broken_files_has_no_images(folder: Path, index_folder: Path) -> None:
    (folder / "a.png").touch()
    (records,) = read(folder, planned(folder, 10, index_folder), 0, index_folder)

    assert records.ids == []
    assert records.images.shape == (0, 28, 28)


def test_error_of_a_picture_does_not_keep_others_in_memory() -> None:
    broken, entries = Entry("broken", []), [Entry(str(number), []) for number in range(2000)]
    picture = pictures.png(np.zeros((28, 28), np.uint8))
    decoder = Decoder(ImageSpec("ink"), MAX_PIXELS)

    def kept() -> int:
        tracemalloc.start()
        try:
            decoder.records([*entries, broken], lambda entry: b"" if entry is broken else picture)
            return tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()

    with uncollected():
        assert kept() < len(entries) * 28 * 28


def test_errors_of_pictures_do_not_keep_their_files_in_memory() -> None:
    entries = [Entry(str(number), []) for number in range(50)]
    tracemalloc.start()
    try:
        records = Decoder(ImageSpec("ink"), MAX_PIXELS).records(entries, lambda _: bytes(2**20))
        assert len(records.errors) == len(entries)
        assert tracemalloc.get_traced_memory()[0] < 2**22
    finally:
        tracemalloc.stop()


def test_too_large_file_is_an_error(folder: Path, index_folder: Path) -> None:
    with (folder / "2-large.png").open("wb") as file:
        file.truncate(MAX_FILE_BYTES + 1)
    (folder / "3-good.png").write_bytes(pictures.png(np.zeros((28, 28), np.uint8)))

    records = read(folder, planned(folder, 10, index_folder), 0, index_folder)

    assert ids(records) == ["3-good.png"]
    found = errors(records)
    assert "268,435,457" in found["2-large.png"].message


@pytest.mark.skipif(
    os.name != "posix" or os.uname().sysname == "Darwin", reason="file names are Unicode here"
)
def test_file_name_that_is_not_utf_8_is_read_and_escaped(folder: Path, index_folder: Path) -> None:
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes(pictures.png(pictures.digits(1)[0]))
    (folder / os.fsdecode(b"\xff.png")).write_bytes(b"broken")
    records = read(folder, planned(folder, 10, index_folder), 0, index_folder)

    assert ids(records) == ["caf\\udce9.png"]
    assert list(errors(records)) == ["\\udcff.png"]
    for name in (*ids(records), *errors(records)):
        str(name).encode("utf-8")


@pytest.mark.parametrize("files", [[], ["notes.txt"], [".hidden.txt", "notes.txt"]])
def test_folder_without_images_is_refused_with_what_was_skipped(
    folder: Path, index_folder: Path, files: list[str]
) -> None:
    for name in files:
        (folder / name).touch()
    for refuse in (
        lambda: check_source(folder, ImageSpec("ink")),
        lambda: planned(folder, 10, index_folder),
    ):
        with pytest.raises(InvalidSource) as raised:
            refuse()
        assert raised.value.message.count(".txt 1") == len(files)


@pytest.mark.parametrize("name", ["a.zip", "list.csv", "x.npy"])
def test_folder_of_sets_says_how_to_score_them(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"of many pictures")
    with pytest.raises(InvalidSource, match="by their own paths"):
        check_source(tmp_path, ImageSpec("ink"))


def test_missing_path_is_refused(tmp_path: Path) -> None:
    for refuse in (
        lambda path: check_source(path, ImageSpec("ink")),
        lambda path: open_source(path, ImageSpec("ink"), MAX_PIXELS),
    ):
        with pytest.raises(InvalidSource, match=rf"{tmp_path}/nowhere"):
            refuse(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("total", "shard_images", "shards"), [(0, 10, 0), (41, 10, 5), (10**9, 1, MAX_SHARDS)]
)
def test_number_of_shards_is_bounded(total: int, shard_images: int, shards: int) -> None:
    made = cut(total, shard_images)

    assert len(made) == shards
    assert sum(shard.stop - shard.start for shard in made) == total


def test_more_records_than_a_job_can_have_are_refused() -> None:
    with pytest.raises(InvalidSource) as raised:
        cut(2**40, 4096)
    assert raised.value.code == "source_too_large"
