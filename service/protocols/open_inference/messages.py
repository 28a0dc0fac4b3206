"""Messages of the Open Inference Protocol over gRPC; their tensors are raw in the answers."""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue
from tritonclient.grpc import service_pb2 as pb

from loupe.errors import ContentTooLarge, InvalidRequest
from loupe.models.engines.engine import Outputs
from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.http.validation import validate
from service.protocols.open_inference.replies import compute
from service.protocols.open_inference.requests import INPUT, InferenceRequest, Values

# Numbers of fields in the protocol.
INPUTS, RAW_CONTENTS = 5, 7  # of ModelInferRequest
TENSOR_CONTENTS = 5  # of InferInputTensor
BYTES_CONTENTS = 8  # of InferTensorContents

MAX_UNCHECKED_BYTES = 64 * 1024  # of a message that is parsed in milliseconds
MAX_FIELDS = 1000  # of a message, besides files
MAX_OTHER_BYTES = 256 * 1024  # of a message besides images; each field needs two
MAX_FILE_HEAD_BYTES = 6  # number and length before a file
MAX_VARINT_BYTES = 10
MAX_PACKED_BYTES = 8 * 2**20  # of `uint_contents`, whose values are read one by one

CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}  # field of values, by datatype


def check_message(data: bytes, settings: Settings) -> None:
    """Refuse a message that would take too much time and memory, before it is parsed.

    Raises:
        ContentTooLarge: If it has too many fields or values.
        InvalidRequest: If it is damaged.
    """
    if len(data) <= MAX_UNCHECKED_BYTES:
        return
    images = settings.max_images
    raw_bytes = file_bytes = packed_bytes = 0
    for number, start, stop in _fields(data, 0, len(data), MAX_FIELDS):
        if number == RAW_CONTENTS:
            raw_bytes += stop - start
        elif number == INPUTS:
            for inner, inner_start, inner_stop in _fields(data, start, stop, MAX_FIELDS):
                if inner == TENSOR_CONTENTS:
                    for kind, first, last in _fields(
                        data, inner_start, inner_stop, MAX_FIELDS + images
                    ):
                        file_bytes += last - first if kind == BYTES_CONTENTS else 0
                        packed_bytes += 0 if kind == BYTES_CONTENTS else last - first
    other_bytes = len(data) - raw_bytes - file_bytes - packed_bytes - images * MAX_FILE_HEAD_BYTES
    if packed_bytes > MAX_PACKED_BYTES or other_bytes > MAX_OTHER_BYTES:
        raise ContentTooLarge("The message has too many values besides images.")


def _fields(data: bytes, start: int, end: int, limit: int) -> Iterator[tuple[int, int, int]]:
    """Yield number, start and end of each field of a message.

    Source: https://protobuf.dev/programming-guides/encoding/
    """
    for _ in range(limit):
        if start == end:
            return
        tag, start = _varint(data, start)
        if tag & 7 == 2:
            size, start = _varint(data, start)
            stop = start + size
        elif tag & 7 == 0:
            stop = _varint(data, start)[1]
        else:
            stop = start + {1: 8, 5: 4}.get(tag & 7, len(data))  # groups are not in use
        if stop > end:
            raise InvalidRequest("The message is damaged: a field is longer than the message.")
        yield tag >> 3, start, stop
        start = stop
    raise ContentTooLarge(f"The message has more than {limit:,} fields or images.")


def _varint(data: bytes, start: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it."""
    value = 0
    for index, byte in enumerate(data[start : start + MAX_VARINT_BYTES]):
        value |= (byte & 127) << 7 * index
        if byte < 128:
            return value, start + index + 1
    raise InvalidRequest("The message is damaged: a number has no end.")


def parse_message(message: pb.ModelInferRequest) -> tuple[InferenceRequest, Values]:
    """Return the request in a message, and the values of its input."""
    content: JsonValue = {
        "id": message.id or None,
        "parameters": _parameters(message.parameters),
        "inputs": [
            {**_named(tensor), "datatype": tensor.datatype, "shape": list(tensor.shape)}
            for tensor in message.inputs
        ],
        "outputs": [_named(output) for output in message.outputs],
    }
    request = validate(InferenceRequest, content)
    return request, _values(message, CONTENTS[request.inputs[0].datatype])


def answer(
    model: StoredModel,
    request: InferenceRequest,
    computed: Outputs,
    blank: NDArray[np.bool_],
) -> pb.ModelInferResponse:
    """Return the answer with raw tensors; see `compute`."""
    outputs = request.requested_outputs(familiarity=computed.known)
    tensors = [compute(output, model.card.class_names, computed, blank) for output in outputs]
    return pb.ModelInferResponse(
        model_name=model.name,
        model_version=model.version,
        id=request.id,
        outputs=[
            {"name": output.name, "datatype": tensor.datatype, "shape": tensor.shape}
            for output, tensor in zip(outputs, tensors, strict=True)
        ],
        raw_output_contents=[tensor.raw() for tensor in tensors],
    )


def _named(
    tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor,
) -> dict[str, JsonValue]:
    return {"name": tensor.name, "parameters": _parameters(tensor.parameters)}


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, JsonValue]:
    chosen = {name: each.WhichOneof("parameter_choice") for name, each in parameters.items()}
    return {name: field and getattr(parameters[name], field) for name, field in chosen.items()}


def _values(message: pb.ModelInferRequest, field: str) -> Values:
    contents, raw = message.inputs[0].contents, message.raw_input_contents
    given = [descriptor.name for descriptor, _ in contents.ListFields()]
    if raw and given:
        raise InvalidRequest(f"'{INPUT}' must be in raw_input_contents or in {field}, not in both.")
    if len(raw) > 1:
        raise InvalidRequest(f"raw_input_contents must have one element, got {len(raw):,}.")
    if raw:
        return memoryview(raw[0])
    if any(name != field for name in given):
        raise InvalidRequest(f"'{INPUT}' must be in {field}, not in {', '.join(given)}.")
    values: Values = getattr(contents, field)
    return values
