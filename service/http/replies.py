"""JSON responses, and the response for each error."""

from collections.abc import Mapping, Sequence

import orjson
from starlette.responses import Response

from loupe.errors import (
    LoupeError,
    MethodNotAllowed,
    ShuttingDown,
    TooManyRequests,
    Unauthorized,
)

MODEL_HEADER = "X-Loupe-Model"
RESTART_SECONDS = 1  # a service that stops refuses connections after less


def failure(error: LoupeError) -> Response:
    """Return the response for a request that failed."""
    headers = None
    if isinstance(error, TooManyRequests):
        headers = {"Retry-After": str(error.retry_after_seconds)}
    elif isinstance(error, ShuttingDown):
        headers = {"Retry-After": str(RESTART_SECONDS)}
    elif isinstance(error, Unauthorized):
        headers = {"WWW-Authenticate": "Bearer"}
    elif isinstance(error, MethodNotAllowed):
        headers = {"Allow": ", ".join(error.allowed)}
    return json(error.to_json(), error.status, headers)


def json(
    content: Mapping[str, object] | Sequence[object],
    status: int = 200,
    headers: dict[str, str] | None = None,
) -> Response:
    """Return a JSON response; NumPy arrays and numbers may be anywhere in `content`."""
    body = orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY)
    return Response(body, status, headers, media_type="application/json")
