"""The IDX format of MNIST's files: a big-endian header of sizes, then raw values.

Only `uint8` files, plain or gzipped. Source: the section "The IDX file format" of LeCun, Cortes and
Burges, "The MNIST database of handwritten digits".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from loupe.images.spec import UInt8Array

UINT8 = 0x08  # IDX's code for unsigned bytes
GZIP_MAGIC = b"\x1f\x8b"
MAX_DIMENSIONS = 8
MAX_HEADER_BYTES = 4 + 4 * MAX_DIMENSIONS
CHUNK_BYTES = 2**20  # unpacked at a time


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
        ValueError, OSError, EOFError: If the file is not IDX, or is damaged.
    """
    with path.open("rb") as file:
        head = file.read(MAX_HEADER_BYTES)
    if head.startswith(GZIP_MAGIC):
        try:
            return _unpack(path)
        except zlib.error as error:
            raise ValueError(f"a damaged gzip file of IDX values ({error})") from error
    shape, start = header(head)
    _check_length(shape, path.stat().st_size - start)
    return np.memmap(path, np.uint8, mode="r", offset=start, shape=shape)


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


def _unpack(path: Path) -> UInt8Array:
    """Unpack a gzipped file, but not beyond the size in its header; it may hold terabytes."""
    with gzip.open(path) as file:
        head = file.read(MAX_HEADER_BYTES)
        shape, start = header(head)
        promised = math.prod(shape)
        values = bytearray(head[start:])
        while len(values) < promised and (
            chunk := file.read(min(CHUNK_BYTES, promised - len(values)))
        ):
            values += chunk
        longer = bool(file.read(1))  # reading to the end also verifies gzip's checksum
    _check_length(shape, len(values) + longer)
    return np.frombuffer(values, np.uint8).reshape(shape)


def _check_length(shape: tuple[int, ...], length: int) -> None:
    promised = math.prod(shape)
    if length != promised:
        received = f"{length:,}" if length < promised else f"more than {promised:,}"
        raise ValueError(f"an IDX header of shape {shape} followed by {received} bytes")
