"""Messages of the Open Inference Protocol over gRPC; their tensors are raw in the answers."""

from collections.abc import Mapping

from pydantic import JsonValue
from tritonclient.grpc import service_pb2 as pb

from loupe.errors import InvalidRequest
from loupe.images.spec import Float32Array
from loupe.models.store import StoredModel
from service.http.validation import validate
from service.protocols.open_inference.replies import compute
from service.protocols.open_inference.requests import INPUT, InferenceRequest, Values

CONTENTS = {"UINT8": "uint_contents", "BYTES": "bytes_contents"}  # field of values, by datatype


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
    model: StoredModel, request: InferenceRequest, probabilities: Float32Array
) -> pb.ModelInferResponse:
    """Return the answer with raw tensors; `probabilities` is float32 `(n, classes)`."""
    outputs = request.requested_outputs
    tensors = [compute(output, model.card.class_names, probabilities) for output in outputs]
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
