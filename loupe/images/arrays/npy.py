"""Arrays of images in NumPy's files: headers, shapes, and the order of their values."""

import io
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from loupe.images.spec import SIDE

NPY_MAGIC = b"\x93NUMPY"
HEAD_BYTES = 2**16  # that a header may take
TRANSPOSED_IMAGES = 2**14  # at a time
SHAPES = f"(n, {SIDE}, {SIDE}), (n, {SIDE}, {SIDE}, 1) or (n, {SIDE * SIDE})"  # for errors


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
        are_rows: Whether the pixels of an image have one index.
        ends: Whether nothing may follow the images.
    """

    images: int
    offset: int
    is_fortran: bool
    are_rows: bool
    ends: bool


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


def are_images(shape: Sequence[int]) -> bool:
    """Return whether an array of this shape can hold grey images, with or without channels."""
    return len(shape) > 1 and shape[0] >= 0 and _sides(shape) in ([SIDE, SIDE], [SIDE * SIDE])


def are_rows(shape: Sequence[int]) -> bool:
    """Return whether the images of an array of this shape have one index for all pixels."""
    return _sides(shape) == [SIDE * SIDE]


def _sides(shape: Sequence[int]) -> list[int]:
    return [size for size in shape[1:] if size != 1]


def write_in_c_order(fortran: Path, to: Path, images: int, *, rows: bool) -> None:
    """Copy the values of images from Fortran order to C order.

    Args:
        fortran: File of the values, the first pixels of all images first.
        to: File to write.
        images: Number of images.
        rows: See `are_rows`.
    """
    order = (2, 0, 1) if rows else (2, 1, 0)
    with fortran.open("rb") as source, to.open("wb") as target:
        for start in range(0, images, TRANSPOSED_IMAGES):
            size = min(TRANSPOSED_IMAGES, images - start)
            values = [
                os.pread(source.fileno(), size, pixel * images + start)
                for pixel in range(SIDE * SIDE)
            ]
            block = np.frombuffer(b"".join(values), np.uint8).reshape(SIDE, SIDE, size)
            target.write(block.transpose(order).tobytes())


def copy_values(layout: Layout, chunks: Iterator[bytes], to: IO[bytes]) -> None:
    """Write the images of an array; raise `ValueError` if there are fewer or more bytes."""
    skipped, missing = layout.offset, layout.images * SIDE * SIDE
    for chunk in chunks:
        values = chunk[skipped:]
        skipped = max(0, skipped - len(chunk))
        if len(values) > missing and layout.ends:
            raise ValueError(f"more bytes follow the {layout.images:,} images of the header")
        missing -= to.write(values[:missing])
    if missing:
        raise ValueError(f"{missing:,} bytes of the {layout.images:,} images are missing")
