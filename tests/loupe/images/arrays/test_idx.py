"""IDX files: decoding reverses encoding, and invalid files are refused."""

import gzip
import os
import socket
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from loupe.images.arrays import idx
from loupe.images.spec import UInt8Array

ANY_ARRAY = arrays(np.uint8, array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=6))


@given(values=ANY_ARRAY)
def test_decode_reverses_encode(values: UInt8Array) -> None:
    decoded = idx.decode(idx.encode(values))

    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, values, strict=True)


@given(values=ANY_ARRAY)
def test_arrays_in_another_order_of_memory_are_encoded_alike(values: UInt8Array) -> None:
    assert idx.encode(np.asfortranarray(values)) == idx.encode(values)


def test_format_is_that_of_mnist() -> None:
    images = np.arange(12, dtype=np.uint8).reshape(3, 2, 2)

    assert idx.encode(images) == bytes.fromhex("00000803 00000003 00000002 00000002") + bytes(
        range(12)
    )


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_files_are_read_whether_gzipped_or_not(tmp_path: Path, packed: bool) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    data = idx.encode(images)
    path = tmp_path / "images"
    path.write_bytes(gzip.compress(data) if packed else data)
    array = idx.read(path)

    assert idx.read_shape(path) == array.shape
    np.testing.assert_array_equal(array, images)
    assert isinstance(array, np.memmap) is not packed


BAD_FILES = [
    ("nothing", b"", "no IDX header"),
    ("text", b"label,pixel1", "no IDX header"),
    (
        "floats",
        struct.pack(">BBBBI", 0, 0, 0x0D, 1, 0),
        "IDX values of type 0x0d, not unsigned bytes (0x08)",
    ),
    ("no dimension", bytes([0, 0, 8, 0]), "an IDX header of 0 dimensions"),
    ("too many dimensions", bytes([0, 0, 8, 200]) + bytes(800), "an IDX header of 200 dimensions"),
    ("a header cut short", bytes([0, 0, 8, 3, 0, 0, 0, 1]), "an IDX header of 3 dimensions"),
    (
        "too few values",
        struct.pack(">BBBBI", 0, 0, 8, 1, 5) + b"abc",
        "header of shape (5,) followed by 3 bytes",
    ),
    (
        "too many values",
        struct.pack(">BBBBI", 0, 0, 8, 1, 2) + b"abc",
        "header of shape (2,) followed by more than 2 bytes",
    ),
    (
        "terabytes",
        struct.pack(">BBBBIII", 0, 0, 8, 3, 2**32 - 1, 2**32 - 1, 28) + b"abc",
        "header of shape (4294967295, 4294967295, 28)",
    ),
]


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
@pytest.mark.parametrize(("data", "text"), [pytest.param(*bad[1:], id=bad[0]) for bad in BAD_FILES])
def test_other_files_are_refused_with_their_reason(
    tmp_path: Path, data: bytes, text: str, packed: bool
) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(data) if packed else data)
    with pytest.raises(ValueError, match="IDX") as raised:
        idx.read(path)

    assert text in str(raised.value)


@given(data=st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: b"\0\0\x08" + data))
def test_any_bytes_are_an_array_or_refused(data: bytes) -> None:
    try:
        decoded = idx.decode(data)
    except ValueError:
        return
    assert idx.encode(decoded) == data


@pytest.mark.parametrize("change", range(0, 60, 3))
def test_damaged_gzip_file_is_refused(tmp_path: Path, change: int) -> None:
    data = bytearray(gzip.compress(idx.encode(np.arange(200, dtype=np.uint8))))
    data[10 + change] ^= 0x41
    path = tmp_path / "file.gz"
    path.write_bytes(data)

    with pytest.raises((ValueError, OSError, EOFError)):
        idx.read(path)


def test_gzip_file_is_unpacked_only_up_to_the_size_in_its_header(tmp_path: Path) -> None:
    header = struct.pack(">BBBBI", 0, 0, 8, 1, 1000)
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(header)
        for _ in range(64):
            file.write(bytes(2**20))
    tracemalloc.start()
    with pytest.raises(
        ValueError, match=r"header of shape \(1000,\) followed by more than 1,000 bytes"
    ):
        idx.read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 4 * 2**20


@pytest.mark.parametrize("read", [idx.read, idx.read_shape])
@pytest.mark.parametrize("packed", [False, True], ids=["plain", "gzipped"])
def test_a_header_that_claims_more_than_the_file_can_hold_allocates_nothing(
    tmp_path: Path, packed: bool, read: Callable[[Path], object]
) -> None:
    data = struct.pack(">BBBBIII", 0, 0, 8, 3, 2**32 - 1, 2**8, 28) + bytes(1000)
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(data) if packed else data)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"header of shape \(4294967295, 256, 28\)"):
        read(path)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 2**20


@pytest.mark.parametrize("read", [idx.read, idx.read_shape])
def test_gzip_file_that_unpacks_to_more_than_the_limit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, read: Callable[[Path], object]
) -> None:
    path = tmp_path / "file"
    path.write_bytes(gzip.compress(idx.encode(np.zeros(1001, np.uint8))))
    monkeypatch.setattr(idx, "MAX_UNPACKED_BYTES", 1000)

    with pytest.raises(ValueError, match="1,001 bytes of IDX values in a gzip file"):
        read(path)


@pytest.mark.parametrize("read", [idx.read, idx.read_shape])
def test_what_is_no_regular_file_is_refused(tmp_path: Path, read: Callable[[Path], object]) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path in (tmp_path / "pipe", tmp_path / "socket", tmp_path, Path("/dev/zero")):
            with pytest.raises(OSError, match=f"Not a regular file: '{path}'"):
                read(path)


def test_gzip_file_whose_checksum_is_wrong_is_refused(tmp_path: Path) -> None:
    data = bytearray(gzip.compress(idx.encode(np.arange(200, dtype=np.uint8))))
    data[-8] ^= 1
    (tmp_path / "file.gz").write_bytes(data)
    with pytest.raises(OSError, match="CRC check failed"):
        idx.read(tmp_path / "file.gz")


@pytest.mark.parametrize(("size", "is_read"), [(2**26, True), (2**26 + 1, False)])
def test_gzip_file_that_is_far_smaller_than_its_values_is_refused(
    tmp_path: Path, size: int, is_read: bool
) -> None:
    path = tmp_path / "file.gz"
    path.write_bytes(gzip.compress(idx.encode(np.zeros(size, np.uint8)), compresslevel=9))
    if is_read:
        assert idx.read_shape(path) == (size,)
    else:
        with pytest.raises(ValueError, match="in a gzip file of"):
            idx.read(path)
