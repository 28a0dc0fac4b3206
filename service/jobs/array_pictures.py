"""Pictures of the rows of arrays: `.npy` and IDX files."""

import math
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from loupe.drawing import encode_png
from loupe.images.arrays import idx
from loupe.images.arrays.npy import HEAD_BYTES, NPY_MAGIC, read_header
from loupe.images.spec import UInt8Array

MAX_UNPACKED_BYTES = 2**26  # of a gzipped IDX file; one is kept in memory
IDX_MAGIC = bytes([0, 0, idx.UINT8])
COLOURS = 3


def is_array(head: bytes) -> bool:
    """Return whether a file with these first bytes may be an array."""
    return head.startswith((NPY_MAGIC, IDX_MAGIC, idx.GZIP_MAGIC))


def read_row(path: Path, file: BinaryIO, row: int, max_bytes: int) -> bytes:
    """Return a row of an array as a PNG file.

    Args:
        path: The file; one of IDX may be gzipped.
        file: The same, open.
        row: Its index, from 0.
        max_bytes: Maximum size of a row.

    Raises:
        ValueError, OSError, EOFError: If it is no array of images in C order, or too large.
        LookupError: If it has no such row.
    """
    if row < 0:
        raise LookupError("no such row")
    head = file.read(HEAD_BYTES)
    if head.startswith(idx.GZIP_MAGIC):
        status = path.stat()
        return _png(_unpacked(path, status.st_mtime_ns, status.st_size)[row])
    if head.startswith(NPY_MAGIC):
        header = read_header(head)
        if header.dtype != np.uint8 or header.is_fortran:
            raise ValueError("not uint8 in C order")
        shape, offset = header.shape, header.offset
    else:
        shape, offset = idx.header(head)
    size = math.prod(shape[1:])
    if not 0 < size <= max_bytes or not shape or row >= shape[0]:
        raise LookupError("no such row")
    file.seek(offset + row * size)
    return _png(np.frombuffer(file.read(size), np.uint8).reshape(shape[1:]))


@lru_cache(maxsize=1)
def _unpacked(path: Path, modified_ns: int, size: int) -> UInt8Array:
    """Return the values of a gzipped IDX file."""
    if math.prod(idx.read_shape(path)) > MAX_UNPACKED_BYTES:
        raise ValueError("too large")
    return idx.read(path)


def _png(pixels: UInt8Array) -> bytes:
    """Encode an image; it may be flat and square, or have its colours first."""
    pixels = pixels.squeeze()
    if pixels.ndim == 1:
        pixels = pixels.reshape(math.isqrt(pixels.size), -1)
    elif pixels.ndim == COLOURS and pixels.shape[0] == COLOURS != pixels.shape[2]:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim not in (2, 3) or pixels.shape[2:] not in ((), (COLOURS,)):
        raise ValueError("not an image")
    return encode_png(pixels)
