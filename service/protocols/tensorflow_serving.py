"""TensorFlow Serving's REST API and KServe's V1 protocol, for their existing clients.

Source: tensorflow/serving, g3doc/api_rest.md, and util/json_tensor.cc for malformed requests. Its
versions are integers, ours are strings. As there, one image that cannot be read fails its request.
KServe's protocol has the same predictions, and adds `ready` and a list of models.
"""

from functools import partial
from typing import Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    JsonValue,
    SkipValidation,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.responses import Response

from loupe.errors import InvalidRequest, ModelNotFound
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.settings import Settings
from service.http import replies
from service.http.validation import parse_json, shown, validate
from service.prediction.decoding import EncodedImage, Preparation, decode_all
from service.prediction.encodings import forms, from_base64, from_numbers
from service.prediction.predictor import Call, route

PROTOCOL = "tensorflow-serving"  # label in the metrics
INPUT, OUTPUT = "images", "probabilities"  # names of the tensors
SIGNATURE = "serving_default"
METHOD = "tensorflow/serving/predict"  # TensorFlow's name for signatures that `:predict` runs


class ServingRequest(BaseModel):
    """The body of `:predict`, with images in rows (`instances`) or as a column (`inputs`).

    TensorFlow Serving ignores unknown fields, and takes an empty signature name for the default.
    """

    model_config = ConfigDict(strict=True)

    signature_name: Literal["serving_default", ""] = ""
    instances: list[SkipValidation[JsonValue]] = []
    inputs: list[SkipValidation[JsonValue]] = []

    @field_validator("inputs", mode="before")
    @classmethod
    def _unwrap(cls, value: JsonValue) -> JsonValue:
        """Take the column out of `{"images": […]}`."""
        return value[INPUT] if isinstance(value, dict) and value.keys() == {INPUT} else value

    @model_validator(mode="after")
    def _has_one(self) -> "ServingRequest":
        if len({"instances", "inputs"} & self.model_fields_set) != 1:
            raise PydanticCustomError(
                "one_form", "Input should have either 'instances' or 'inputs', a list of images"
            )
        return self

    @property
    def form(self) -> Literal["instances", "inputs"]:
        """The field that holds the images."""
        return "instances" if "instances" in self.model_fields_set else "inputs"

    def take_images(self) -> list[JsonValue]:
        """Take the images out of the request."""
        images: list[JsonValue] = getattr(self, self.form)
        setattr(self, self.form, [])
        return images


async def predict(call: Call) -> Response:
    """Answer with rows of probabilities, in the order of the images."""
    caller = call.caller()
    with call.model(_tag(call)) as served:
        with call.decoding():
            body = await call.bodies.read(call.request, "JSON")
            request = validate(ServingRequest, await parse_json(body, call.settings))
            del body
            images = await _read_images(request, call.settings, call.preparation(served, caller))
        outputs = await call.predict(images, served, caller)
        with call.encoding():
            name = "predictions" if request.form == "instances" else "outputs"
            return replies.json({name: outputs.probabilities})


async def models(call: Call) -> Response:
    """List the names of the served models, as KServe does."""
    with call.encoding():
        names = dict.fromkeys(model.stored.name for model in call.models.all())
        return replies.json({"models": list(names)})


async def status(call: Call) -> Response:
    """Return the status of the named version, or of all served versions of the model."""
    tag = _tag(call)
    with call.encoding():
        served = call.models.versions(tag)
        call.model_name = served[0].stored.name
        available = {"state": "AVAILABLE", "status": {"error_code": "OK", "error_message": ""}}
        versions = [{"version": model.stored.version, **available} for model in served]
        # KServe's clients read `ready`, TensorFlow Serving's read the status.
        return replies.json(
            {"name": call.model_name, "ready": True, "model_version_status": versions}
        )


async def metadata(call: Call) -> Response:
    """Describe inputs and outputs as the signature of a SavedModel."""
    with call.model(_tag(call)) as served, call.encoding():
        stored = served.stored
        columns = len(stored.card.class_names)
        signature = {
            "inputs": {INPUT: _tensor_info(INPUT, "DT_UINT8", (-1, *stored.card.input.shape))},
            "outputs": {OUTPUT: _tensor_info(OUTPUT, "DT_FLOAT", (-1, columns))},
            "method_name": METHOD,
        }
        model = {"name": stored.name, "signature_name": "", "version": stored.version}
        signatures = {"signature_def": {"signature_def": {SIGNATURE: signature}}}
        return replies.json({"model_spec": model, "metadata": signatures})


class _Name(StringConvertor):
    """A part of a path up to a colon; the action follows the colon."""

    regex = "[^/:]+"


register_url_convertor("name", _Name())
MODEL = "/v1/models/{model:name}"

ROUTES = [
    route("GET", "/v1/models", PROTOCOL, models),
    *(
        route(method, path + end, PROTOCOL, handler, "predict" if handler is predict else None)
        for path in (MODEL, MODEL + "/versions/{version:name}", MODEL + "/labels/{label:name}")
        for method, end, handler in (
            ("POST", ":predict", predict),
            ("GET", "", status),
            ("GET", "/metadata", metadata),
        )
    ),
]


def _tag(call: Call) -> str:
    """Return the tag in the path; a label is not a version, and a version is not a label."""
    path = call.request.path_params
    version, label = path.get("version"), path.get("label")
    if version is None and label is None:
        return str(path["model"])
    tag = f"{path['model']}:{version or label}"
    if (call.models.find(tag).stored.tag == tag) != (version is not None):
        kind = "version" if label is None else "label"
        raise ModelNotFound(
            f"Model '{path['model']}' has no {kind} '{version or label}'. "
            f"Served: {', '.join(call.models.tags())}."
        )
    return tag


async def _read_images(
    request: ServingRequest, settings: Settings, preparation: Preparation
) -> UInt8Array:
    """Return the images, uint8 `(n, *spec.shape)`, or raise the error of the first that fails."""
    read = partial(_read_image, spec=preparation.spec)
    decoded = await decode_all(request.take_images(), read, settings, preparation)
    if decoded.errors:
        index = min(decoded.errors)
        raise decoded.errors[index].at(f"{request.form}[{index}]")
    return decoded.images


def _read_image(value: JsonValue, spec: ImageSpec) -> EncodedImage:
    """Read nested lists or `{"b64": …}`, with or without the tensor's name around it."""
    if isinstance(value, dict) and value.keys() == {INPUT}:
        value = value[INPUT]
    if isinstance(value, list):
        return from_numbers(value, spec)
    if isinstance(value, dict) and value.keys() == {"b64"}:
        return from_base64(value["b64"])
    raise InvalidRequest(
        f'An image must be {forms(spec)}, {{"b64": "<base64 of a picture>"}}, or either as '
        f'{{"{INPUT}": …}}, got {shown(value)}.'
    )


def _tensor_info(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, object]:
    """Return a `TensorInfo` in JSON, which has 64-bit integers as strings; -1 is any length."""
    dimensions = [{"size": str(side), "name": ""} for side in shape]
    return {
        "dtype": dtype,
        "tensor_shape": {"dim": dimensions, "unknown_rank": False},
        "name": name,
    }
