"""Requests of the Open Inference Protocol: from JSON, with or without raw tensors behind it, to images and wanted outputs.

Those over gRPC are read here too, once `service.open_inference_messages` has made of them what JSON would say.

Whatever a request says of sizes is held against the bytes that came before anything is made of them.
"""

import reprlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TypeAlias

import numpy as np
from pydantic import JsonValue

from loupe.errors import InvalidPixels, LoupeError
from loupe.images.spec import SIDE, UInt8Array
from loupe.old_errors.service import InvalidRequest
from loupe.settings import Settings
from service.prediction import inputs, items

JSON_LENGTH = (
    "Inference-Header-Content-Length"  # the header that says where JSON ends and raw tensors begin
)
INPUT = "images"
PROBABILITIES, LABEL, INDEX = OUTPUTS = ("probabilities", "label", "index")
MICROSECONDS = 1_000_000  # in a second
LENGTH_BYTES = 4  # before each element of a raw BYTES tensor, the lowest first
PLACES_TOLD = 10  # of images that cannot be used; more would be a page

# What may follow the number of images in a shape, by datatype; and how to say so.
SIDES: dict[str, tuple[list[int], ...]] = {
    "UINT8": ([SIDE, SIDE], [SIDE, SIDE, 1]),
    "BYTES": ([], [1]),
}
SHAPES = {"UINT8": f"[n, {SIDE}, {SIDE}] or [n, {SIDE}, {SIDE}, 1]", "BYTES": "[n] or [n, 1]"}

# Of an input: nested or flat, numbers or base64 as JSON has them, or files; or raw.
Values: TypeAlias = "Sequence[JsonValue | bytes] | memoryview"

# From an input and its parameters to its values.
ReadValues: TypeAlias = "Callable[[dict[str, JsonValue], dict[str, JsonValue]], Values]"


@dataclass(frozen=True)
class Tensor:
    """The input, of which all is known but its values.

    Attributes:
        datatype: `UINT8` for pixels, `BYTES` for pictures in files.
        shape: One of `SHAPES`; begins with the number of images.
        values: As they came.
    """

    datatype: str
    shape: list[int]
    values: Values


@dataclass(frozen=True)
class Wanted:
    """An output, as the request wants it.

    Attributes:
        name: One of `OUTPUTS`.
        binary: Whether it comes raw, behind the JSON.
        classes: How many of the most probable classes are told in its place, each as text; none if it comes as it is.
    """

    name: str
    binary: bool
    classes: int | None = None


@dataclass(frozen=True)
class Inference:
    """A request.

    Attributes:
        id: What the caller calls it, if anything.
        timeout_seconds: Within which the answer is wanted, if that is said.
        images: The one input.
        outputs: In the order of the answer.
    """

    id: str | None
    timeout_seconds: float | None
    images: Tensor
    outputs: list[Wanted]


def parse_inference(body: bytes, json_length: str | None) -> Inference:
    """What a body asks for.

    Args:
        body: JSON, and what follows it.
        json_length: Of the header `JSON_LENGTH`, if it came.

    Raises:
        InvalidRequest: If it is not what the protocol says, or not what these models take.
    """
    end = len(body) if json_length is None else _length(json_length, len(body))
    request = _object(items.parse_json(memoryview(body)[:end]), "an inference request")
    return read_inference(request, partial(_values, raw=memoryview(body)[end:]))


def read_inference(request: dict[str, JsonValue], read_values: ReadValues) -> Inference:
    """What a request asks for.

    Args:
        request: As JSON says it.
        read_values: Called with an input whose name, datatype and shape are those of images.

    Raises:
        InvalidRequest: If it is not what the protocol says, or not what these models take.
    """
    parameters = _parameters(request, "the request")
    return Inference(
        _id(request.get("id")),
        _timeout(parameters.get("timeout")),
        _images(request.get("inputs"), read_values),
        _outputs(
            request.get("outputs"), binary=_flag(parameters, "binary_data_output", default=False)
        ),
    )


async def read_images(
    tensor: Tensor, settings: Settings, preparation: inputs.Preparation
) -> UInt8Array:
    """The images of an input: uint8, shape `(n, 28, 28)`; pixels as they came, pictures prepared for the model.

    Raises:
        InvalidRequest: If the values do not fit the shape.
        LoupeError: If an image cannot be used; the message says which.
    """
    inputs.check_count(tensor.shape[0], settings)
    if tensor.datatype == "UINT8":
        return _pixels(tensor)
    batch = await inputs.decode_all(_files(tensor), settings, preparation)
    if batch.errors:
        first = min(batch.errors)
        raise batch.errors[first].at(_told(sorted(batch.errors)))
    return batch.images


def _length(text: str, body_bytes: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= body_bytes):
        raise InvalidRequest(
            f"{JSON_LENGTH} of 0 to {body_bytes:,}, the body's bytes", _shown(text)
        )
    return int(text)


def _object(value: JsonValue, what: str) -> dict[str, JsonValue]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"a JSON object as {what}", f"JSON of type {items.json_type(value)}")
    return value


def _list(value: JsonValue, what: str) -> list[JsonValue]:
    if not isinstance(value, list):
        raise InvalidRequest(f"a JSON array as {what}", f"JSON of type {items.json_type(value)}")
    return value


def _parameters(owner: dict[str, JsonValue], whose: str) -> dict[str, JsonValue]:
    """Parameters that nobody here knows are left alone, as the protocol has it, unless the answer would go astray."""
    given = owner.get("parameters")
    parameters = _object({} if given is None else given, f"parameters of {whose}")
    if "shared_memory_region" in parameters:
        raise InvalidRequest(
            f"no shared memory; send and receive {whose} in the body", "shared_memory_region"
        )
    return parameters


def _flag(parameters: dict[str, JsonValue], name: str, *, default: bool) -> bool:
    value = parameters.get(name)
    if value is None:
        return default
    if not isinstance(value, bool):
        raise InvalidRequest(f"true or false as {name}", _shown(value))
    return value


def _id(value: JsonValue) -> str | None:
    if value is not None and not isinstance(value, str):
        raise InvalidRequest("a string as id", _shown(value))
    return value


def _timeout(value: JsonValue) -> float | None:
    if value is None or (type(value) is int and value == 0):  # Triton's word for none
        return None
    if type(value) is not int or value < 0:
        raise InvalidRequest("a whole number of microseconds as timeout", _shown(value))
    return value / MICROSECONDS


def _images(value: JsonValue, read_values: ReadValues) -> Tensor:
    tensors = _list(value, "inputs")
    if len(tensors) != 1:
        raise InvalidRequest(f"one input, '{INPUT}'", f"{len(tensors):,}")
    tensor = _object(tensors[0], "an input")
    if tensor.get("name") != INPUT:
        raise InvalidRequest(f"one input, '{INPUT}'", f"one named {_shown(tensor.get('name'))}")
    datatype = tensor.get("datatype")
    if not isinstance(datatype, str) or datatype not in SHAPES:
        raise InvalidRequest(f"'{INPUT}' of datatype UINT8 or BYTES", _shown(datatype))
    shape = _shape(tensor.get("shape"), datatype)
    return Tensor(datatype, shape, read_values(tensor, _parameters(tensor, f"'{INPUT}'")))


def _shape(value: JsonValue, datatype: str) -> list[int]:
    sides = (
        [side for side in value if type(side) is int and side >= 0]
        if isinstance(value, list)
        else []
    )
    if not sides or sides != value or sides[1:] not in SIDES[datatype]:
        raise InvalidRequest(
            f"'{INPUT}' of datatype {datatype} in the shape {SHAPES[datatype]}", _shown(value)
        )
    return sides


def _values(
    tensor: dict[str, JsonValue], parameters: dict[str, JsonValue], raw: memoryview
) -> Values:
    size = parameters.get("binary_data_size")
    if size is None:
        if raw:
            raise InvalidRequest(
                f"binary_data_size of '{INPUT}' for the {len(raw):,} bytes behind the JSON", "none"
            )
        return _list(tensor.get("data"), f"data of '{INPUT}'")
    if "data" in tensor:
        raise InvalidRequest(f"'{INPUT}' with data or with binary_data_size", "both")
    if type(size) is not int or size != len(raw):
        raise InvalidRequest(
            f"as many bytes behind the JSON, which ends where {JSON_LENGTH} says, as binary_data_size has",
            f"{len(raw):,}, and binary_data_size {_shown(size)}",
        )
    return raw


def _outputs(value: JsonValue, *, binary: bool) -> list[Wanted]:
    if not value and (value is None or isinstance(value, list)):
        return [Wanted(name, binary) for name in OUTPUTS]
    wanted = [
        _output(_object(output, "an output"), binary=binary) for output in _list(value, "outputs")
    ]
    if len({output.name for output in wanted}) < len(wanted):
        raise InvalidRequest("each output once", "one of them more often")
    return wanted


def _output(output: dict[str, JsonValue], *, binary: bool) -> Wanted:
    name = output.get("name")
    if not isinstance(name, str) or name not in OUTPUTS:
        raise InvalidRequest(f"outputs among {', '.join(OUTPUTS)}", _shown(name))
    parameters = _parameters(output, f"'{name}'")
    classes = parameters.get("classification")
    if classes is not None and name != PROBABILITIES:
        raise InvalidRequest(f"classification of '{PROBABILITIES}'", f"of '{name}'")
    if classes is not None and (type(classes) is not int or classes < 1):
        raise InvalidRequest("a number of classes, at least 1, as classification", _shown(classes))
    return Wanted(name, _flag(parameters, "binary_data", default=binary), classes)


def _pixels(tensor: Tensor) -> UInt8Array:
    values = (
        tensor.values
        if isinstance(tensor.values, memoryview)
        else _flat(tensor.values, tensor.shape)
    )
    size = tensor.shape[0] * SIDE * SIDE
    if len(values) != size:
        raise InvalidRequest(f"{size:,} values for the shape {tensor.shape}", f"{len(values):,}")
    pixels = (
        np.frombuffer(values, np.uint8) if isinstance(values, memoryview) else _from_numbers(values)
    )
    return pixels.reshape(-1, SIDE, SIDE)


def _from_numbers(values: Sequence[JsonValue | bytes]) -> UInt8Array:
    with suppress(TypeError, ValueError):  # what is no integer, and integers that are no bytes
        pixels = np.frombuffer(bytes(values), np.uint8)  # type: ignore[arg-type]  # NumPy would ask each for its type
        # Truth values pass for 0 and 1; a mask made of them would be an image almost without ink.
        if pixels.max() > 1 or not any(isinstance(value, bool) for value in values):
            return pixels
    wrong = (
        place
        for place, value in enumerate(values)
        if type(value) is not int or not 0 <= value <= 255
    )
    place = next(wrong)
    raise InvalidPixels(f"Expected integers from 0 to 255. Received: {_shown(values[place])}.").at(
        _told([place // SIDE**2])
    )


def _files(tensor: Tensor) -> list[items.Item]:
    count = tensor.shape[0]
    if isinstance(tensor.values, memoryview):
        return _split(tensor.values, count)
    values = _flat(tensor.values, tensor.shape)
    if len(values) != count:
        raise InvalidRequest(f"{count:,} values for the shape {tensor.shape}", f"{len(values):,}")
    return [_file(value) for value in values]


def _file(value: JsonValue | bytes) -> items.Item:
    try:
        return value if isinstance(value, bytes) else items.from_base64(value)
    except LoupeError as error:
        return error


def _split(raw: memoryview, count: int) -> list[items.Item]:
    """The elements of a raw BYTES tensor: the length of each stands before it."""
    elements: list[items.Item] = []
    start = 0
    for place in range(count):
        begin = start + LENGTH_BYTES
        start = begin + int.from_bytes(raw[start:begin], "little")
        if start > len(raw):
            raise InvalidRequest(
                f"{count:,} elements in '{INPUT}', each with its length before it",
                f"{len(raw):,} bytes, which end in element {place}",
            )
        elements.append(bytes(raw[begin:start]))
    if start < len(raw):
        raise InvalidRequest(
            f"{count:,} elements in '{INPUT}'", f"{len(raw) - start:,} bytes more than they have"
        )
    return elements


def _flat(values: Sequence[JsonValue | bytes], shape: list[int]) -> Sequence[JsonValue | bytes]:
    """The values row by row, whether they came so or nested as the shape is."""
    if not values or not isinstance(values[0], list):
        return values
    parts: Sequence[Sequence[JsonValue | bytes]] = [values]
    for side in shape:
        if any(not isinstance(part, list) or len(part) != side for part in parts):
            raise InvalidRequest(f"values flat or nested as the shape {shape}", "nested otherwise")
        parts = list(chain.from_iterable(parts))  # type: ignore[arg-type]
    return parts  # type: ignore[return-value]


def _told(places: list[int]) -> str:
    if len(places) == 1:
        return f"Image {places[0]}"
    more = " …" if len(places) > PLACES_TOLD else ""
    return f"Images {', '.join(map(str, places[:PLACES_TOLD]))}{more} cannot be used. Image {places[0]}"


def _shown(value: JsonValue | bytes) -> str:
    """A value, however long or deep, on one line."""
    return "nothing" if value is None else reprlib.repr(value)
