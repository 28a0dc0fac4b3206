"""From probabilities and errors to HTTP responses: the only module that writes bodies."""

from collections.abc import Mapping, Sequence

import orjson
from starlette.responses import Response

from loupe.errors import LoupeError, Overloaded, ShuttingDown
from loupe.images import Float32Array
from service.inputs import Batch

RETRY_AFTER_SECONDS = "1"  # a full queue empties in less


def prediction(model: str, class_names: Sequence[str], probabilities: Float32Array) -> Response:
    """The answer to one image; `probabilities` is float32 of shape `(classes,)`."""
    return _json({"model": model, **_best(class_names, probabilities)})


def predictions(model: str, class_names: Sequence[str], batch: Batch, probabilities: Float32Array) -> Response:
    """The answers to a batch, in the order of the request; `probabilities` is float32 of shape `(readable images, classes)`."""
    rows = iter(probabilities)
    answers = [
        batch.errors[place].to_json() if place in batch.errors else _best(class_names, next(rows))
        for place in range(len(batch))
    ]
    return _json({"model": model, "predictions": answers})


def failure(error: LoupeError) -> Response:
    """The answer to a request that cannot be served."""
    headers = {"Retry-After": RETRY_AFTER_SECONDS} if isinstance(error, (Overloaded, ShuttingDown)) else None
    return _json(error.to_json(), error.status, headers)


def _best(class_names: Sequence[str], probabilities: Float32Array) -> dict[str, object]:
    index = int(probabilities.argmax())
    return {
        "label": class_names[index],
        "index": index,
        "confidence": probabilities[index],
        "probabilities": dict(zip(class_names, probabilities, strict=True)),
    }


def _json(content: Mapping[str, object], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")
