"""Encodings of images in requests: base64, nested lists of pixels, and `.npy` files."""

import base64
import io
import math
from array import array
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import chain
from typing import Annotated, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import FailFast, Field, JsonValue, StrictInt, TypeAdapter, ValidationError

from loupe.errors import InvalidImage, InvalidPixels
from loupe.images.arrays.npy import NPY_MAGIC
from loupe.images.arrays.shapes import fits, to_batch
from loupe.images.spec import ImageSpec, UInt8Array
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

_Numbers: TypeAlias = NDArray[np.float64]


def forms(spec: ImageSpec) -> str:
    """Return the forms of an image that `from_numbers` takes, for messages."""
    size = f"{spec.height} rows of {spec.width}"
    if spec.channels == 3:
        return f"{size} pixels of 3 numbers, also as {spec.nbytes} numbers in one list"
    return f"{size} numbers, also as {spec.height}×{spec.width}×1 or {spec.nbytes} in one list"


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


def from_pixels(value: JsonValue, spec: ImageSpec) -> UInt8Array:
    """Return rows of integers, or of three integers each, as uint8 of the model's shape.

    Raises:
        InvalidPixels: If it has another shape, or other values.
    """
    rows = _rows(value, spec)
    pixels = None if rows is None else from_rows(rows)
    if pixels is not None:
        return pixels.reshape(spec.shape)
    try:
        return np.array(_validator(spec).validate_python(value), np.uint8)
    except ValidationError as error:
        kind = "integers" if spec.channels == 1 else "pixels of 3 integers"
        raise InvalidPixels(
            f"An image must be {spec.height} rows of {spec.width} {kind}, {spec.scale}"
            f"{_but_is(value, spec)}. {explain(error)}."
        ) from error.with_traceback(None)  # its frames would keep the request


@lru_cache(maxsize=16)
def _validator(spec: ImageSpec) -> TypeAdapter[object]:
    """Return the validator that explains what is wrong with an image."""
    kind: Any = Annotated[StrictInt, Field(ge=0, le=255)]
    for side in reversed(spec.shape):
        kind = Annotated[list[kind], FailFast(), Field(min_length=side, max_length=side)]
    return TypeAdapter(kind)


def _rows(value: JsonValue, spec: ImageSpec) -> list[list[JsonValue]] | None:
    """Return the numbers of each row of an image, or `None` if it has another shape."""
    if not isinstance(value, list) or len(value) != spec.height:
        return None
    width = spec.width
    rows = [row for row in value if isinstance(row, list) and len(row) == width]
    if len(rows) != spec.height:
        return None
    if spec.channels == 1:
        return rows
    if not all(isinstance(pixel, list) and len(pixel) == 3 for row in rows for pixel in row):
        return None
    return [list(chain.from_iterable(row)) for row in rows]  # type: ignore[arg-type]


def _but_is(value: JsonValue, spec: ImageSpec) -> str:
    """Return the shape that nested lists have instead, by their first elements."""
    sides: list[int] = []
    while isinstance(value, list) and len(sides) <= MAX_SIDES:
        sides.append(len(value))
        value = value[0] if value else None
    return "" if tuple(sides) in ((), spec.shape) else f", not {' × '.join(map(str, sides))}"


def from_numbers(value: JsonValue, spec: ImageSpec) -> UInt8Array:
    """Return an image as Keras users send it, uint8 of the model's shape.

    It may have any of its `forms`, and numbers from 0 to 255 or 0 to 1. An image with no number
    above 1 counts as 0..1, also one of only 0 and 1. With numbers above 1 it counts as 0..255,
    unless it has fractions and no number of at least `MIN_PEAK`.

    Raises:
        InvalidPixels: If it has another shape, or its scale is another one or ambiguous.
    """
    rows = _rows(value, spec)
    pixels = None if rows is None else _to_bytes(rows)
    if pixels is not None and pixels.max() > 1:  # the usual case
        return pixels.reshape(spec.shape)
    return _scaled(_numbers(value, spec), spec).reshape(spec.shape)


def _numbers(value: JsonValue, spec: ImageSpec) -> _Numbers:
    """Return the numbers of an image, row by row, or raise `InvalidPixels`."""
    is_flat = isinstance(value, list) and len(value) > spec.height
    parts: list[JsonValue] = [value]
    for depth, side in enumerate((spec.nbytes,) if is_flat else spec.shape):
        for index, part in enumerate(parts):
            if not isinstance(part, list) or len(part) != side:
                row = index if depth < 2 else f"{index // spec.width}.{index % spec.width}"
                place = f"Row {row}" if depth else "It"
                has = f"has {len(part)} values" if isinstance(part, list) else f"is {shown(part)}"
                raise InvalidPixels(
                    f"An image must be {forms(spec)}{_but_is(value, spec)}. {place} {has}, not "
                    f"{side} values. Send a single image in a list of one."
                )
        parts = list(chain.from_iterable(parts))  # type: ignore[arg-type]
    if isinstance(parts[0], list):  # an axis of one colour
        parts = [part[0] if isinstance(part, list) and len(part) == 1 else part for part in parts]
    numbers = [part for part in parts if type(part) is int or type(part) is float]
    if len(numbers) < len(parts):
        index = next(index for index, part in enumerate(parts) if type(part) not in (int, float))
        reason = f"must be a number; an image is {forms(spec)}"
        raise _wrong_pixel(index, parts[index], reason, spec)
    return np.array(array("d", numbers))


def _scaled(numbers: _Numbers, spec: ImageSpec) -> UInt8Array:
    """Return numbers from 0 to 1, or from 0 to 255, as pixels."""
    low, peak = float(numbers.min()), float(numbers.max())
    if (low < 0 and round(low * 255) < 0) or peak > 255:
        index = int(numbers.argmin() if low < 0 else numbers.argmax())
        reason = "must be from 0 to 255, or from 0 to 1"
        raise _wrong_pixel(index, float(numbers[index]), reason, spec)
    if peak <= 1 + HALF_LEVEL:
        numbers = numbers * 255
    elif peak < MIN_PEAK and (numbers % 1).any():
        raise InvalidPixels(
            f"The pixels have fractions and go up to {peak:g}, so that their scale is ambiguous. "
            f"Send {spec.scale}, or the same divided by 255."
        )
    return np.rint(numbers).astype(np.uint8)


def _wrong_pixel(index: int, value: object, reason: str, spec: ImageSpec) -> InvalidPixels:
    place = ".".join(map(str, np.unravel_index(index, spec.shape)))
    return InvalidPixels(f"Pixel {place} {reason}, got {shown(value)}.")


def parse_npy(body: bytes, spec: ImageSpec) -> UInt8Array:
    """Return the images in an `.npy` file, uint8 `(n, *spec.shape)`, or raise `InvalidPixels`."""
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
    is_own = images.shape[1:] == spec.shape
    if images.dtype == np.uint8 and not is_own and fits(images.shape, spec):
        images = to_batch(images, spec)
    return spec.check_batch(images)


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
