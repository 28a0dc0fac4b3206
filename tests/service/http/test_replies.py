"""Responses for errors."""

import json

import pytest

from loupe.errors import (
    LoupeError,
    MethodNotAllowed,
    ModelNotFound,
    RedisUnavailable,
    ShuttingDown,
    TooManyRequests,
    Unauthorized,
)
from service.http import replies


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (TooManyRequests("Full.", code="overloaded"), 429, {"retry-after": "1"}),
        (
            TooManyRequests("Full.", code="quota_exceeded", retry_after_seconds=7200),
            429,
            {"retry-after": "7200"},
        ),
        (ShuttingDown("Stopping."), 503, {"retry-after": "1"}),
        (RedisUnavailable("No answer."), 503, {}),
        (ModelNotFound("No model 'birds'."), 404, {}),
        (LoupeError("Out of memory.", code="engine_failed"), 500, {}),
        (Unauthorized("No key."), 401, {"www-authenticate": "Bearer"}),
        (MethodNotAllowed("Not GET.", ["OPTIONS", "POST"]), 405, {"allow": "OPTIONS, POST"}),
    ],
    ids=lambda value: value.code if isinstance(value, LoupeError) else "",
)
def test_error_has_its_status_and_headers(
    error: LoupeError, status: int, headers: dict[str, str]
) -> None:
    response = replies.failure(error)

    assert response.status_code == status
    assert json.loads(bytes(response.body)) == {"error": str(error), "code": error.code}
    special = ("retry-after", "www-authenticate", "allow")
    assert {name: value for name, value in response.headers.items() if name in special} == headers
