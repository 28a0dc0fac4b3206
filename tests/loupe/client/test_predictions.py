"""Conversations without anybody to talk to: what is asked, when it is asked again, and what is made of the answers."""

import json
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.client.jobs import ScoringConversation
from loupe.client.predictions import (
    FIRST_PAUSE_SECONDS,
    MAX_ATTEMPTS,
    Conversation,
    Heard,
    Options,
    Pause,
    Prediction,
    PredictionError,
    Save,
    Steps,
    T,
)
from loupe.client.uploads import Batch
from loupe.errors import InvalidImage, LoupeError
from loupe.jobs import ScoringRequest
from loupe.old_errors.core import InvalidAddress, InvalidApiKey, RequestRefused, UnexpectedAnswer
from tests.support import pictures

URL = "http://service:3000"
ANSWER = {
    "label": "boot",
    "index": 1,
    "confidence": 0.9,
    "probabilities": {"shoe": 0.1, "boot": 0.9},
}
BOOT = Prediction("m:1", "boot", 1, 0.9, {"shoe": 0.1, "boot": 0.9})
RESET = httpx.ReadError("Connection reset by peer")


def held(steps: Steps[T], answer: Callable[[httpx.Request], Heard]) -> tuple[T, list[float]]:
    """How a conversation ends when everything is answered by a function, and the pauses on the way."""
    pauses: list[float] = []
    heard: Heard = None
    while True:
        try:
            step = steps.send(heard)
        except StopIteration as ended:
            return ended.value, pauses
        heard = None
        if isinstance(step, Pause):
            pauses.append(step.seconds)
        else:
            heard = answer(step.request if isinstance(step, Save) else step)


def one(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"model": "m:1", **ANSWER})


def in_turn(*answers: Heard) -> Callable[[httpx.Request], Heard]:
    waiting = list(answers)
    return lambda request: waiting.pop(0) if waiting else one(request)


def calm(jitter: float = 1.0) -> Conversation:
    return Conversation(URL, jitter=lambda: jitter)


# Asking


def test_a_request_says_what_differs_from_the_defaults() -> None:
    options = Options("boots:production", 3, 0.5, "off", "ja", 2.5)
    request = next(Conversation(f"{URL}/", "secret").predict(b"picture", options))

    assert isinstance(request, httpx.Request)
    assert request.url.copy_with(query=None) == f"{URL}/predict"
    assert dict(request.url.params) == {
        "model": "boots:production",
        "top_k": "3",
        "threshold": "0.5",
        "normalize": "off",
        "lang": "ja",
    }
    assert request.headers["authorization"] == "Bearer secret"
    assert request.headers["x-request-timeout"] == "2.5"
    assert request.read() == b"picture"
    plain = next(calm().predict(b"picture", Options()))
    assert isinstance(plain, httpx.Request)
    assert (plain.url.query, "authorization" in plain.headers) == (b"", False)


def test_the_key_is_not_shown() -> None:
    assert "secret" not in repr(Conversation(URL, "secret"))


@pytest.mark.parametrize(
    "url", ["localhost:3000", "", "ftp://service", "http://", "http://service:port"]
)
def test_an_address_that_is_none_is_wrong_use(url: str) -> None:
    with pytest.raises(
        InvalidAddress, match=r"Expected the service's address, as http://HOST:PORT\. Received: '"
    ):
        Conversation(url)
    assert InvalidAddress.exit_code == 2


@pytest.mark.parametrize("key", ["", "two words", "line\n", "schlüssel"])
def test_a_key_that_no_header_carries_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(InvalidApiKey) as raised:
        Conversation(URL, key)
    assert not key or key not in raised.value.message


# Asking again


@given(st.floats(0, 1))
def test_pauses_double_and_differ_between_callers(jitter: float) -> None:
    _, pauses = held(calm(jitter).predict(b"", Options()), in_turn(*[RESET] * (MAX_ATTEMPTS - 1)))

    longest = [FIRST_PAUSE_SECONDS * 2**number for number in range(MAX_ATTEMPTS - 1)]
    for pause, most in zip(pauses, longest, strict=True):
        assert most / 2 <= pause <= most


@pytest.mark.parametrize("status", [429, 503])
def test_a_service_is_left_alone_for_as_long_as_it_asks(status: int) -> None:
    busy = httpx.Response(status, headers={"Retry-After": "7"})
    answer, pauses = held(calm().predict(b"", Options()), in_turn(busy))

    assert answer == BOOT
    assert pauses == [7 + FIRST_PAUSE_SECONDS]


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(httpx.Response(503, headers={"Retry-After": "3600"}), id="an hour"),
        pytest.param(httpx.Response(400), id="the request is wrong"),
        pytest.param(httpx.Response(500), id="the service fails"),
        pytest.param(httpx.Response(504), id="the time is up"),
        pytest.param(httpx.ConnectError("refused"), id="nobody is there"),
    ],
)
def test_what_another_try_would_not_help_is_told_at_once(answer: Heard) -> None:
    with pytest.raises(LoupeError):
        held(calm().predict(b"", Options()), in_turn(answer))


def test_a_service_that_was_there_before_is_waited_for() -> None:
    conversation = calm()
    held(conversation.predict(b"", Options()), one)

    gone = [httpx.ConnectError("refused")] * 3
    assert held(conversation.predict(b"", Options()), in_turn(*gone))[0] == BOOT


# Understanding


def test_a_refusal_carries_what_the_service_said() -> None:
    refusal = httpx.Response(
        404, json={"error": "Model 'x' is not there.", "code": "model_not_found"}
    )
    with pytest.raises(RequestRefused) as raised:
        held(calm().predict(b"", Options()), in_turn(refusal))

    error = raised.value
    assert (error.status, error.code, error.message) == (
        404,
        "model_not_found",
        "Model 'x' is not there.",
    )


def test_a_refusal_by_something_else_is_quoted() -> None:
    with pytest.raises(RequestRefused) as raised:
        held(
            calm().predict(b"", Options()),
            in_turn(httpx.Response(502, text="<h1>Bad gateway</h1>")),
        )

    assert (raised.value.code, raised.value.message) == (
        "http_502",
        "HTTP 502 with '<h1>Bad gateway</h1>'",
    )


@pytest.mark.parametrize("text", ["<html>", "{}", "[]", '{"model": 3}'])
def test_an_answer_of_something_else_is_no_prediction(text: str) -> None:
    with pytest.raises(
        UnexpectedAnswer, match=r"from http://service:3000\. Received: HTTP 200 with"
    ):
        held(calm().predict(b"", Options()), in_turn(httpx.Response(200, text=text)))


def test_too_few_answers_are_not_given_to_the_wrong_pictures() -> None:
    few = httpx.Response(200, json={"model": "m:1", "predictions": [ANSWER]})
    with pytest.raises(UnexpectedAnswer, match="1 answers to 2 pictures"):
        held(calm().predict_batch(Batch([b"a", b"b"]), Options()), in_turn(few))


def counted(most: int) -> Callable[[httpx.Request], httpx.Response]:
    """A service that takes so many images at once, and answers with the brightness of each as its index."""

    def answer(request: httpx.Request) -> httpx.Response:
        content = request.read()
        images = np.frombuffer(content[-(len(content) // 784) * 784 :], np.uint8).reshape(
            -1, 28, 28
        )
        if len(images) > most:
            return httpx.Response(413, json={"error": "too many", "code": "too_many_images"})
        found = [{**ANSWER, "index": int(image[14, 14])} for image in images]
        return httpx.Response(200, content=json.dumps({"model": "m:1", "predictions": found}))

    return answer


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 6))
def test_a_service_that_takes_fewer_at_once_gets_fewer_and_the_order_stays(
    readable: list[bool], most: int
) -> None:
    images = np.zeros((len(readable), 28, 28), np.uint8)
    images[:, 14, 14] = np.arange(len(readable))
    items = [
        image if good else InvalidImage("nothing")
        for image, good in zip(images, readable, strict=True)
    ]
    outcomes, _ = held(calm().predict_batch(Batch(items), Options()), counted(most))

    for number, (outcome, good) in enumerate(zip(outcomes, readable, strict=True)):
        if good and most:
            assert isinstance(outcome, Prediction)
            assert outcome.index == number
        else:
            assert isinstance(outcome, PredictionError)
            assert outcome.code == ("too_many_images" if good else "invalid_image")


def test_pictures_that_cannot_be_read_are_not_asked_about() -> None:
    def nobody(request: httpx.Request) -> Heard:
        raise AssertionError(request)

    outcomes, _ = held(
        calm().predict_batch(Batch([InvalidImage("nothing")] * 2), Options()), nobody
    )
    assert outcomes == [PredictionError("invalid_image", InvalidImage("nothing").message)] * 2


def test_a_service_that_abstains_gives_no_label() -> None:
    unsure = {**ANSWER, "model": "m:1", "label": None, "index": None, "abstained": True}
    answer, _ = held(
        calm().predict(pictures.digits(1)[0], Options()), in_turn(httpx.Response(200, json=unsure))
    )

    assert (answer.label, answer.index, answer.abstained) == (None, None, True)


# Jobs


JOB = {
    "id": "a",
    "state": "queued",
    "model": "m:1",
    "source": "/images",
    "total": None,
    "done": 0,
    "failed": 0,
    "created": 1.0,
    "started": None,
    "finished": None,
    "eta_seconds": None,
    "output": "/out",
    "error": None,
}


def submitted(*answers: Heard) -> tuple[int, list[float]]:
    """How often a job was asked for, and the pauses, when these answers come before a good one."""
    asked = 0
    waiting = list(answers)

    def answer(request: httpx.Request) -> Heard:
        nonlocal asked
        asked += 1
        return waiting.pop(0) if waiting else httpx.Response(202, json=JOB)

    _, pauses = held(
        ScoringConversation(URL, jitter=lambda: 1.0).submit_named("/images", ScoringRequest()),
        answer,
    )
    return asked, pauses


def test_a_job_is_not_submitted_twice_where_the_first_may_have_been_taken() -> None:
    for heard in (
        RESET,
        httpx.RemoteProtocolError("gone"),
    ):
        with pytest.raises(LoupeError):
            submitted(
                httpx.Response(503, json={"error": "later", "code": "redis_unavailable"}), heard
            )


def test_a_job_that_was_refused_is_submitted_again() -> None:
    refused = [
        httpx.Response(status, json={"error": "later", "code": "x"}) for status in (503, 429)
    ]
    asked, pauses = submitted(*refused, httpx.ConnectError("refused"))

    assert (asked, len(pauses)) == (4, 3)


def test_a_job_is_looked_at_less_often_while_nothing_changes_but_the_time_that_is_left() -> None:
    before = {**JOB, "state": "running", "eta_seconds": 9.0}
    conversation = ScoringConversation(URL)
    first, _ = held(conversation.job("a"), lambda _: httpx.Response(200, json=before))
    answers = [{**before, "eta_seconds": 8.0 - number} for number in range(8)] + [
        {**before, "done": 1}
    ]
    changed, pauses = held(
        conversation.changed(first), lambda _: httpx.Response(200, json=answers.pop(0))
    )

    assert changed.done == 1
    assert pauses == sorted(pauses)
    assert pauses[-1] == 1.0


def test_options_of_a_job_are_sent_where_they_differ_from_the_defaults() -> None:
    step = next(
        ScoringConversation(URL).submit_named(
            "/images", ScoringRequest(top_k=2, probabilities=False)
        )
    )
    assert isinstance(step, httpx.Request)
    assert json.loads(step.read()) == {"source": "/images", "top_k": 2, "probabilities": False}
