"""JSON responses, and the response for each error."""

from collections.abc import Mapping, Sequence

import orjson
from starlette.responses import Response

from loupe.errors import LoupeError, MethodNotAllowed, ShuttingDown, Unauthorized

MODEL_HEADER = "X-Loupe-Model"
RETRY_AFTER_SECONDS = "1"  # a full queue empties in less


def failure(error: LoupeError) -> Response:
    """Return the response for a request that failed."""
    headers = None
    if error.status == 429 or isinstance(error, ShuttingDown):
        headers = {"Retry-After": RETRY_AFTER_SECONDS}
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
