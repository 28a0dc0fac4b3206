"""Validation of JSON bodies and query parameters against pydantic models.

Errors are chained without their traceback: its frames would keep the request in memory until the
next garbage collection.
"""

import asyncio
import reprlib
from collections.abc import Iterable
from itertools import islice
from typing import Any, TypeVar

import orjson
from pydantic import BaseModel, JsonValue, ValidationError
from starlette.requests import Request

from loupe.errors import ContentTooLarge, InvalidRequest
from loupe.settings import Settings
from service.http.shares import LONG_BYTES, long_steps, parsing

Model = TypeVar("Model", bound=BaseModel)

MAX_SHOWN = 80  # characters of a value in a message
MAX_VALUES = 1_200_000  # in JSON: pixels of 1,500 images; the event loop waits 50 ms
PARTS = (b"[", b"{", b'"', b".")  # of arrays, objects, texts and fractions, which cost more
MAX_PARTS = 300_000
MIB = 2**20  # of JSON take up to 10 ms; others get a turn of the event loop for each
SHORT_REQUEST_TURNS = 5  # of the event loop, from the connection to the answer
MAX_FIELDS = 100  # more are checked before pydantic, which would report each unknown one


class _Short(reprlib.Repr):
    def repr_dict(self, x: dict[Any, Any], level: int) -> str:  # the original sorts all keys
        return super().repr_dict(dict(islice(x.items(), self.maxdict + 1)), level)


_short = _Short()
_short.maxstring = _short.maxother = MAX_SHOWN


async def parse_json(body: bytes, settings: Settings) -> JsonValue:
    """Return the value of a JSON text, after bounding its cost. Other requests run in between.

    Raises:
        ContentTooLarge: If it is too long, or has too many values.
        InvalidRequest: If it is not JSON.
    """
    if len(body) > settings.max_json_bytes:
        raise ContentTooLarge(
            f"The JSON is larger than {settings.max_json_bytes:,} bytes (LOUPE_MAX_JSON_BYTES). "
            "Send files or arrays instead."
        )
    if len(body) <= LONG_BYTES:
        return _loads(body)
    async with parsing(), long_steps():  # few values are in memory at a time
        if body.count(b",") > MAX_VALUES:
            raise ContentTooLarge(f"The JSON has more than {MAX_VALUES:,} values.")
        if sum(map(body.count, PARTS)) > MAX_PARTS:
            raise ContentTooLarge(
                f"The JSON has more than {MAX_PARTS:,} brackets, braces, quotation marks and "
                "points."
            )
        turns = 1 + min(len(body) // MIB, SHORT_REQUEST_TURNS)
        await _let_others_go(turns)
        value = _loads(body)
        del body
        await _let_others_go(turns)
    return value


async def _let_others_go(turns: int) -> None:
    for _ in range(turns):
        await asyncio.sleep(0)


def _loads(body: bytes) -> JsonValue:
    try:
        value: JsonValue = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise InvalidRequest(f"The body is not JSON: {error}.", code="invalid_json") from error
    return value


def validate(model: type[Model], value: JsonValue) -> Model:
    """Return `value` as a `model`, or raise `InvalidRequest`."""
    if isinstance(value, dict) and len(value) > MAX_FIELDS:
        _refuse_unknown(model, value, "field")
    try:
        return model.model_validate(value)
    except ValidationError as error:
        if isinstance(value, dict):
            _refuse_unknown(model, value, "field")
        raise InvalidRequest(f"{explain(error)}.") from error.with_traceback(None)


def read_query(request: Request, model: type[Model]) -> Model:
    """Return the query parameters of a request as a `model`, or raise `InvalidRequest`."""
    given: dict[str, str] = {}
    for name, text in request.query_params.multi_items():
        if name in given:
            raise InvalidRequest(f"The query parameter {shown(name)} is given twice.")
        given[name] = text
    _refuse_unknown(model, given, "query parameter")
    for name, text in given.items():  # pydantic also takes "yes" and "1"
        if model.model_fields[name].annotation is bool and text not in ("true", "false"):
            raise InvalidRequest(f"{name} must be true or false, not {shown(text)}.")
    try:
        return model.model_validate_strings(given)
    except ValidationError as error:
        raise InvalidRequest(f"{explain(error)}.") from error.with_traceback(None)


def explain(error: ValidationError) -> str:
    """Return the first problem in one line: where it is, what is expected, and the value."""
    problem = error.errors(include_url=False, include_context=False)[0]
    path = ".".join(map(str, problem["loc"]))
    is_object_expected = problem["type"] == "model_type"
    expected = "Input should be a JSON object" if is_object_expected else problem["msg"]
    text = f"{path}: {expected}" if path else expected
    has_useful_value = problem["type"] not in ("missing", "too_short", "too_long")
    return f"{text}, got {shown(problem['input'])}" if has_useful_value else text


def shown(value: object) -> str:
    """Return a short `repr` of a value, however long or deep it is."""
    text = _short.repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def _refuse_unknown(model: type[BaseModel], names: Iterable[str], kind: str) -> None:
    """Refuse the first unknown name, if the model forbids them."""
    if model.model_config.get("extra") != "forbid":
        return
    for name in names:
        if name not in model.model_fields:
            known = ", ".join(model.model_fields) or "none"
            raise InvalidRequest(f"Unknown {kind} {shown(name)}. Known: {known}.")
