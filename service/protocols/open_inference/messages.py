"""Messages of the Open Inference Protocol over gRPC: requests, read as JSON would say them, and answers, whose tensors are raw."""

from collections.abc import Mapping

from pydantic import JsonValue
from tritonclient.grpc import service_pb2 as pb

from loupe.images.spec import Float32Array
from loupe.models.store import StoredModel
from loupe.old_errors.service import InvalidRequest
from service.protocols.open_inference.replies import compute
from service.protocols.open_inference.requests import INPUT, Inference, Values, read_inference

CONTENTS = {
    "UINT8": "uint_contents",
    "BYTES": "bytes_contents",
}  # where values stand that are not raw, by datatype


def parse_inference(request: pb.ModelInferRequest) -> Inference:
    """What a request asks for.

    Raises:
        InvalidRequest: If it is not what the protocol says, or not what these models take.
    """
    said: dict[str, JsonValue] = {
        "id": request.id or None,
        "parameters": _parameters(request.parameters),
        "inputs": [
            {**_named(tensor), "datatype": tensor.datatype, "shape": list(tensor.shape)}
            for tensor in request.inputs
        ],
        "outputs": [_named(output) for output in request.outputs],
    }
    return read_inference(said, lambda *_: _values(request))


def answer(
    model: StoredModel, inference: Inference, probabilities: Float32Array
) -> pb.ModelInferResponse:
    """The answer to a request, its tensors raw; `probabilities` is float32 of shape `(n, classes)`."""
    outputs = [
        compute(wanted, model.card.class_names, probabilities) for wanted in inference.outputs
    ]
    return pb.ModelInferResponse(
        model_name=model.name,
        model_version=model.version,
        id=inference.id,
        outputs=[
            {"name": wanted.name, "datatype": output.datatype, "shape": output.shape}
            for wanted, output in zip(inference.outputs, outputs, strict=True)
        ],
        raw_output_contents=[output.raw() for output in outputs],
    )


def _named(
    tensor: pb.ModelInferRequest.InferInputTensor | pb.ModelInferRequest.InferRequestedOutputTensor,
) -> dict[str, JsonValue]:
    return {"name": tensor.name, "parameters": _parameters(tensor.parameters)}


def _parameters(parameters: Mapping[str, pb.InferParameter]) -> dict[str, JsonValue]:
    return {name: _parameter(parameter) for name, parameter in parameters.items()}


def _parameter(parameter: pb.InferParameter) -> JsonValue:
    kind = parameter.WhichOneof("parameter_choice")
    value: JsonValue = None if kind is None else getattr(parameter, kind)
    return value


def _values(request: pb.ModelInferRequest) -> Values:
    """Those of the one input."""
    (tensor,) = request.inputs
    field, raw = CONTENTS[tensor.datatype], request.raw_input_contents
    given = [descriptor.name for descriptor, _ in tensor.contents.ListFields()]
    if raw and given:
        raise InvalidRequest(f"'{INPUT}' in raw_input_contents or in {field}", "both")
    if len(raw) > 1:
        raise InvalidRequest(f"one element of raw_input_contents, '{INPUT}'", f"{len(raw):,}")
    if raw:
        return memoryview(raw[0])
    if any(name != field for name in given):
        raise InvalidRequest(
            f"'{INPUT}' of datatype {tensor.datatype} in {field}", f"{', '.join(given)}"
        )
    values: Values = getattr(tensor.contents, field)
    return values
