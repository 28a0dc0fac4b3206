"""Requests of the Open Inference Protocol; those over gRPC use the same models.

Arrays stay outside the models: `service.protocols.open_inference.tensors` reads them.
"""

from collections.abc import Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    SkipValidation,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from loupe.errors import InvalidRequest
from loupe.models.answers import familiarity_unknown
from loupe.settings import Settings
from service.http.validation import parse_json, shown, validate

JSON_LENGTH = "Inference-Header-Content-Length"  # bytes of JSON; raw tensors follow
INPUT = "images"
PROBABILITIES: Literal["probabilities"] = "probabilities"
LABEL: Literal["label"] = "label"
INDEX: Literal["index"] = "index"
FAMILIARITY: Literal["familiarity"] = "familiarity"
MAX_ID = 1024  # characters; answers repeat it
MICROSECONDS = 1_000_000  # in a second

# Values of an input: numbers or base64 texts, flat or nested; files; or raw bytes.
Values: TypeAlias = "Sequence[JsonValue | bytes] | memoryview"

# Serializers write `null` for parameters that are not set.
NULL_IS_EMPTY = BeforeValidator(lambda value: {} if value is None else value)


class _Parameters(BaseModel):
    """Parameters; unknown ones are ignored, as the protocol demands."""

    model_config = ConfigDict(strict=True)

    shared_memory_region: SkipValidation[JsonValue] = None

    @field_validator("shared_memory_region")
    @classmethod
    def _refuse(cls, value: JsonValue) -> JsonValue:
        raise PydanticCustomError(
            "shared_memory", "Shared memory is not supported; send and receive tensors in the body"
        )


class RequestParameters(_Parameters):
    """Parameters of a request."""

    timeout: int | None = Field(default=None, ge=0)  # microseconds; Triton sends 0 for none
    binary_data_output: bool | None = None


class InputParameters(_Parameters):
    """Parameters of the input."""

    binary_data_size: int | None = None


class OutputParameters(_Parameters):
    """Parameters of an output."""

    binary_data: bool | None = None
    classification: int | None = Field(default=None, ge=1)


class InputTensor(BaseModel):
    """The input: pixels (`UINT8`) or picture files (`BYTES`)."""

    model_config = ConfigDict(strict=True)

    name: Literal["images"]
    datatype: Literal["UINT8", "BYTES"]
    shape: list[Annotated[int, Field(ge=0)]] = Field(min_length=1, max_length=4)
    parameters: Annotated[InputParameters, NULL_IS_EMPTY] = InputParameters()
    data: SkipValidation[JsonValue] = None


class RequestedOutput(BaseModel):
    """An output that the answer should have."""

    model_config = ConfigDict(strict=True)

    name: Literal["probabilities", "label", "index", "familiarity"]
    parameters: Annotated[OutputParameters, NULL_IS_EMPTY] = OutputParameters()

    @model_validator(mode="after")
    def _classifies_probabilities(self) -> "RequestedOutput":
        if self.parameters.classification is not None and self.name != PROBABILITIES:
            raise PydanticCustomError(
                "classification", "Only 'probabilities' can be asked for as a classification"
            )
        return self


ALL_OUTPUTS = [RequestedOutput(name=name) for name in (PROBABILITIES, LABEL, INDEX, FAMILIARITY)]


class InferenceRequest(BaseModel):
    """A request; its values are read apart from it."""

    model_config = ConfigDict(strict=True)

    id: str | None = Field(default=None, max_length=MAX_ID)
    parameters: Annotated[RequestParameters, NULL_IS_EMPTY] = RequestParameters()
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] | None = Field(default=None, max_length=len(ALL_OUTPUTS))

    @field_validator("outputs")
    @classmethod
    def _are_different(cls, outputs: list[RequestedOutput] | None) -> list[RequestedOutput] | None:
        if len({output.name for output in outputs or ()}) < len(outputs or ()):
            raise PydanticCustomError("twice", "An output is requested twice")
        return outputs

    def requested_outputs(self, *, familiarity: bool = True) -> list[RequestedOutput]:
        """Return the outputs in the order of the answer; all of them if the request names none.

        Args:
            familiarity: Whether the model knows it.

        Raises:
            InvalidRequest: If the request names it, and the model does not know it.
        """
        if familiarity:
            return self.outputs or ALL_OUTPUTS
        if any(output.name == FAMILIARITY for output in self.outputs or ()):
            raise familiarity_unknown()
        return self.outputs or [output for output in ALL_OUTPUTS if output.name != FAMILIARITY]

    @property
    def timeout_seconds(self) -> float | None:
        """The time that the answer may take."""
        timeout = self.parameters.timeout
        return timeout / MICROSECONDS if timeout else None

    def is_binary(self, output: RequestedOutput) -> bool:
        """Return whether an output is sent raw, after the JSON."""
        own = output.parameters.binary_data
        return bool(self.parameters.binary_data_output if own is None else own)


async def parse_inference(
    body: bytes, json_length: str | None, settings: Settings
) -> tuple[InferenceRequest, Values]:
    """Return the request in a body, and separately the values of its input.

    Args:
        body: JSON, and raw tensors after it.
        json_length: The header `JSON_LENGTH`, if there is one.
        settings: Limits.
    """
    end = len(body) if json_length is None else _length(json_length, len(body))
    request = validate(InferenceRequest, await parse_json(body[:end], settings))
    return request, _values(request.inputs[0], memoryview(body)[end:])


def _length(text: str, body_bytes: int) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= body_bytes):
        raise InvalidRequest(
            f"{JSON_LENGTH} must be 0 to {body_bytes:,}, the length of the body, got {shown(text)}."
        )
    return int(text)


def _values(tensor: InputTensor, raw: memoryview) -> Values:
    size = tensor.parameters.binary_data_size
    if size is not None and tensor.data is not None:
        raise InvalidRequest(f"'{INPUT}' must have either data or binary_data_size, not both.")
    if (size or 0) != len(raw):
        raise InvalidRequest(
            f"'{INPUT}' has binary_data_size {size}, but {len(raw):,} bytes follow the JSON, "
            f"which ends where {JSON_LENGTH} says."
        )
    if size is not None:
        return raw
    values, tensor.data = tensor.data, None
    if not isinstance(values, list):
        raise InvalidRequest(f"data of '{INPUT}' must be an array, got {shown(values)}.")
    return values
