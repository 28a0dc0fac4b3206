"""Options of a prediction: query parameters and headers that all routes understand alike."""

import math
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import Headers
from starlette.requests import Request

from loupe.errors import InvalidRequest
from loupe.images.spec import Normalize
from service.http.validation import read_query, shown

MAX_LANG = 35  # characters of a language tag that every program must take (RFC 5646, 4.4.1)
TIMEOUT_HEADER = b"x-request-timeout"


class PredictQuery(BaseModel):
    """Query parameters of a prediction.

    Attributes:
        model: `name`, `name:version` or `name:label`; `None` for the default model.
        top_k: Number of classes, most probable first; `None` for all, in the model's order.
        threshold: Confidence, 0..1, below which no label is given.
        normalize: `auto` makes a picture look like the training data, `off` takes it unchanged.
        lang: ISO 639-1 code of the class names' language.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    top_k: int | None = Field(default=None, ge=1, le=999_999_999)
    threshold: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    normalize: Normalize = "auto"
    lang: str = Field(default="en", max_length=MAX_LANG)


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


def media_type(headers: Headers) -> str:
    """Return the `Content-Type` in lower case, without its parameters."""
    return headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()
