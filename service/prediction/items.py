"""What stands for an image in the body of a request: a file in base64, lists of pixels, an array of them."""

import base64
import binascii
import io
import math
from contextlib import suppress
from functools import lru_cache
from typing import TypeAlias

import numpy as np
import orjson
from pydantic import JsonValue

from loupe.errors import InvalidImage, InvalidPixels, LoupeError
from loupe.images.spec import SIDE, UInt8Array, check_batch
from loupe.old_errors.service import InvalidJson, InvalidRequest

NPY_MAGIC = b"\x93NUMPY"
ONE_IMAGE = (
    "an image body (Content-Type: image/png …), multipart/form-data with a field 'image', "
    'or JSON {"image": "<base64>"} or {"pixels": [[…28 rows of 28…]]}'
)
MANY_IMAGES = (
    'multipart/form-data with fields \'images\', JSON {"images": ["<base64>", …]}, '
    f"or an .npy body of uint8 (n, {SIDE}, {SIDE})"
)

# A thing that came in place of an image: encoded bytes, finished pixels, or what is wrong with it.
Item: TypeAlias = "bytes | UInt8Array | LoupeError"


def parse_json(body: bytes | memoryview) -> JsonValue:
    """What JSON says.

    Raises:
        InvalidJson: If it is none.
    """
    try:
        value: JsonValue = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidJson("JSON", f"a body that is none ({error})") from error
    return value


def json_image(value: JsonValue, expected: str) -> Item:
    """One image in JSON: `{"image": base64}` or `{"pixels": 28 × 28}`."""
    if not isinstance(value, dict):
        raise InvalidRequest(expected, f"JSON of type {json_type(value)}")
    if value.keys() == {"image"}:
        return from_base64(value["image"])
    if value.keys() == {"pixels"}:
        return from_pixels(value["pixels"])
    raise InvalidRequest(expected, f"JSON with the keys {sorted(value)}")


def json_images(value: JsonValue) -> list[Item]:
    """Many images in JSON: a list whose elements are base64, or objects as `/predict` takes them."""
    images = value.get("images") if isinstance(value, dict) and value.keys() == {"images"} else None
    if not isinstance(images, list):
        received = (
            f"JSON with the keys {sorted(value)}"
            if isinstance(value, dict)
            else f"JSON of type {json_type(value)}"
        )
        raise InvalidRequest(MANY_IMAGES, received)
    items: list[Item] = []
    for image in images:
        try:
            items.append(
                json_image(image, ONE_IMAGE) if isinstance(image, dict) else from_base64(image)
            )
        except LoupeError as error:
            items.append(error.with_traceback(None))  # as in `Predictor.outcome`
    return items


def from_base64(value: JsonValue) -> bytes:
    """The file in base64 text, which a `data:` URL may be wrapped around; other URLs are never fetched.

    Raises:
        InvalidImage: If it is anything else.
    """
    if not isinstance(value, str):
        raise InvalidImage(f"The image must be base64 text, not {json_type(value)}.")
    if value.startswith(("http://", "https://", "file://", "ftp://", "s3://")):
        raise InvalidImage(
            "The image is a URL. Loupe fetches nothing: send the image's bytes as base64."
        )
    encoded = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"The image is text that is not base64: {error}.") from error


def from_pixels(value: JsonValue) -> UInt8Array:
    """The image, uint8 `(28, 28)`, that nested lists of numbers are.

    NumPy is not asked: it takes twice as long, and makes gigabytes of a long text among the numbers.

    Raises:
        InvalidPixels: If they are anything else.
    """
    rows = (
        [row for row in value if isinstance(row, list) and len(row) == SIDE]
        if isinstance(value, list)
        else []
    )
    if isinstance(value, list) and len(rows) == len(value) == SIDE:
        with suppress(TypeError, ValueError):  # what is no integer, and integers that are no bytes
            pixels = np.frombuffer(b"".join(map(bytes, rows)), np.uint8)  # type: ignore[arg-type]
            # Truth values pass for 0 and 1; a mask made of them would be an image almost without ink.
            if pixels.max() > 1 or not any(
                isinstance(number, bool) for row in rows for number in row
            ):
                return pixels.reshape(SIDE, SIDE)
    raise InvalidPixels(
        f"Expected {SIDE} rows of {SIDE} integers, 0 = background to 255 = full ink. "
        f"Received: {_unlike_pixels(value)}."
    )


def _unlike_pixels(value: JsonValue) -> str:
    """Where JSON first differs from an image."""
    if not isinstance(value, list):
        return json_type(value)
    if len(value) != SIDE:
        return f"{len(value):,} rows"
    problems = ((place, _unlike_row(row)) for place, row in enumerate(value))
    return next(f"row {place} with {problem}" for place, problem in problems if problem)


def _unlike_row(row: JsonValue) -> str | None:
    """Where JSON first differs from a row of pixels, if it does."""
    if not isinstance(row, list):
        return f"{json_type(row)} in place of numbers"
    if len(row) != SIDE:
        return f"{len(row):,} values"
    for column, value in enumerate(row):
        if type(value) is not int or not 0 <= value <= 255:
            is_number = isinstance(value, int | float) and not isinstance(value, bool)
            return f"{value if is_number else json_type(value)} in column {column}"
    return None


def json_type(value: JsonValue) -> str:
    """What JSON calls a value of this kind."""
    names = {
        dict: "object",
        list: "array",
        str: "string",
        bool: "boolean",
        int: "number",
        float: "number",
    }
    return names.get(type(value), "null")


def parse_npy(body: bytes) -> UInt8Array:
    """The array of an `.npy` file. The header is checked against the body's length before anything is allocated."""
    try:
        length, shape, fortran_order, dtype = _npy_header(body[: _npy_header_bytes(body)])
    except (
        Exception
    ) as error:  # whatever Python's tokenizer and NumPy's types make of a hostile header
        raise InvalidPixels(f"The .npy file is damaged: {error}.") from error
    if dtype.hasobject:
        raise InvalidPixels("The .npy file holds pickled Python objects, not numbers.")
    if len(body) - length != math.prod(shape) * dtype.itemsize:
        raise InvalidPixels(
            f"The .npy header promises {math.prod(shape) * dtype.itemsize:,} bytes of values, "
            f"but {len(body) - length:,} follow."
        )
    try:
        images = np.frombuffer(body, dtype, offset=length).reshape(
            shape, order="F" if fortran_order else "C"
        )
    except (ValueError, OverflowError) as error:  # negative or endless sides, values of no size
        raise InvalidPixels(f"The .npy file is damaged: {error}.") from error
    return check_batch(images)


def _npy_header_bytes(body: bytes) -> int:
    """How long the header of an `.npy` file says that it is, with what comes before it.

    Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
    """
    version, length_bytes = body[6:7], 2 if body[6:7] == b"\x01" else 4
    start = len(NPY_MAGIC) + len(version) + 1 + length_bytes
    return start + int.from_bytes(body[start - length_bytes : start], "little")


@lru_cache(
    maxsize=64
)  # callers send the same shape again and again, and Python's parser takes longer than all else that is done with it
def _npy_header(header: bytes) -> tuple[int, tuple[int, ...], bool, np.dtype[np.generic]]:
    """Length of a header, and shape, order and type of the array that follows it."""
    file = io.BytesIO(header)
    version = np.lib.format.read_magic(file)
    read_header = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran_order, dtype = read_header(file)
    return file.tell(), shape, fortran_order, dtype
