"""Images in the input tensor of the Open Inference Protocol.

Sizes that a request claims are checked against the bytes it has before anything is allocated.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from pydantic import JsonValue

from loupe.errors import InvalidPixels, InvalidRequest
from loupe.images.spec import SIDE, UInt8Array
from loupe.settings import Settings
from service.prediction.decoding import EncodedImage, Preparation, check_count, decode_all
from service.prediction.encodings import from_base64, from_integers
from service.protocols.open_inference.requests import INPUT, InputTensor, Values

LENGTH_BYTES = 4  # little-endian length before each element of a raw BYTES tensor
MAX_LISTED = 10  # images that cannot be used, in one message


async def read_images(
    tensor: InputTensor, values: Values, settings: Settings, preparation: Preparation
) -> UInt8Array:
    """Return the images of an input, uint8 `(n, 28, 28)`; pictures are prepared for the model.

    Raises:
        InvalidRequest: If the values do not fit the shape.
        LoupeError: If an image cannot be used; the message says which.
    """
    count = tensor.shape[0]
    check_count(count, settings)
    if isinstance(values, memoryview) and tensor.datatype == "UINT8":
        _check_length(len(values), count * SIDE * SIDE, tensor)
        return np.frombuffer(values, np.uint8).reshape(-1, SIDE, SIDE)
    elements = (
        _split(values, count) if isinstance(values, memoryview) else _elements(values, tensor)
    )
    decoded = await decode_all(elements, _read_element, settings, preparation)
    if decoded.errors:
        failed = sorted(decoded.errors)
        raise decoded.errors[failed[0]].at(_name(failed))
    return decoded.images


def _elements(
    values: Sequence[JsonValue | bytes], tensor: InputTensor
) -> Sequence[JsonValue | bytes | list[JsonValue | bytes]]:
    """Return a file or a flat list of pixels for each image."""
    flat = _flatten(values, tensor.shape)
    size = 1 if tensor.datatype == "BYTES" else SIDE * SIDE
    _check_length(len(flat), tensor.shape[0] * size, tensor)
    if tensor.datatype == "BYTES":
        return flat
    return [list(flat[start : start + size]) for start in range(0, len(flat), size)]


def _check_length(count: int, expected: int, tensor: InputTensor) -> None:
    if count != expected:
        raise InvalidRequest(
            f"'{INPUT}' of shape {tensor.shape} needs {expected:,} values, got {count:,}."
        )


def _read_element(value: JsonValue | bytes | list[JsonValue | bytes]) -> EncodedImage:
    if isinstance(value, bytes):
        return value
    if not isinstance(value, list):
        return from_base64(value)
    pixels = from_integers(value)
    if pixels is None:
        raise InvalidPixels("Pixels must be integers from 0 to 255.")
    return pixels.reshape(SIDE, SIDE)


def _split(raw: memoryview, count: int) -> list[bytes]:
    """Split a raw BYTES tensor into its elements."""
    elements: list[bytes] = []
    end = 0
    for index in range(count):
        start = end + LENGTH_BYTES
        end = start + int.from_bytes(raw[end:start], "little")
        if end > len(raw):
            raise InvalidRequest(
                f"'{INPUT}' needs {count:,} elements, each after its length; "
                f"its {len(raw):,} bytes end in element {index}."
            )
        elements.append(bytes(raw[start:end]))
    if end < len(raw):
        raise InvalidRequest(
            f"'{INPUT}' has {len(raw) - end:,} bytes after its {count:,} elements."
        )
    return elements


def _flatten(values: Sequence[JsonValue | bytes], shape: list[int]) -> Sequence[JsonValue | bytes]:
    """Return the values row by row; they may be flat, or nested as the shape."""
    if not values or not isinstance(values[0], list):
        return values
    parts: Sequence[Sequence[JsonValue | bytes]] = [values]
    for side in shape:
        if any(not isinstance(part, list) or len(part) != side for part in parts):
            raise InvalidRequest(f"data of '{INPUT}' must be flat, or nested as {shape}.")
        parts = list(chain.from_iterable(parts))  # type: ignore[arg-type]
    return parts  # type: ignore[return-value]


def _name(failed: list[int]) -> str:
    """Name the images that cannot be used, all in one message."""
    if len(failed) == 1:
        return f"Image {failed[0]}"
    more = " …" if len(failed) > MAX_LISTED else ""
    listed = ", ".join(map(str, failed[:MAX_LISTED]))
    return f"Images {listed}{more} cannot be used. Image {failed[0]}"
