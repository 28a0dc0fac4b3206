"""TensorFlow Serving's REST API, so that its clients can stay as they are.

Source: tensorflow/serving, g3doc/api_rest.md, and util/json_tensor.cc for what it says of requests that are none. Its versions are
integers, ours are texts. One image that cannot be read fails its whole request there, and so it does here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from pydantic import JsonValue
from starlette.convertors import Convertor, register_url_convertor
from starlette.responses import Response

from loupe.errors import LoupeError
from loupe.images.spec import SIDE, UInt8Array
from loupe.old_errors.core import ModelNotFound
from loupe.old_errors.service import InvalidRequest
from loupe.settings import Settings
from service.http import replies
from service.prediction import inputs, items
from service.prediction.predictor import Call, route

PROTOCOL = "tensorflow-serving"  # in the metrics
INPUT, OUTPUT = "images", "probabilities"  # names of the tensors
SIGNATURE = "serving_default"
METHOD = (
    "tensorflow/serving/predict"  # what TensorFlow Serving calls a signature that `:predict` takes
)
ONE_BODY = (
    'a JSON object with either "instances": [one image, …] or "inputs": [one image, …], '
    f'and "signature_name": "{SIGNATURE}" or none'
)
ONE_INSTANCE = f'{SIDE} rows of {SIDE} integers, {{"b64": "<base64 of a picture>"}}, or either as {{"{INPUT}": …}} for an image'
MAX_KEYS = 5  # of an object, that an error names
MAX_NAMED = 40  # characters of a key or name that an error repeats


@dataclass(frozen=True)
class _Tensor:
    """The images of a request, as they came.

    Attributes:
        place: Where in the request they stand, for errors.
        rows: One image each.
        answer: Where in the answer their probabilities stand.
    """

    place: str
    rows: Sequence[JsonValue]
    answer: Literal["predictions", "outputs"]


async def predict(call: Call) -> Response:
    """Answer with rows of probabilities, in the order of the images."""
    caller = call.caller()
    with call.model(_tag(call)) as served:
        with call.decoding():
            body = await call.bodies.read(call.request, "JSON")
            tensor = _read_tensor(items.parse_json(body))
            images = await _read_images(tensor, call.settings, call.preparation(served, caller))
        probabilities = await call.predict(images, served, caller)
        with call.encoding():
            return replies.json({tensor.answer: probabilities})


async def status(call: Call) -> Response:
    """The versions that are served: one, or where none is named all there are of the name."""
    tag = _tag(call)
    with call.encoding():
        served = [model for model in call.models.all() if model.stored.name == tag] or [
            call.models.find(tag)
        ]
        call.model_name = served[0].stored.name
        return replies.json(
            {"model_version_status": [_available(model.stored.version) for model in served]}
        )


async def metadata(call: Call) -> Response:
    """What goes into a model and what comes out, as a signature of a SavedModel says it."""
    with call.model(_tag(call)) as served, call.encoding():
        stored = served.stored
        signature = {
            "inputs": {INPUT: _tensor_info(INPUT, "DT_UINT8", (-1, SIDE, SIDE))},
            "outputs": {
                OUTPUT: _tensor_info(OUTPUT, "DT_FLOAT", (-1, len(stored.card.class_names)))
            },
            "method_name": METHOD,
        }
        return replies.json(
            {
                "model_spec": {
                    "name": stored.name,
                    "signature_name": "",
                    "version": stored.version,
                },
                "metadata": {"signature_def": {"signature_def": {SIGNATURE: signature}}},
            }
        )


class _Name(Convertor[str]):
    """A part of a path up to the colon, behind which stands what to do."""

    regex = "[^/:]+"

    def convert(self, value: str) -> str:
        return value

    def to_string(self, value: str) -> str:
        return value


register_url_convertor("name", _Name())
MODEL = "/v1/models/{model:name}"

ROUTES = [
    route(method, path + end, PROTOCOL, handler)
    for path in (MODEL, MODEL + "/versions/{version:name}", MODEL + "/labels/{label:name}")
    for method, end, handler in (
        ("POST", ":predict", predict),
        ("GET", "", status),
        ("GET", "/metadata", metadata),
    )
]


def _tag(call: Call) -> str:
    """What the path calls a model, as Loupe says it.

    Raises:
        ModelNotFound: If the path has a label where a version should be, or a version where a label should be.
    """
    path = call.request.path_params
    version, label = path.get("version"), path.get("label")
    if version is None and label is None:
        return str(path["model"])
    tag = f"{path['model']}:{version or label}"
    if (call.models.find(tag).stored.tag == tag) != (version is not None):
        raise ModelNotFound(tag, call.models.tags())
    return tag


def _read_tensor(body: JsonValue) -> _Tensor:
    """The images of a request, row by row or as a column.

    Raises:
        InvalidRequest: If they have not one of these forms.
    """
    if not isinstance(body, dict):
        raise InvalidRequest(ONE_BODY, f"JSON of type {items.json_type(body)}")
    if ("instances" in body) == ("inputs" in body):
        raise InvalidRequest(ONE_BODY, "both" if "inputs" in body else _keys(body))
    signature = body.get("signature_name", SIGNATURE)
    if not isinstance(signature, str):
        raise InvalidRequest(f'"{SIGNATURE}" as signature_name', items.json_type(signature))
    if signature not in (SIGNATURE, ""):  # an empty one is none, as in TensorFlow Serving
        raise InvalidRequest(f'"{SIGNATURE}" as signature_name', repr(signature[:MAX_NAMED]))
    if "instances" in body:
        return _Tensor("instances", _listed("instances", body["instances"]), "predictions")
    column = body["inputs"]
    if isinstance(column, dict) and column.keys() == {INPUT}:
        return _Tensor(f"inputs.{INPUT}", _listed(f"inputs.{INPUT}", column[INPUT]), "outputs")
    return _Tensor("inputs", _listed("inputs", column), "outputs")


def _listed(place: str, value: JsonValue) -> list[JsonValue]:
    if not isinstance(value, list):
        received = _keys(value) if isinstance(value, dict) else items.json_type(value)
        raise InvalidRequest(f"a list of images as {place}", received)
    return value


async def _read_images(
    tensor: _Tensor, settings: Settings, preparation: inputs.Preparation
) -> UInt8Array:
    """The images, uint8 `(n, 28, 28)`, in their order.

    Raises:
        LoupeError: What is wrong with the first that cannot be read, and which that is.
    """
    inputs.check_count(len(tensor.rows), settings)
    batch = await inputs.decode_all(map(_read_row, tensor.rows), settings, preparation)
    if batch.errors:
        place = min(batch.errors)
        raise batch.errors[place].at(f"{tensor.place}[{place}]")
    return batch.images


def _read_row(row: JsonValue) -> items.Item:
    """One image: an array, an encoded picture, or either under the tensor's name."""
    if isinstance(row, dict) and row.keys() == {INPUT}:
        row = row[INPUT]
    try:
        if isinstance(row, list):
            return items.from_pixels(row)
        if isinstance(row, dict) and row.keys() == {"b64"}:
            return items.from_base64(row["b64"])
    except LoupeError as error:
        return error
    return InvalidRequest(
        ONE_INSTANCE, _keys(row) if isinstance(row, dict) else items.json_type(row)
    )


def _keys(value: dict[str, JsonValue]) -> str:
    """The first few keys of an object, for an error that does not repeat the whole request."""
    if not value:
        return "an empty object"
    named = ", ".join(repr(key[:MAX_NAMED]) for key in islice(value, MAX_KEYS))
    return f"an object with the keys {named}{', …' if len(value) > MAX_KEYS else ''}"


def _available(version: str) -> dict[str, object]:
    return {
        "version": version,
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }


def _tensor_info(name: str, dtype: str, shape: tuple[int, ...]) -> dict[str, object]:
    """A `TensorInfo` in JSON, where 64-bit integers are texts; -1 is a side of any length."""
    dimensions = [{"size": str(side), "name": ""} for side in shape]
    return {
        "dtype": dtype,
        "tensor_shape": {"dim": dimensions, "unknown_rank": False},
        "name": name,
    }
