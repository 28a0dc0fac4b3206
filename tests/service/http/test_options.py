"""Query parameters and headers of predictions."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel
from starlette.requests import Request

from loupe.errors import InvalidRequest
from service.http.options import DEFAULTS, TIMEOUT_HEADER, PredictQuery, read_options, read_timeout
from service.http.validation import read_query


def request(query: str = "", **headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request(
        {
            "type": "http",
            "method": "POST",
            "path": "/",
            "query_string": query.encode(),
            "headers": raw,
        }
    )


def test_request_without_a_query_has_the_defaults() -> None:
    assert read_options(request()) == DEFAULTS == PredictQuery()


def test_every_option_is_read() -> None:
    query = (
        "model=mnist:production&top_k=3&threshold=0.5&normalize=off&lang=ja&explain=seen&split=true"
    )

    assert read_options(request(query)) == PredictQuery(
        model="mnist:production",
        top_k=3,
        threshold=0.5,
        normalize="off",
        lang="ja",
        explain="seen",
        split=True,
    )


@pytest.mark.parametrize(
    ("query", "name", "value"),
    [
        ("topk=3", "topk", "top_k, threshold, min_familiarity, alpha, normalize, lang, model"),
        ("top_k=1&top_k=2", "top_k", "twice"),
        ("top_k=0", "top_k", "0"),
        ("top_k=-1", "top_k", "-1"),
        ("top_k=2.5", "top_k", "2.5"),
        ("top_k=%C2%B2", "top_k", "²"),
        ("top_k=" + "9" * 5000, "top_k", "999"),
        ("threshold=2", "threshold", "2"),
        ("threshold=nan", "threshold", "nan"),
        ("threshold=", "threshold", "''"),
        ("normalize=yes", "normalize", "yes"),
    ],
)
def test_invalid_option_is_refused_with_its_name_and_value(
    query: str, name: str, value: str
) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_options(request(query))

    assert refused.value.code == "invalid_request"
    assert name in refused.value.message
    assert value in refused.value.message
    assert len(refused.value.message) < 200


def test_booleans_in_a_query_are_true_or_false() -> None:
    class Flag(BaseModel):
        single: bool = False

    assert read_query(request("single=true"), Flag).single
    for text in ("1", "yes", "True", "on", ""):
        with pytest.raises(InvalidRequest, match="single"):
            read_query(request(f"single={text}"), Flag)


@given(st.text())
def test_any_query_is_read_or_refused(query: str) -> None:
    asked = Request(
        {
            "type": "http",
            "method": "POST",
            "path": "/",
            "query_string": query.encode(errors="replace"),
            "headers": [],
        }
    )
    with suppress(InvalidRequest):
        assert isinstance(read_options(asked), PredictQuery)


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 10), ("2.5", 2.5), ("1e-3", 0.001), ("60", 10)]
)
def test_timeout_header_can_only_shorten_the_default(header: str | None, seconds: float) -> None:
    headers = {} if header is None else {TIMEOUT_HEADER: header.encode()}

    assert read_timeout(headers, default=10) == seconds


@pytest.mark.parametrize("header", ["0", "-1", "soon", "nan", "inf", ""])
def test_invalid_timeout_header_is_refused(header: str) -> None:
    with pytest.raises(InvalidRequest, match="X-Request-Timeout"):
        read_timeout({TIMEOUT_HEADER: header.encode()}, default=10)
