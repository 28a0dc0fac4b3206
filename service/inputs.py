"""From an HTTP request to images: the only module that reads bodies. Every refusal is a `LoupeError` with its own status."""

import asyncio
import base64
import binascii
import io
import math
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TypeAlias

import numpy as np
import orjson
from pydantic import JsonValue
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from loupe.errors import (
    BodyTooLarge,
    BodyTooSlow,
    CallerGone,
    InvalidImage,
    InvalidJson,
    InvalidPixels,
    InvalidRequest,
    LoupeError,
    TooManyImages,
    UnsupportedMediaType,
)
from loupe.images import SIDE, Look, Picture, UInt8Array, check_batch, open_picture
from loupe.settings import Settings
from service.options import Normalize

BODY_SECONDS = 25.0  # within which a body has to come; after 30, BentoML would answer in words of its own
NPY_MAGIC = b"\x93NUMPY"
DECODER_NICENESS = 10
INLINE_PIXELS = 64 * 64  # a picture this small is decoded faster than a thread is woken
ONE_IMAGE = (
    "an image body (Content-Type: image/png …), multipart/form-data with a field 'image', "
    'or JSON {"image": "<base64>"} or {"pixels": [[…28 rows of 28…]]}'
)
MANY_IMAGES = (
    'multipart/form-data with fields \'images\', JSON {"images": ["<base64>", …]}, '
    f"or an .npy body of uint8 (n, {SIDE}, {SIDE})"
)

# From a picture to uint8 (28, 28), as the model takes it.
Prepare: TypeAlias = Callable[[Picture], UInt8Array]

# A thing that came in place of an image: encoded bytes, finished pixels, or what is wrong with it.
Item: TypeAlias = "bytes | UInt8Array | LoupeError"


def _step_back() -> None:
    """Let the event loop and the engine go first: a photo is the work of many small requests."""
    if sys.platform == "linux":  # elsewhere the whole process would step back
        os.nice(DECODER_NICENESS)


# Two threads bound the memory of large pictures.
_decoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode", initializer=_step_back)


@dataclass(frozen=True)
class Batch:
    """The images of one request.

    Attributes:
        images: uint8, shape `(n, 28, 28)`: those that could be read, in the order they came.
        errors: What was wrong with the others, by their place in the request.
    """

    images: UInt8Array
    errors: dict[int, LoupeError]

    def __len__(self) -> int:
        return len(self.images) + len(self.errors)


async def read_image(request: Request, settings: Settings, prepare: Prepare) -> UInt8Array:
    """The one image of a request: uint8, shape `(28, 28)`.

    Raises:
        LoupeError: If the request holds anything else.
    """
    body = await read_body(request, settings.max_body_bytes)
    media_type = _media_type(request)
    if media_type.startswith("image/") or media_type == "application/octet-stream":
        item: Item = body
    elif media_type == "application/json":
        item = _json_image(parse_json(body), ONE_IMAGE)
    elif media_type == "multipart/form-data":
        uploads = await _read_uploads(request.headers, body, "image", ONE_IMAGE, settings)
        if len(uploads) > 1:
            raise InvalidRequest("one field 'image'; send many to /predict_batch", f"{len(uploads)} of them")
        item = uploads[0]
    else:
        raise UnsupportedMediaType(ONE_IMAGE, f"Content-Type {media_type!r}")
    return await _to_pixels(item, settings, prepare)


async def read_batch(request: Request, settings: Settings, prepare: Prepare) -> Batch:
    """The images of a batch request; what is wrong with one of them stays with it.

    Raises:
        LoupeError: If the request as a whole is wrong.
    """
    body = await read_body(request, settings.max_body_bytes)
    media_type = _media_type(request)
    items: Sequence[Item]
    if body.startswith(NPY_MAGIC):
        images = _parse_npy(body)
        check_count(len(images), settings)
        return Batch(images, {})
    if media_type == "application/json":
        items = _json_images(parse_json(body))
    elif media_type == "multipart/form-data":
        items = await _read_uploads(request.headers, body, "images", MANY_IMAGES, settings)
    else:
        raise UnsupportedMediaType(MANY_IMAGES, f"Content-Type {media_type!r} with a body that is no .npy file")
    check_count(len(items), settings)
    return await decode_all(items, settings, prepare)


def preparation(look: Look, normalize: Normalize) -> Prepare:
    """What is done to a picture before a model sees it: it is made to look like the training data, or taken as it is."""
    return partial(Picture.pixels, look=look) if normalize == "auto" else Picture.unchanged


async def decode_all(items: Iterable[Item], settings: Settings, prepare: Prepare) -> Batch:
    """The images of a request's items; what is wrong with one of them stays with it."""
    images: list[UInt8Array] = []
    errors: dict[int, LoupeError] = {}
    for place, item in enumerate(items):
        try:
            images.append(await _to_pixels(item, settings, prepare))
        except LoupeError as error:
            errors[place] = error
        if place % 16 == 15:
            await asyncio.sleep(0)  # others' requests come in between
    return Batch(np.stack(images) if images else np.empty((0, SIDE, SIDE), np.uint8), errors)


async def _to_pixels(item: Item, settings: Settings, prepare: Prepare) -> UInt8Array:
    if isinstance(item, LoupeError):
        raise item
    if isinstance(item, np.ndarray):
        return item
    picture = open_picture(item, max_pixels=settings.max_image_pixels)
    if picture.pixel_count <= INLINE_PIXELS:
        return prepare(picture)
    return await asyncio.get_running_loop().run_in_executor(_decoders, prepare, picture)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()


def check_count(count: int, settings: Settings) -> None:
    """Refuse a request without images, or with more than one request may hold.

    Raises:
        InvalidRequest: If there are none.
        TooManyImages: If there are too many.
    """
    if count == 0:
        raise InvalidRequest("at least one image", "an empty batch")
    if count > settings.max_images_per_request:
        raise TooManyImages(settings.max_images_per_request, count)


async def read_body(
    request: Request, limit_bytes: int, expected: str = "an image", limit_seconds: float = BODY_SECONDS
) -> bytes:
    """A body that is not empty.

    Args:
        request: Whose body it is.
        limit_bytes: What it may have.
        expected: What the caller is told that should be in it.
        limit_seconds: Within which it has to come.

    Raises:
        BodyTooLarge: If it says that it is longer, or is.
        BodyTooSlow: If it takes longer to come.
        CallerGone: If the caller goes before its end.
        InvalidRequest: If it is empty.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    chunks = []
    size = 0
    alarm = _Alarm(limit_seconds)
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > limit_bytes:
                raise BodyTooLarge(limit_bytes)
            chunks.append(chunk)
    except ClientDisconnect:
        raise CallerGone from None
    except asyncio.CancelledError:
        if alarm.rang:
            raise BodyTooSlow(limit_seconds, size) from None
        raise
    finally:
        alarm.stop()
    if not size:
        raise InvalidRequest(f"{expected} in the body", "an empty body")
    return b"".join(chunks)


class _Alarm:
    """Cancels what the task waits for when a time is over. `asyncio.wait_for` would cost every request a task of its own."""

    def __init__(self, seconds: float) -> None:
        self.rang = False
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def stop(self) -> None:
        """It has not to ring any more."""
        self._timer.cancel()

    def _ring(self) -> None:
        self.rang = True
        if self._task is not None:
            self._task.cancel()


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


def _json_image(value: JsonValue, expected: str) -> Item:
    """One image in JSON: `{"image": base64}` or `{"pixels": 28 × 28}`."""
    if not isinstance(value, dict):
        raise InvalidRequest(expected, f"JSON of type {json_type(value)}")
    if value.keys() == {"image"}:
        return from_base64(value["image"])
    if value.keys() == {"pixels"}:
        return from_pixels(value["pixels"])
    raise InvalidRequest(expected, f"JSON with the keys {sorted(value)}")


def _json_images(value: JsonValue) -> list[Item]:
    """Many images in JSON: a list whose elements are base64, or objects as `/predict` takes them."""
    images = value.get("images") if isinstance(value, dict) and value.keys() == {"images"} else None
    if not isinstance(images, list):
        received = (
            f"JSON with the keys {sorted(value)}" if isinstance(value, dict) else f"JSON of type {json_type(value)}"
        )
        raise InvalidRequest(MANY_IMAGES, received)
    items: list[Item] = []
    for image in images:
        try:
            items.append(_json_image(image, ONE_IMAGE) if isinstance(image, dict) else from_base64(image))
        except LoupeError as error:
            items.append(error)
    return items


def from_base64(value: JsonValue) -> bytes:
    """The file in base64 text, which a `data:` URL may be wrapped around; other URLs are never fetched.

    Raises:
        InvalidImage: If it is anything else.
    """
    if not isinstance(value, str):
        raise InvalidImage(f"{json_type(value)} where base64 text should be")
    if value.startswith(("http://", "https://", "file://", "ftp://", "s3://")):
        raise InvalidImage("a URL; Loupe fetches nothing, send the image's bytes as base64")
    encoded = value.partition(",")[2] if value.startswith("data:") else value
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise InvalidImage(f"text that is not base64 ({error})") from error


def from_pixels(value: JsonValue) -> UInt8Array:
    """The image, uint8 `(28, 28)`, that nested lists of numbers are.

    NumPy is not asked: it takes twice as long, and makes gigabytes of a long text among the numbers.

    Raises:
        InvalidPixels: If they are anything else.
    """
    rows = [row for row in value if isinstance(row, list) and len(row) == SIDE] if isinstance(value, list) else []
    if isinstance(value, list) and len(rows) == len(value) == SIDE:
        with suppress(TypeError, ValueError):  # what is no integer, and integers that are no bytes
            pixels = np.frombuffer(b"".join(map(bytes, rows)), np.uint8)  # type: ignore[arg-type]
            # Truth values pass for 0 and 1; a mask made of them would be an image almost without ink.
            if pixels.max() > 1 or not any(isinstance(number, bool) for row in rows for number in row):
                return pixels.reshape(SIDE, SIDE)
    raise InvalidPixels(f"{SIDE} rows of {SIDE} integers, 0 = background to 255 = full ink", _unlike_pixels(value))


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
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "number", float: "number"}
    return names.get(type(value), "null")


def _parse_npy(body: bytes) -> UInt8Array:
    """The array of an `.npy` file. The header is checked against the body's length before anything is allocated."""
    try:
        length, shape, fortran_order, dtype = _npy_header(body[: _npy_header_bytes(body)])
    except Exception as error:  # whatever Python's tokenizer and NumPy's types make of a hostile header
        raise InvalidPixels("a whole .npy file", f"a damaged one ({error})") from error
    if dtype.hasobject:
        raise InvalidPixels(f"uint8 images of shape (n, {SIDE}, {SIDE})", "pickled Python objects")
    if len(body) - length != math.prod(shape) * dtype.itemsize:
        raise InvalidPixels(
            f"{math.prod(shape) * dtype.itemsize:,} bytes of values, as the .npy header says", f"{len(body) - length:,}"
        )
    try:
        images = np.frombuffer(body, dtype, offset=length).reshape(shape, order="F" if fortran_order else "C")
    except (ValueError, OverflowError) as error:  # negative or endless sides, values of no size
        raise InvalidPixels("a whole .npy file", f"a damaged one ({error})") from error
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
    read_header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran_order, dtype = read_header(file)
    return file.tell(), shape, fortran_order, dtype


async def _read_uploads(headers: Headers, body: bytes, field: str, expected: str, settings: Settings) -> list[Item]:
    """The files of one multipart field. A text in its place is an error of its own item: it is never taken for a URL."""
    limit = settings.max_images_per_request

    async def stream() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(headers, stream(), max_files=limit + 1, max_fields=limit + 1)  # type: ignore[arg-type]
    try:
        form: FormData = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            raise TooManyImages(limit, limit + 1) from error
        raise InvalidRequest(expected, f"a damaged form ({error.message})") from error
    except KeyError as error:
        raise InvalidRequest(expected, "multipart/form-data without a boundary") from error
    except UnicodeError as error:  # of an alphabet like punycode; other names of none are passed over
        raise InvalidRequest(expected, f"a form in an alphabet that does not fit ({error})") from error
    try:
        items: list[Item] = [
            await value.read()
            if isinstance(value, UploadFile)
            else InvalidImage(
                f"the text {value[:40]!r} instead of a file; Loupe fetches nothing, send the bytes (with curl: -F {field}=@FILE)"
            )
            for value in form.getlist(field)
        ]
    finally:
        await form.close()
    if not items:
        raise InvalidRequest(expected, f"a form with the fields {sorted(form.keys())}")
    return items
