"""Encodings of images in requests: base64, nested lists of pixels, and `.npy` files."""

import base64
import io
import math
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Annotated, TypeAlias

import numpy as np
from pydantic import FailFast, Field, JsonValue, StrictInt, TypeAdapter, ValidationError

from loupe.errors import InvalidImage, InvalidPixels
from loupe.images.spec import SIDE, UInt8Array, check_batch
from service.http.validation import explain

NPY_MAGIC = b"\x93NUMPY"
MAX_NPY_HEADER_BYTES = 10_000  # as in NumPy
MAX_SIDES, MAX_SIDE = 4, 2**63  # of an array; its size could have a million digits
FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
LINE_BREAKS = b"\r\n\t"
MAX_SCHEME = 16  # characters of a URL before its `://`
ESCAPES = {"%2b": "+", "%2f": "/", "%3d": "=", "%0d": "", "%0a": ""}  # in a `data:` URL
MAX_SHOWN = 40  # characters of a numpy error that a message repeats

_Pixel: TypeAlias = Annotated[StrictInt, Field(ge=0, le=255)]
_Row: TypeAlias = Annotated[list[_Pixel], FailFast(), Field(min_length=SIDE, max_length=SIDE)]
_ROWS = TypeAdapter(Annotated[list[_Row], FailFast(), Field(min_length=SIDE, max_length=SIDE)])


def from_base64(value: JsonValue) -> bytes:
    """Return the file in base64 text or a `data:` URL; other URLs are never fetched.

    The text may have line breaks, as Android and MIME write them, the URL-safe alphabet, and no
    padding. Spaces inside are refused: a form turns `+` into them.
    """
    if not isinstance(value, str):
        raise InvalidImage("An image must be base64 text.")
    with suppress(ValueError):
        return base64.b64decode(value, validate=True)
    text = value.strip()
    if text[:5].lower() == "data:":
        text = _unescaped(text.rpartition(",")[2])  # a parameter may have a comma in quotes
    elif "://" in text[:MAX_SCHEME]:
        raise InvalidImage("Loupe does not fetch URLs. Send the image itself as base64.")
    try:
        plain = text.encode("ascii").translate(FROM_URL_SAFE, LINE_BREAKS)
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except ValueError as error:
        raise InvalidImage("The image is not valid base64.") from error


def _unescaped(text: str) -> str:
    """Replace what libraries escape of base64 in a URL."""
    if "%" in text:
        for escape, character in ESCAPES.items():
            text = text.replace(escape, character).replace(escape.upper(), character)
    return text


def from_rows(rows: Sequence[Sequence[JsonValue | bytes]]) -> UInt8Array | None:
    """Return rows of integers from 0 to 255 as uint8 `(n,)`, or `None` if there are other values.

    `bytes` is twice as fast as `np.array`, which would turn a long text among the numbers into
    gigabytes. Booleans are refused: as 0 and 1, a mask would be an image with almost no ink.
    """
    with suppress(TypeError, ValueError):
        pixels = np.frombuffer(b"".join(map(bytes, rows)), np.uint8)  # type: ignore[arg-type]
        if pixels.max(initial=0) > 1 or not any(
            isinstance(value, bool) for row in rows for value in row
        ):
            return pixels
    return None


def from_pixels(value: JsonValue) -> UInt8Array:
    """Return 28 rows of 28 integers as uint8 `(28, 28)`, or raise `InvalidPixels`."""
    if isinstance(value, list) and len(value) == SIDE:
        rows = [row for row in value if isinstance(row, list) and len(row) == SIDE]
        pixels = from_rows(rows)
        if pixels is not None and len(rows) == SIDE:
            return pixels.reshape(SIDE, SIDE)
    try:
        return np.array(_ROWS.validate_python(value), np.uint8)
    except ValidationError as error:
        raise InvalidPixels(
            f"An image must be {SIDE} rows of {SIDE} integers, 0 = background to 255 = full ink. "
            f"{explain(error)}."
        ) from error.with_traceback(None)  # its frames would keep the request


def parse_npy(body: bytes) -> UInt8Array:
    """Return the images in an `.npy` file, uint8 `(n, 28, 28)`, or raise `InvalidPixels`."""
    header_bytes = _npy_header_bytes(body)
    if header_bytes > MAX_NPY_HEADER_BYTES:
        raise InvalidPixels(f"The header of the .npy file has {header_bytes:,} bytes.")
    try:
        length, shape, fortran_order, dtype = _npy_header(body[:header_bytes])
    except Exception as error:  # a hostile header breaks Python's tokenizer and NumPy in many ways
        raise InvalidPixels(f"The .npy file is damaged: {str(error)[:MAX_SHOWN]}.") from error
    if dtype.hasobject:
        raise InvalidPixels("The .npy file holds pickled Python objects. Send uint8 pixels.")
    if len(shape) > MAX_SIDES or max(shape, default=0) > MAX_SIDE:
        raise InvalidPixels("The .npy header promises more pixels than any body has bytes.")
    expected_bytes = math.prod(shape) * dtype.itemsize
    if len(body) - length != expected_bytes:
        raise InvalidPixels(
            f"The .npy header promises {expected_bytes:,} bytes of pixels, "
            f"but {len(body) - length:,} follow."
        )
    try:
        images = np.frombuffer(body, dtype, offset=length).reshape(
            shape, order="F" if fortran_order else "C"
        )
    except (ValueError, OverflowError) as error:  # negative or endless sides, values of no size
        raise InvalidPixels(f"The .npy file is damaged: {str(error)[:MAX_SHOWN]}.") from error
    return check_batch(images)


def _npy_header_bytes(body: bytes) -> int:
    """Return the length of an `.npy` header with the magic bytes before it.

    Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    version, length_bytes = body[6:7], 2 if body[6:7] == b"\x01" else 4
    start = len(NPY_MAGIC) + len(version) + 1 + length_bytes
    return start + int.from_bytes(body[start - length_bytes : start], "little")


@lru_cache(maxsize=64)  # callers repeat shapes, and the tokenizer takes longer than all the rest
def _npy_header(header: bytes) -> tuple[int, tuple[int, ...], bool, np.dtype[np.generic]]:
    """Return the length of a header, and shape, order and dtype of the array after it."""
    file = io.BytesIO(header)
    is_first_version = np.lib.format.read_magic(file) == (1, 0)
    read_header = getattr(
        np.lib.format, f"read_array_header_{'1_0' if is_first_version else '2_0'}"
    )
    shape, fortran_order, dtype = read_header(file)
    return file.tell(), shape, fortran_order, dtype
