"""Options of a prediction: query parameters and headers that all routes understand alike."""

import math
from collections.abc import Mapping

from starlette.requests import Request

from loupe.errors import InvalidRequest
from loupe.models.answers import AnswerOptions, Explain
from service.http.validation import read_query, shown

TIMEOUT_HEADER = b"x-request-timeout"


class PredictQuery(AnswerOptions):
    """Query parameters of a prediction.

    Attributes:
        model: `name`, `name:version` or `name:label`; `None` for the default model.
        explain: What to add to the answer to one image.
        split: Whether to answer each of several symbols in a picture.
    """

    model: str | None = None
    explain: Explain | None = None
    split: bool = False


DEFAULTS = PredictQuery()


def read_options(request: Request) -> PredictQuery:
    """Return the options in a request's query, or raise `InvalidRequest`."""
    if not request.scope["query_string"]:
        return DEFAULTS
    return read_query(request, PredictQuery)


def read_timeout(headers: Mapping[bytes, bytes], default: float) -> float:
    """Return the seconds that the header `X-Request-Timeout` allows, at most `default`."""
    given = headers.get(TIMEOUT_HEADER)
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        text = shown(given.decode("latin-1"))
        raise InvalidRequest(f"X-Request-Timeout must be seconds above 0, got {text}.")
    return min(seconds, default)


def media_type(content_type: str | None) -> str:
    """Return the value of a `Content-Type` in lower case, without its parameters."""
    if content_type is None:
        return "application/octet-stream"
    return content_type.partition(";")[0].strip().lower()
