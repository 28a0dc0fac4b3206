"""From probabilities and errors to HTTP responses: the only module that writes the bodies of Loupe's own API."""

import io
from collections.abc import Mapping, Sequence

import numpy as np
import orjson
from starlette.responses import Response

from loupe.errors import LoupeError
from loupe.images.spec import Float32Array
from loupe.old_errors.service import (
    MethodNotAllowed,
    Overloaded,
    ShuttingDown,
    TooManyBytes,
    TooManyRequests,
    TooManyTransfers,
    Unauthorized,
)
from service.http.options import Options
from service.prediction.inputs import Batch

RETRY_AFTER_SECONDS = "1"  # a full queue empties in less
NPY = "application/x-npy"
MODEL_HEADER = "X-Loupe-Model"


def prediction(
    model: str, class_names: Sequence[str], probabilities: Float32Array, options: Options
) -> Response:
    """The answer to one image; `probabilities` is float32 of shape `(classes,)`."""
    return json({"model": model, **_answer(class_names, probabilities, options)})


def predictions(
    model: str,
    class_names: Sequence[str],
    batch: Batch,
    probabilities: Float32Array,
    options: Options,
) -> Response:
    """The answers to a batch, in the order of the request; `probabilities` is float32 of shape `(readable images, classes)`."""
    rows = iter(probabilities)
    answers = [
        batch.errors[place].to_json()
        if place in batch.errors
        else _answer(class_names, next(rows), options)
        for place in range(len(batch))
    ]
    return json({"model": model, "predictions": answers})


def npy(model: str, probabilities: Float32Array) -> Response:
    """The probabilities themselves, float32 `(n, classes)`, as an `.npy` file."""
    file = io.BytesIO()
    np.save(file, probabilities, allow_pickle=False)
    return Response(file.getvalue(), 200, {MODEL_HEADER: model}, media_type=NPY)


def failure(error: LoupeError) -> Response:
    """The answer to a request that cannot be served."""
    headers = None
    if isinstance(
        error, (Overloaded, TooManyRequests, TooManyBytes, TooManyTransfers, ShuttingDown)
    ):
        headers = {"Retry-After": RETRY_AFTER_SECONDS}
    elif isinstance(error, Unauthorized):
        headers = {"WWW-Authenticate": "Bearer"}
    elif isinstance(error, MethodNotAllowed):
        headers = {"Allow": ", ".join(error.allowed)}
    return json(error.to_json(), error.status, headers)


def json(
    content: Mapping[str, object], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """A JSON body; NumPy's arrays and numbers are written as they are."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")


def _answer(
    class_names: Sequence[str], probabilities: Float32Array, options: Options
) -> dict[str, object]:
    index = int(probabilities.argmax())
    confidence = probabilities[index]
    answer: dict[str, object] = {
        "label": class_names[index],
        "index": index,
        "confidence": confidence,
    }
    if options.threshold is not None:
        abstained = bool(confidence < options.threshold)
        if abstained:
            answer |= {"label": None, "index": None}
        answer["abstained"] = abstained
    answer["probabilities"] = _named(class_names, probabilities, options.top_k)
    return answer


def _named(
    class_names: Sequence[str], probabilities: Float32Array, top_k: int | None
) -> dict[str, np.float32]:
    """Probabilities by class: all in the model's order, or the highest from the highest on."""
    if top_k is None:
        return dict(zip(class_names, probabilities, strict=True))
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return {class_names[place]: probabilities[place] for place in best}
