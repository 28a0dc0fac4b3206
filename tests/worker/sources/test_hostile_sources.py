"""Sources whose claims are too large for their bytes: each is refused, and costs little memory."""

import gzip
import io
import lzma
import os
import resource
import socket
import struct
import sys
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loupe.errors import InvalidSource
from loupe.images.spec import ImageSpec
from loupe.jobs import ScoringOptions
from tests.support import pictures
from tests.support.files import bombs
from tests.worker.conftest import MAX_PIXELS, scored
from worker.sources.opening import check_source, open_source

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="memory is read from /proc"
)
GIB = 2**30
PICTURE = pictures.png(pictures.digits(1)[0])
MAX_ADDED_BYTES = 256 * 2**20  # of memory, while one source is planned or read


@contextmanager
def little_memory() -> Iterator[None]:
    """Check that the block adds little to the memory of this process."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (16 * GIB, before[1]))
    start = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    try:
        yield
        assert memory("VmHWM") - start < MAX_ADDED_BYTES
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def memory(field: str) -> int:
    """Return a figure of this process's memory in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024


def npy_header(images: int, *, fortran: bool = False) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": fortran, "shape": (images, 28, 28)}
    )
    return file.getvalue()


def packed_zeros(head: bytes, total: int, wbits: int) -> bytes:
    """Return a compressed stream of `head` and zeros, made without unpacking it in memory."""
    packer = zlib.compressobj(1, zlib.DEFLATED, wbits)
    parts = [packer.compress(head)]
    parts += [packer.compress(bytes(2**24)) for _ in range(total // 2**24)]
    return b"".join([*parts, packer.flush()])


def npz_of_zeros(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("a.npy", "w") as file,
    ):
        file.write(npy_header(2 * 2**24 * 28 // 784))
        for _ in range(2**4 * 4):
            file.write(bytes(2**20 * 14))


def npz_that_claims_a_terabyte(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", npy_header(2**40) + bytes(784))


def npz_of_long_labels(path: Path) -> None:
    """Write labels whose header claims one for each image, before many more bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("images.npy", npy_header(1) + bytes(784))
        header = io.BytesIO()
        np.save(header, np.zeros(1, np.int64))
        with archive.open("labels.npy", "w") as file:
            file.write(header.getvalue())
            for _ in range(64):
                file.write(bytes(2**24))


def npz_of_labels_of_a_gigabyte(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", npy_header(1) + bytes(784))
        labels = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            labels, {"descr": f"<U{2**28}", "fortran_order": False, "shape": (1,)}
        )
        archive.writestr("labels.npy", labels.getvalue())


def npz_of_many_arrays(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(20_000):
            archive.writestr(f"{number}.npy", b"")


def idx_of_zeros(path: Path) -> None:
    images = GIB // 784
    path.write_bytes(
        packed_zeros(struct.pack(">BBBB3I", 0, 0, 8, 3, images, 28, 28), GIB, wbits=31)
    )


def idx_that_claims_terabytes(path: Path) -> None:
    path.write_bytes(gzip.compress(struct.pack(">BBBB3I", 0, 0, 8, 3, 2**32 - 1, 28, 28)))


def npy_that_claims_a_terabyte(path: Path) -> None:
    path.write_bytes(npy_header(2**40) + bytes(784))


def fortran_npy_that_claims_a_terabyte(path: Path) -> None:
    path.write_bytes(npy_header(2**40, fortran=True) + bytes(784))


def npy_of_a_long_header(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**31))
        file.truncate(2**31 + 100)


def zip_of_one_shared_member(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.png", PICTURE)
    data = path.read_bytes()
    start = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entries = b"".join(
        data[start:end].replace(b"a.png", f"{number:05}.png"[-5:].encode()) for number in range(600)
    )
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 600, 600, len(entries), start, 0)
    path.write_bytes(data[:start] + entries + tail)


def zip_that_claims_a_member_of_exabytes(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive, archive.open("a.png", "w", force_zip64=True) as a:
        a.write(PICTURE)
    data = bytearray(path.read_bytes())
    start = data.index(b"PK\x01\x02")
    extra = struct.pack("<2H3Q", 1, 24, 2**62, 2**62, 2**63)
    entry = data[start : start + 46] + b"a.png" + extra
    entry[20:28] = b"\xff" * 8
    entry[28:34] = struct.pack("<3H", 5, len(extra), 0)
    entry[42:46] = b"\xff" * 4
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(entry), start, 0)
    path.write_bytes(bytes(data[:start]) + bytes(entry) + tail)


def tar_of_a_long_sparse_map(path: Path) -> None:
    member = tarfile.TarInfo("a.png")
    member.type = tarfile.GNUTYPE_SPARSE
    header = bytearray(member.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1  # more of the map follows
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header):06o}\0 ".encode()
    block = bytearray(b"00000000001\0" * 42 + bytes(8))
    block[504] = 1
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(bytes(header))]
    parts += [packer.compress(bytes(block) * 2**12) for _ in range(2**6)]
    path.write_bytes(b"".join([*parts, packer.flush()]))


def tar_of_nested_attributes(path: Path) -> None:
    member = tarfile.TarInfo("a.png")
    attributes = b"13 a=bcdefgh\n"
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(attributes)
    block = header.tobuf(tarfile.GNU_FORMAT) + attributes.ljust(512, b"\0")
    path.write_bytes(block * 5000 + member.tobuf() + bytes(1024))


def tar_of_endless_size(path: Path) -> None:
    member = tarfile.TarInfo("x.bin")
    member.size = 2**60
    path.write_bytes(gzip.compress(member.tobuf(tarfile.GNU_FORMAT) + bytes(2048)))


def tar_that_goes_back(path: Path) -> None:
    first, second = tarfile.TarInfo("a.png"), tarfile.TarInfo("b.png")
    attributes = b"14 size=-1024\n"
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(attributes)
    path.write_bytes(
        first.tobuf()
        + header.tobuf(tarfile.GNU_FORMAT)
        + attributes.ljust(512, b"\0")
        + second.tobuf()
        + bytes(1024)
    )


def tar_of_many_attributes_for_all(path: Path) -> None:
    attributes = b"".join(b"12 %06d=xx\n"[:0] + f"12 k{n:05}=x\n".encode() for n in range(5000))
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XGLTYPE, len(attributes)
    body = attributes + bytes(-len(attributes) % 512)
    member = tarfile.TarInfo("a.png").tobuf()
    path.write_bytes(header.tobuf(tarfile.GNU_FORMAT) + body + member * 100 + bytes(1024))


def tar_of_zeros(path: Path, compression: str) -> None:
    """Write a small archive of a gigabyte of pictures, each one a compressed stream."""

    def packed(data: bytes) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.CompressedOutputStream(sink, compression) as stream:
            stream.write(data)
        return bytes(sink.getvalue())

    pixels = packed(bytes(2**24))
    with path.open("wb") as file:
        for number in range(2**6):
            member = tarfile.TarInfo(f"{number}.png")
            member.size = 2**24
            file.write(packed(member.tobuf()) + pixels)


def zstandard_tar_of_zeros(path: Path) -> None:
    tar_of_zeros(path, "zstd")


def bzip2_tar_of_zeros(path: Path) -> None:
    tar_of_zeros(path, "bz2")


def xz_tar_of_zeros(path: Path) -> None:
    member = tarfile.TarInfo("a.png")
    member.size = 2**28
    packer = lzma.LZMACompressor(preset=0)
    parts = [packer.compress(member.tobuf())]
    parts += [packer.compress(bytes(2**24)) for _ in range(2**4)]
    path.write_bytes(b"".join([*parts, packer.flush()]))


def xz_tar_that_claims_much_memory(path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**29}]
    path.write_bytes(lzma.compress(tarfile.TarInfo("a.png").tobuf(), filters=filters))


def tar_of_a_sample_of_many_pictures(path: Path) -> None:
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("a.labels"))
        for number in range(1000):
            archive.addfile(tarfile.TarInfo(f"a.{number}.png"))


def table_with_claimed_rows(path: Path, rows: int) -> None:
    """Write a table of nulls whose metadata, not its pages, claim a number of rows."""
    pq.write_table(pa.table({"image": pa.nulls(123_456, pa.binary())}), path)
    bombs.claim(path, 123_456, rows)


def table_that_claims_2_to_the_40_rows(path: Path) -> None:
    table_with_claimed_rows(path, 2**40)


def table_that_claims_more_rows_than_its_pages(path: Path) -> None:
    table_with_claimed_rows(path, 9_000)


def table_of_a_billion_nulls(path: Path) -> None:
    schema = pa.schema([("image", pa.binary())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for _ in range(200):
            writer.write_table(pa.table({"image": pa.nulls(5_000_000, pa.binary())}), 5_000_000)


def table_of_a_large_page(path: Path) -> None:
    values = pa.array([bytes(2**20)] * 200, pa.binary())
    pq.write_table(
        pa.table({"image": values}),
        path,
        compression="zstd",
        use_dictionary=False,
        data_page_size=2**30,
        write_statistics=False,
    )


def table_of_a_dense_page(path: Path) -> None:
    """Write a page that is as large as its file, 220 MB, and takes as much again when unpacked."""
    values = np.random.default_rng(0).integers(0, 256, (55, 4 * 2**20), np.uint8)
    pq.write_table(
        pa.table({"image": [value.tobytes() for value in values]}),
        path,
        compression="zstd",
        use_dictionary=False,
        data_page_size=2**30,
        write_statistics=False,
    )


def table_of_a_large_value(path: Path, rows: int = 4096) -> None:
    values = pa.DictionaryArray.from_arrays(np.zeros(rows, np.int32), [bytes(15 * 2**20)])
    pq.write_table(
        pa.table({"image": values}),
        path,
        compression="zstd",
        store_schema=False,
        dictionary_pagesize_limit=GIB,
    )


def table_of_long_ids(path: Path) -> None:
    ids = pa.DictionaryArray.from_arrays(np.zeros(1000, np.int32), [str("x" * 2**20)])
    pq.write_table(
        pa.table({"image": [PICTURE] * 1000, "id": ids}),
        path,
        store_schema=False,
        compression="zstd",
    )


def manifest_of_one_line(path: Path) -> None:
    with path.with_suffix(".csv").open("wb") as file:
        file.write(b"path\n")
        file.truncate(GIB)
    path.with_suffix(".csv").rename(path)


def manifest_of_a_million_columns(path: Path) -> None:
    path.write_text("path" + ",x" * 1_000_000 + "\n")


def manifest_of_a_record_of_many_lines(path: Path) -> None:
    path.write_text("path\n" + '"a\n",' * 1_000_000 + "\n")


def manifest_of_one_long_json_line(path: Path) -> None:
    with path.open("wb") as file:
        file.write(b'{"path": "a.png"}\n{"path": "')
        file.truncate(GIB)


def manifest_of_nested_json(path: Path) -> None:
    path.write_text('{"path": "a.png"}\n' + "[" * 100_000 + "\n")


def manifest_of_a_long_number(path: Path) -> None:
    path.write_text('{"path": "a.png"}\n{"path": ' + "9" * 100_000 + "}\n")


def table_of_long_names(path: Path) -> None:
    pq.write_table(pa.table({letter * 10**6: [1] for letter in "abc"}), path)


def manifest_of_a_long_name(path: Path) -> None:
    path.write_text("a" * 100_000 + "\n")


def npy_of_a_long_type(path: Path) -> None:
    np.save(path, np.zeros(1, [("a" * 5000, np.uint8)]))


REFUSED: list[tuple[str, Callable[[Path], None]]] = [
    ("a.npz", npz_of_zeros),
    ("a.npz", npz_that_claims_a_terabyte),
    ("a.npz", npz_of_long_labels),
    ("a.npz", npz_of_labels_of_a_gigabyte),
    ("a.npz", npz_of_many_arrays),
    ("a.gz", idx_of_zeros),
    ("a.gz", idx_that_claims_terabytes),
    ("a.npy", npy_that_claims_a_terabyte),
    ("a.npy", fortran_npy_that_claims_a_terabyte),
    ("a.npy", npy_of_a_long_header),
    ("a.zip", zip_of_one_shared_member),
    ("a.zip", zip_that_claims_a_member_of_exabytes),
    ("a.tar.gz", tar_of_a_long_sparse_map),
    ("a.tar.gz", tar_of_endless_size),
    ("a.tar.zst", zstandard_tar_of_zeros),
    ("a.tar.bz2", bzip2_tar_of_zeros),
    ("a.tar.xz", xz_tar_of_zeros),
    ("a.tar.xz", xz_tar_that_claims_much_memory),
    ("a.tar", tar_of_a_sample_of_many_pictures),
    ("a.tar", tar_of_nested_attributes),
    ("a.tar", tar_that_goes_back),
    ("a.tar", tar_of_many_attributes_for_all),
    ("a.parquet", table_that_claims_2_to_the_40_rows),
    ("a.parquet", table_that_claims_more_rows_than_its_pages),
    ("a.parquet", table_of_a_billion_nulls),
    ("a.parquet", table_of_a_large_page),
    ("a.parquet", table_of_a_dense_page),
    ("a.parquet", table_of_a_large_value),
    ("a.parquet", table_of_long_ids),
    ("a.parquet", table_of_long_names),
    ("a.npy", npy_of_a_long_type),
    ("a.csv", manifest_of_a_long_name),
    ("a.csv", manifest_of_one_line),
    ("a.csv", manifest_of_a_million_columns),
    ("a.csv", manifest_of_a_record_of_many_lines),
    ("a.jsonl", manifest_of_one_long_json_line),
    ("a.jsonl", manifest_of_nested_json),
    ("a.jsonl", manifest_of_a_long_number),
]


@pytest.mark.parametrize(
    ("name", "write"), [pytest.param(*case, id=case[1].__name__) for case in REFUSED]
)
def test_claim_that_cannot_be_true_is_an_error_of_the_source(
    tmp_path: Path, index_folder: Path, name: str, write: Callable[[Path], None]
) -> None:
    write(tmp_path / name)
    options = ScoringOptions(
        labels="column:labels" if "labels" in write.__name__ or "sample" in write.__name__ else None
    )
    with little_memory(), pytest.raises(InvalidSource) as raised:
        scored(tmp_path / name, index_folder, 1000, 128, options)
    assert raised.value.code in {"invalid_source", "source_too_large"}
    assert len(raised.value.message) < 2000
    assert sum(file.stat().st_size for file in index_folder.iterdir()) < 2**28


def test_repeated_large_value_of_a_table_is_read_a_few_times_at_a_time(
    tmp_path: Path, index_folder: Path
) -> None:
    table_of_a_large_value(tmp_path / "a.parquet", rows=60)
    with little_memory():
        seen = scored(tmp_path / "a.parquet", index_folder, shard_images=60, batch_size=128)

    assert sum(len(batch.errors) for batch in seen) == 60


def test_large_values_of_a_table_are_not_copied(tmp_path: Path, index_folder: Path) -> None:
    size = 15 * 2**20
    table = pa.table({"image": pa.array([bytes(size)] * 4)})
    pq.write_table(table, tmp_path / "a.parquet", compression="zstd", row_group_size=1)
    tracemalloc.start()
    try:
        seen = scored(tmp_path / "a.parquet", index_folder, shard_images=4, batch_size=128)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert sum(len(batch.errors) for batch in seen) == 4
    assert most < size


def test_names_of_a_member_and_of_a_record_are_short(tmp_path: Path, index_folder: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.GNU_FORMAT) as archive:
        for name in ("a" * 100_000 + ".png", "b.png"):
            member = tarfile.TarInfo(name)
            member.size = len(PICTURE)
            archive.addfile(member, io.BytesIO(PICTURE))
    seen = scored(tmp_path / "a.tar", index_folder)

    assert [name for batch in seen for name in batch.ids] == ["b.png"]
    ((name, error),) = [error for batch in seen for error in batch.errors]
    assert len(name) <= 100
    assert error.code == "invalid_record"


def test_many_repeated_names_are_known(tmp_path: Path, index_folder: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for number in range(1000):
            member = tarfile.TarInfo(f"{number % 500}.png")
            member.size = len(PICTURE)
            archive.addfile(member, io.BytesIO(PICTURE))
    seen = scored(tmp_path / "a.tar", index_folder, shard_images=1000)

    assert [name for batch in seen for name in batch.ids] == [f"{n}.png" for n in range(500)]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as opened:
        os.chdir(path.parent)  # addresses of sockets are short
        opened.bind(path.name)


def device(path: Path) -> None:
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("make", [pipe, listening_socket, device])
@pytest.mark.parametrize("name", ["a", "a.csv", "a.jsonl", "a.npz", "a.tar", "a.parquet"])
def test_source_that_is_not_a_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None], name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / name)
    for refuse in (
        lambda path: check_source(path, ImageSpec("ink")),
        lambda path: open_source(path, ImageSpec("ink"), MAX_PIXELS),
    ):
        with pytest.raises(InvalidSource):
            refuse(tmp_path / name)


@pytest.mark.parametrize("make", [pipe, listening_socket, device])
def test_archive_and_manifest_entry_that_are_not_files_are_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    index_folder: Path,
    make: Callable[[Path], None],
) -> None:
    monkeypatch.chdir(tmp_path)
    make(tmp_path / "a-0.tar")
    with pytest.raises(InvalidSource):
        check_source(tmp_path / "a-{0..0}.tar", ImageSpec("ink"))
    (tmp_path / "b.png").write_bytes(PICTURE)
    (tmp_path / "list.csv").write_text("path\na-0.tar\nb.png\n")
    (seen,) = scored(tmp_path / "list.csv", index_folder)
    assert seen.ids == ["b.png"]
    assert [name for name, _ in seen.errors] == ["a-0.tar"]
