"""What a request says beside its images: the query parameters and headers that every route understands alike."""

from dataclasses import dataclass
from typing import Literal

from starlette.requests import Request

from loupe.old_errors.service import InvalidRequest

Normalize = Literal["auto", "off"]
TIMEOUT_HEADER = "x-request-timeout"


@dataclass(frozen=True)
class Options:
    """How to answer.

    Attributes:
        model: Tag of the model, as `name`, `name:version` or `name:label`; the default model if not given.
        top_k: How many classes to name, from the most probable on; all, in the model's order, if not given.
        threshold: Confidence, 0..1, below which no label is given.
        normalize: `auto` makes a picture look like the training data, `off` takes it as it is.
        language: ISO 639-1 code of the class names' language.
    """

    model: str | None = None
    top_k: int | None = None
    threshold: float | None = None
    normalize: Normalize = "auto"
    language: str = "en"


DEFAULTS = Options()


def read_options(request: Request) -> Options:
    """The options in a request's query.

    Raises:
        InvalidRequest: If a parameter is unknown, given twice, or no value it can have.
    """
    if not request.scope["query_string"]:
        return DEFAULTS
    given: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise InvalidRequest(f"the query parameter '{name}' once", "it twice")
        given[name] = value
    options = Options(
        model=given.pop("model", None),
        top_k=_whole_number(given.pop("top_k", None)),
        threshold=_share(given.pop("threshold", None)),
        normalize=_normalize(given.pop("normalize", "auto")),
        language=given.pop("lang", "en"),
    )
    if given:
        raise InvalidRequest(
            "no query parameters but model, top_k, threshold, normalize and lang",
            ", ".join(map(repr, given)),
        )
    return options


def read_timeout(request: Request, default: float) -> float:
    """Seconds within which a request wants its answer: the header `X-Request-Timeout`, at most the default.

    Raises:
        InvalidRequest: If the header is no number above 0.
    """
    given = request.headers.get(TIMEOUT_HEADER)
    if given is None:
        return default
    seconds = _number(given)
    if seconds is None or seconds <= 0:
        raise InvalidRequest(
            "a number of seconds above 0 in the header X-Request-Timeout", f"'{given}'"
        )
    return min(seconds, default)


def _whole_number(value: str | None) -> int | None:
    if value is None:
        return None
    if not (value.isascii() and value.isdigit() and len(value) < 10 and int(value)):
        raise InvalidRequest("a number of classes, at least 1, as top_k", f"'{value}'")
    return int(value)


def _share(value: str | None) -> float | None:
    if value is None:
        return None
    share = _number(value)
    if share is None or not 0 <= share <= 1:
        raise InvalidRequest("a confidence of 0 to 1 as threshold", f"'{value}'")
    return share


def _normalize(value: str) -> Normalize:
    ways: dict[str, Normalize] = {"auto": "auto", "off": "off"}
    if value not in ways:
        raise InvalidRequest("'auto' or 'off' as normalize", f"'{value}'")
    return ways[value]


def _number(text: str) -> float | None:
    """A finite number, or nothing."""
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < float("inf") else None
