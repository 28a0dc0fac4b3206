"""The IDX format of MNIST's files: a big-endian header of sizes, then raw values.

Only `uint8` files, plain or gzipped. Source: the section "The IDX file format" of LeCun, Cortes and
Burges, "The MNIST database of handwritten digits".
"""

import gzip
import math
import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np

from loupe.files import max_unpacked_bytes, open_regular
from loupe.images.spec import UInt8Array

UINT8 = 0x08  # IDX's code for unsigned bytes
GZIP_MAGIC = b"\x1f\x8b"
MAX_DIMENSIONS = 8
MAX_HEADER_BYTES = 4 + 4 * MAX_DIMENSIONS
CHUNK_BYTES = 2**20  # unpacked at a time
MAX_UNPACKED_BYTES = 2**30  # of a gzipped file, which is unpacked into memory


def encode(values: UInt8Array) -> bytes:
    """Encode a uint8 array of any shape as an IDX file."""
    head = struct.pack(f">BBBB{values.ndim}I", 0, 0, UINT8, values.ndim, *values.shape)
    return head + values.tobytes()


def decode(data: bytes) -> UInt8Array:
    """Decode an IDX file; raise `ValueError` if it is invalid."""
    shape, start = header(data)
    _check_length(shape, len(data) - start)
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read(path: Path) -> UInt8Array:
    """Map an IDX file from disk, or unpack a gzipped one into memory.

    Raises:
        ValueError, OSError, EOFError: As `read_shape`, or if the file is damaged.
    """
    with _opened(path) as file:
        shape, start, packed = _read_head(file)
        if packed:
            return _unpack(file, shape, start)
        return np.memmap(file, np.uint8, mode="r", offset=start, shape=shape)


def read_shape(path: Path) -> tuple[int, ...]:
    """Return the shape of the array in a file that may be gzipped, without reading the values.

    Raises:
        ValueError, OSError, EOFError: If the file is not IDX or not a regular file, cannot hold
            the values that its header claims, or unpacks to more than `MAX_UNPACKED_BYTES`.
    """
    with _opened(path) as file:
        return _read_head(file)[0]


def header(data: bytes) -> tuple[tuple[int, ...], int]:
    """Return the shape and the offset of the values, or raise `ValueError`."""
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError("no IDX header")
    if data[2] != UINT8:
        raise ValueError(f"IDX values of type 0x{data[2]:02x}, not unsigned bytes (0x08)")
    dimensions = data[3]
    start = 4 + 4 * dimensions
    if not 1 <= dimensions <= MAX_DIMENSIONS or len(data) < start:
        raise ValueError(f"an IDX header of {dimensions} dimensions")
    return struct.unpack(f">{dimensions}I", data[4:start]), start


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file; damaged gzip data raises `ValueError`."""
    try:
        with open_regular(path) as file:
            yield file
    except zlib.error as error:
        raise ValueError(f"a damaged gzip file of IDX values ({error})") from error


def _read_head(file: BinaryIO) -> tuple[tuple[int, ...], int, bool]:
    """Return the shape, the offset of the values, and whether the file is gzipped.

    Raises:
        ValueError: If the file cannot hold as many values as its header claims.
    """
    size = os.fstat(file.fileno()).st_size
    head = file.read(MAX_HEADER_BYTES)
    packed = head.startswith(GZIP_MAGIC)
    file.seek(0)
    if packed:
        with gzip.open(file) as unpacked:
            head = unpacked.read(MAX_HEADER_BYTES)
        file.seek(0)
    shape, start = header(head)
    promised = math.prod(shape)
    if not packed:
        _check_length(shape, size - start)
    elif promised > max_unpacked_bytes(size):
        raise ValueError(f"an IDX header of shape {shape} in a gzip file of {size:,} bytes")
    elif promised > MAX_UNPACKED_BYTES:
        raise ValueError(
            f"{promised:,} bytes of IDX values in a gzip file; unpack it first if it has more than "
            f"{MAX_UNPACKED_BYTES:,}"
        )
    return shape, start, packed


def _unpack(file: BinaryIO, shape: tuple[int, ...], start: int) -> UInt8Array:
    """Unpack a gzipped file, but not beyond the size in its header; it may hold terabytes."""
    values = np.empty(math.prod(shape), np.uint8)
    rest = values.data
    with gzip.open(file) as unpacked:
        unpacked.read(start)
        while count := unpacked.readinto(rest[:CHUNK_BYTES]):
            rest = rest[count:]
        longer = bool(unpacked.read(1))  # reading to the end also verifies gzip's checksum
    _check_length(shape, values.size - len(rest) + longer)
    return values.reshape(shape)


def _check_length(shape: tuple[int, ...], length: int) -> None:
    promised = math.prod(shape)
    if length != promised:
        received = f"{length:,}" if length < promised else f"more than {promised:,}"
        raise ValueError(f"an IDX header of shape {shape} followed by {received} bytes")
