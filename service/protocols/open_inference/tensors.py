"""Images in the input tensor of the Open Inference Protocol.

Sizes that a request claims are checked against the bytes it has before anything is allocated.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np
from pydantic import JsonValue

from loupe.errors import InvalidPixels, InvalidRequest
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.settings import Settings
from service.prediction.decoding import Preparation, check_count, decode_all
from service.prediction.encodings import from_base64, from_rows
from service.protocols.open_inference.requests import INPUT, InputTensor, Values

LENGTH_BYTES = 4  # little-endian length before each element of a raw BYTES tensor
MAX_LISTED = 10  # images that cannot be used, in one message


async def read_images(
    tensor: InputTensor, values: Values, settings: Settings, preparation: Preparation
) -> UInt8Array:
    """Return the images of an input, uint8 `(n, *spec.shape)`; errors name those that fail."""
    count, spec = tensor.shape[0], preparation.spec
    _check_shape(tensor, spec)
    check_count(count, settings, spec)
    if not isinstance(values, memoryview):
        values = _flatten(values, tensor.shape)
    if tensor.datatype == "UINT8":
        _check_length(len(values), count * spec.nbytes, tensor)
        if isinstance(values, memoryview):
            return np.frombuffer(values, np.uint8).reshape(-1, *spec.shape)
        return _to_pixels(values, spec.nbytes).reshape(-1, *spec.shape)
    files = _split(values, count) if isinstance(values, memoryview) else values
    _check_length(len(files), count, tensor)
    decoding = decode_all(files, _read_file, settings, preparation)
    del values, files
    decoded = await decoding
    if decoded.errors:
        failed = sorted(decoded.errors)
        raise decoded.errors[failed[0]].at(_name(failed))
    return decoded.images


def _check_shape(tensor: InputTensor, spec: ImageSpec) -> None:
    """Raise `InvalidRequest` if the shape is not that of pictures, or of the model's pixels."""
    shapes: list[list[int]] = [[], [1]]  # after the number of images
    if tensor.datatype == "UINT8":
        shapes = [[*spec.shape], [*spec.shape, 1]] if spec.channels == 1 else [[*spec.shape]]
    if tensor.shape[1:] not in shapes:
        expected = " or ".join(f"[{', '.join(map(str, ['n', *shape]))}]" for shape in shapes)
        raise InvalidRequest(
            f"The shape of '{INPUT}' as {tensor.datatype} must be {expected}, not {tensor.shape}."
        )


def _check_length(count: int, expected: int, tensor: InputTensor) -> None:
    if count != expected:
        raise InvalidRequest(
            f"'{INPUT}' of shape {tensor.shape} needs {expected:,} values, got {count:,}."
        )


def _to_pixels(values: Sequence[JsonValue | bytes], size: int) -> UInt8Array:
    """Return integers as pixels, of which an image has `size`."""
    pixels = from_rows([values])
    if pixels is None:
        images = range(0, len(values), size)
        wrong = (start for start in images if from_rows([values[start : start + size]]) is None)
        error = InvalidPixels("Pixels must be integers from 0 to 255.")
        raise error.at(_name([next(wrong) // size]))
    return pixels


def _read_file(value: JsonValue | bytes | memoryview) -> bytes | memoryview:
    return value if isinstance(value, bytes | memoryview) else from_base64(value)


def _split(raw: memoryview, count: int) -> list[memoryview]:
    """Split a raw BYTES tensor into its elements."""
    elements: list[memoryview] = []
    end = 0
    for index in range(count):
        start = end + LENGTH_BYTES
        end = start + int.from_bytes(raw[end:start], "little")
        if end > len(raw):
            raise InvalidRequest(
                f"'{INPUT}' needs {count:,} elements, each after its length; "
                f"its {len(raw):,} bytes end in element {index}."
            )
        elements.append(raw[start:end])
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
