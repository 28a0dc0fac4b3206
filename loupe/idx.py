"""The IDX format of MNIST's files: a big-endian header of sizes, then raw values. Only `uint8` files, plain or gzipped.

Source: the section "The IDX file format" of LeCun, Cortes and Burges, "The MNIST database of handwritten digits".
"""

import gzip
import math
import struct
import zlib
from pathlib import Path

import numpy as np

from loupe.images import UInt8Array

UINT8 = 0x08  # IDX's code for unsigned bytes
GZIP_MAGIC = b"\x1f\x8b"


def encode(values: UInt8Array) -> bytes:
    """The bytes of an IDX file holding a uint8 array of any shape."""
    return struct.pack(f">BBBB{values.ndim}I", 0, 0, UINT8, values.ndim, *values.shape) + values.tobytes()


def decode(data: bytes) -> UInt8Array:
    """The uint8 array in the bytes of an IDX file; `ValueError` if they are none."""
    shape, start = _header(data)
    if len(data) - start != math.prod(shape):
        raise ValueError(f"an IDX header of shape {shape} followed by {len(data) - start:,} bytes")
    return np.frombuffer(data, np.uint8, offset=start).reshape(shape)


def read(path: Path) -> UInt8Array:
    """The array in an IDX file: mapped from disk, or unpacked into memory where the file is gzipped.

    `ValueError`, `OSError` or `EOFError` if it is none, or damaged.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if head.startswith(GZIP_MAGIC):
        try:
            return decode(gzip.decompress(path.read_bytes()))
        except zlib.error as error:
            raise ValueError(f"a damaged gzip file holding IDX values ({error})") from error
    shape, start = _header(head)
    if path.stat().st_size - start != math.prod(shape):
        raise ValueError(f"an IDX header of shape {shape} followed by {path.stat().st_size - start:,} bytes")
    return np.memmap(path, np.uint8, mode="r", offset=start, shape=shape)


def _header(data: bytes) -> tuple[tuple[int, ...], int]:
    """Shape, and where the values start."""
    if len(data) < 4 or data[:2] != b"\0\0":
        raise ValueError("no IDX header")
    if data[2] != UINT8:
        raise ValueError(f"IDX values of type 0x{data[2]:02x}, not unsigned bytes (0x08)")
    dimensions = data[3]
    start = 4 + 4 * dimensions
    if not 1 <= dimensions <= 8 or len(data) < start:
        raise ValueError(f"an IDX header of {dimensions} dimensions")
    return struct.unpack(f">{dimensions}I", data[4:start]), start
