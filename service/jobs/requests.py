"""What is asked of jobs: how a result is to look, and which source is to be scored."""

import os
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError
from starlette.requests import Request

from loupe.jobs import ScoringRequest
from loupe.old_errors.service import InvalidRequest, SourceForbidden
from loupe.old_errors.worker import InvalidSource
from loupe.results import Format
from loupe.settings import Settings
from service.prediction.items import json_type, parse_json

F = TypeVar("F", bound=BaseModel)

VALUES = frozenset(
    {"top_k", "probabilities", "threshold", "single"}
)  # of a query, those that are no texts
SHOWN_CHARACTERS = 40  # of a value that is refused


class Named(ScoringRequest):
    """A request to score a source by its path."""

    source: str = Field(min_length=1)


class Nothing(BaseModel):
    """No parameters of a query, where JSON has all that there is to say."""

    model_config = ConfigDict(extra="forbid")


class ResultsWanted(BaseModel):
    """In which format results are to be; that of the job, if none is named."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    format: Format | None = None


def read_named(body: bytes) -> Named:
    """What JSON asks for.

    Raises:
        InvalidJson: If it is none.
        InvalidRequest: If it asks for something else.
    """
    value = parse_json(body)
    if not isinstance(value, dict):
        raise InvalidRequest(_expected(Named), f"JSON of type {json_type(value)}")
    return _checked(Named, value)


def read_query(request: Request, form: type[F]) -> F:
    """What the parameters of a query ask for.

    Raises:
        InvalidRequest: If there are others, one stands twice, or has a value that it cannot have.
    """
    given: dict[str, JsonValue] = {}
    for name, value in request.query_params.multi_items():
        if name in given:
            raise InvalidRequest(f"the query parameter '{name}' once", "it twice")
        given[name] = _value(value) if name in VALUES else value
    return _checked(form, given)


def find_source(source: str, settings: Settings) -> Path:
    """The file or folder that a caller names, without links on the way to it.

    Nothing outside the roots is looked at, and what is refused is refused in the same words whether it is there or not.

    Raises:
        SourceForbidden: If it is outside of all roots, leads out of them, or is where the service keeps its own files.
        InvalidSource: If there is nothing.
    """
    path = os.path.normpath(source)
    roots = [os.path.realpath(root) for root in settings.source_roots]
    if "\0" in path or not any(
        _within(path, root) for root in (*roots, *map(str, settings.source_roots))
    ):
        raise SourceForbidden(source)
    found, home = os.path.realpath(path), os.path.realpath(settings.home)
    if (
        not any(_within(found, root) for root in roots)
        or _within(found, home)
        or _within(home, found)
    ):
        raise SourceForbidden(source)
    if not os.path.exists(found):  # noqa: PTH110 - pathlib's raises an error for a name that is too long
        raise InvalidSource(source, "nothing; no such file or folder")
    return Path(found)


def _within(path: str, folder: str) -> bool:
    return Path(path).is_relative_to(folder)


def _checked(form: type[F], given: dict[str, JsonValue]) -> F:
    try:
        return form.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        value = problem["input"] if problem["type"] not in ("missing", "extra_forbidden") else None
        shown = "" if value is None else f" ({str(value)[:SHOWN_CHARACTERS]!r})"
        place = ".".join(map(str, problem["loc"]))[:SHOWN_CHARACTERS]
        raise InvalidRequest(_expected(form), f"'{place}'{shown}: {problem['msg']}") from error


def _expected(form: type[BaseModel]) -> str:
    required = [name for name, field in form.model_fields.items() if field.is_required()]
    others = ", ".join(name for name in form.model_fields if name not in required)
    if required:
        return f"JSON with '{required[0]}', and with {others} as wanted"
    return f"no query parameters but {others}" if others else "no query parameters beside JSON"


def _value(text: str) -> JsonValue:
    """A number, `true` or `false`, as JSON has it; any other text is refused where it stands for one of these."""
    try:
        value = parse_json(text.encode())
    except InvalidRequest:
        return text
    return text if value is None else value
