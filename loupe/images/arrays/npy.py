"""Arrays of images in NumPy's files: headers, shapes, and the order of their values."""

import io
import math
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

NPY_MAGIC = b"\x93NUMPY"
HEAD_BYTES = 2**16  # that a header may take
TRANSPOSED_BYTES = 2**24  # at a time


class Header(NamedTuple):
    """The header of an array.

    Attributes:
        shape: Sizes of the dimensions.
        offset: First byte of the values.
        is_fortran: Whether the first index changes fastest.
        dtype: Type of the values.
    """

    shape: tuple[int, ...]
    offset: int
    is_fortran: bool
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """Bytes of the values."""
        return math.prod(self.shape) * self.dtype.itemsize


class Layout(NamedTuple):
    """The place of images in a file.

    Attributes:
        images: Number of images.
        offset: First byte of the first image.
        is_fortran: Whether the first pixels of all images come first.
        shape: Sizes of the dimensions of one image.
        ends: Whether nothing may follow the images.
    """

    images: int
    offset: int
    is_fortran: bool
    shape: tuple[int, ...]
    ends: bool

    @property
    def image_bytes(self) -> int:
        """Bytes of one image."""
        return math.prod(self.shape)

    @property
    def stop(self) -> int:
        """First byte after the last image."""
        return self.offset + self.images * self.image_bytes


def read_header(head: bytes) -> Header:
    """Return the header that an `.npy` file begins with; raise `ValueError` if it is damaged."""
    file = io.BytesIO(head[:HEAD_BYTES])
    try:
        if np.lib.format.read_magic(file) == (1, 0):
            shape, is_fortran, dtype = np.lib.format.read_array_header_1_0(file)
        else:
            shape, is_fortran, dtype = np.lib.format.read_array_header_2_0(file)
    except Exception as error:  # NumPy evaluates the header, which may be hostile
        raise ValueError(f"a damaged header of NumPy: {error}") from error
    return Header(shape, file.tell(), is_fortran, dtype)


def write_in_c_order(fortran: Path, to: Path, layout: Layout) -> None:
    """Copy the values of images from Fortran order, the first pixels of all images first."""
    sides = layout.shape[::-1]
    at_a_time = max(1, TRANSPOSED_BYTES // layout.image_bytes)
    with fortran.open("rb") as source, to.open("wb") as target:
        for start in range(0, layout.images, at_a_time):
            size = min(at_a_time, layout.images - start)
            values = [
                os.pread(source.fileno(), size, pixel * layout.images + start)
                for pixel in range(layout.image_bytes)
            ]
            block = np.frombuffer(b"".join(values), np.uint8).reshape(*sides, size)
            target.write(block.T.tobytes())  # (size, *shape)


def copy_values(layout: Layout, chunks: Iterator[bytes], to: IO[bytes]) -> None:
    """Write the images of an array; raise `ValueError` if there are fewer or more bytes."""
    skipped, missing = layout.offset, layout.stop - layout.offset
    for chunk in chunks:
        values = chunk[skipped:]
        skipped = max(0, skipped - len(chunk))
        if len(values) > missing and layout.ends:
            raise ValueError(f"more bytes follow the {layout.images:,} images of the header")
        missing -= to.write(values[:missing])
    if missing:
        raise ValueError(f"{missing:,} bytes of the {layout.images:,} images are missing")
