"""Encodings of images in requests: base64, nested lists of pixels, and `.npy` files."""

import base64
import io
import math
from array import array
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from typing import Annotated, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import FailFast, Field, JsonValue, StrictInt, TypeAdapter, ValidationError

from loupe.errors import InvalidImage, InvalidPixels
from loupe.images.arrays.npy import NPY_MAGIC
from loupe.images.spec import SIDE, ImageSpec, UInt8Array
from service.http.validation import explain, shown

MAX_NPY_HEADER_BYTES = 10_000  # as in NumPy
MAX_SIDES, MAX_SIDE = 4, 2**63  # of an array; its size could have a million digits
FROM_URL_SAFE = bytes.maketrans(b"-_", b"+/")
LINE_BREAKS = b"\r\n\t"
MAX_SCHEME = 16  # characters of a URL before its `://`
ESCAPES = {"%2b": "+", "%2f": "/", "%3d": "=", "%0d": "", "%0a": ""}  # in a `data:` URL
MAX_SHOWN = 40  # characters of a numpy error that a message repeats

# Numbers of an image that are not bytes: see `from_numbers`.
HALF_LEVEL = 0.5 / 255  # rounding in the client leaves values this much outside of 0..1
MIN_PEAK = (
    32  # of 0..255, the darkest image that fractions may have: below, it could be another scale
)
FORMS = f"{SIDE} rows of {SIDE} numbers, also as {SIDE}×{SIDE}×1 or {SIDE * SIDE} in one list"

_Numbers: TypeAlias = NDArray[np.float64]
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
    pixels = _to_bytes(rows)
    if pixels is None or pixels.max(initial=0) > 1:
        return pixels
    has_booleans = any(isinstance(value, bool) for row in rows for value in row)
    return None if has_booleans else pixels


def _to_bytes(rows: Sequence[Sequence[JsonValue | bytes]]) -> UInt8Array | None:
    with suppress(TypeError, ValueError):
        return np.frombuffer(b"".join(map(bytes, rows)), np.uint8)  # type: ignore[arg-type]
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


def from_numbers(value: JsonValue) -> UInt8Array:
    """Return an image as Keras users send it, uint8 `(28, 28)`: `FORMS`, from 0 to 255 or 0 to 1.

    An image with no number above 1 counts as 0..1, also one of only 0 and 1. With numbers above 1
    it counts as 0..255, unless it has fractions and no number of at least `MIN_PEAK`.

    Raises:
        InvalidPixels: If it has another shape, or its scale is another one or ambiguous.
    """
    if isinstance(value, list) and len(value) == SIDE and _is_row(value[0]):
        rows = [row for row in value if isinstance(row, list) and len(row) == SIDE]
        pixels = _to_bytes(rows)
        if pixels is not None and len(rows) == SIDE and pixels.max() > 1:  # the usual case
            return pixels.reshape(SIDE, SIDE)
    return _scaled(_numbers(value)).reshape(SIDE, SIDE)


def _is_row(value: JsonValue) -> bool:
    return isinstance(value, list) and len(value) == SIDE and not isinstance(value[0], list)


def _numbers(value: JsonValue) -> _Numbers:
    """Return the numbers of an image, row by row, or raise `InvalidPixels`."""
    sides = (SIDE * SIDE,) if isinstance(value, list) and len(value) > SIDE else (SIDE, SIDE)
    parts: list[JsonValue] = [value]
    for depth, side in enumerate(sides):
        for index, part in enumerate(parts):
            if not isinstance(part, list) or len(part) != side:
                place = f"Row {index}" if depth else "It"
                has = f"has {len(part)} values" if isinstance(part, list) else f"is {shown(part)}"
                raise InvalidPixels(
                    f"An image must be {FORMS}. {place} {has}, not {side} values. "
                    "Send a single image in a list of one."
                )
        parts = list(chain.from_iterable(parts))  # type: ignore[arg-type]
    if isinstance(parts[0], list):  # a colour axis
        parts = [part[0] if isinstance(part, list) and len(part) == 1 else part for part in parts]
    numbers = [part for part in parts if type(part) is int or type(part) is float]
    if len(numbers) < len(parts):
        index = next(index for index, part in enumerate(parts) if type(part) not in (int, float))
        raise _wrong_pixel(index, parts[index], f"must be a number; an image is {FORMS}")
    return np.array(array("d", numbers))


def _scaled(numbers: _Numbers) -> UInt8Array:
    """Return numbers from 0 to 1, or from 0 to 255, as pixels."""
    low, peak = float(numbers.min()), float(numbers.max())
    if (low < 0 and round(low * 255) < 0) or peak > 255:
        index = int(numbers.argmin() if low < 0 else numbers.argmax())
        raise _wrong_pixel(index, float(numbers[index]), "must be from 0 to 255, or from 0 to 1")
    if peak <= 1 + HALF_LEVEL:
        numbers = numbers * 255
    elif peak < MIN_PEAK and (numbers % 1).any():
        raise InvalidPixels(
            f"The pixels have fractions and go up to {peak:g}, so that their scale is ambiguous. "
            "Send 0 = background to 1 = full ink, or 0 to 255."
        )
    return np.rint(numbers).astype(np.uint8)


def _wrong_pixel(index: int, value: object, reason: str) -> InvalidPixels:
    row, column = divmod(index, SIDE)
    return InvalidPixels(f"Pixel {row}.{column} {reason}, got {shown(value)}.")


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
    return ImageSpec("ink").check_batch(images)


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
