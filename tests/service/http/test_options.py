"""What a request says beside its images."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from loupe.old_errors.service import InvalidRequest
from service.http.options import DEFAULTS, Options, read_options, read_timeout


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


def test_a_request_that_says_nothing_is_answered_as_the_model_does() -> None:
    assert read_options(request()) == DEFAULTS == Options(None, None, None, "auto", "en")


def test_every_option_can_be_given() -> None:
    query = "model=mnist:production&top_k=3&threshold=0.5&normalize=off&lang=ja"

    assert read_options(request(query)) == Options("mnist:production", 3, 0.5, "off", "ja")


@pytest.mark.parametrize(
    ("query", "message"),
    [
        (
            "topk=3",
            "Expected no query parameters but model, top_k, threshold, normalize and lang. Received: 'topk'.",
        ),
        ("top_k=1&top_k=2", "Expected the query parameter 'top_k' once. Received: it twice."),
        ("top_k=0", "Expected a number of classes, at least 1, as top_k. Received: '0'."),
        ("top_k=-1", "Received: '-1'."),
        ("top_k=2.5", "Received: '2.5'."),
        ("top_k=%C2%B2", "Received: '²'."),
        ("top_k=" + "9" * 5000, "Received: '999"),
        ("threshold=2", "Expected a confidence of 0 to 1 as threshold. Received: '2'."),
        ("threshold=nan", "Received: 'nan'."),
        ("threshold=", "Received: ''."),
        ("normalize=yes", "Expected 'auto' or 'off' as normalize. Received: 'yes'."),
    ],
)
def test_what_an_option_cannot_be_is_told(query: str, message: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        read_options(request(query))

    assert message in refused.value.message


@given(st.text())
def test_whatever_the_query_it_is_read_or_refused(query: str) -> None:
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
        assert isinstance(read_options(asked), Options)


@pytest.mark.parametrize(
    ("header", "seconds"), [(None, 10), ("2.5", 2.5), ("1e-3", 0.001), ("60", 10)]
)
def test_a_request_may_ask_for_less_time_than_it_would_have(
    header: str | None, seconds: float
) -> None:
    asked = request() if header is None else request(x_request_timeout=header)

    assert read_timeout(asked, default=10) == seconds


@pytest.mark.parametrize("header", ["0", "-1", "soon", "nan", "inf", ""])
def test_a_time_that_is_none_is_told(header: str) -> None:
    with pytest.raises(
        InvalidRequest, match="Expected a number of seconds above 0 in the header X-Request-Timeout"
    ):
        read_timeout(request(x_request_timeout=header), default=10)
