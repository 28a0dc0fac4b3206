"""Flows without a service: the requests, the retries, and the meaning of responses."""

import json
from collections.abc import Callable

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.client.flows import (
    FIRST_PAUSE_SECONDS,
    MAX_ATTEMPTS,
    Download,
    Flow,
    Pause,
    Reply,
    T,
)
from loupe.client.jobs import JobFlows
from loupe.client.predictions import Prediction, PredictionError, PredictOptions
from loupe.client.uploads import UploadBatch
from loupe.errors import InvalidImage, InvalidUsage, LoupeError, RequestRefused, UnexpectedAnswer
from loupe.jobs import ScoringRequest
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


def run(flow: Flow[T], answer: Callable[[httpx.Request], Reply]) -> tuple[T, list[float]]:
    """Run a flow against a function; return its result and the pauses in seconds."""
    pauses: list[float] = []
    reply: Reply = None
    while True:
        try:
            step = flow.send(reply)
        except StopIteration as ended:
            return ended.value, pauses
        reply = None
        if isinstance(step, Pause):
            pauses.append(step.seconds)
        else:
            reply = answer(step.request if isinstance(step, Download) else step)


def one(request: httpx.Request) -> httpx.Response:
    return httpx.Response(200, json={"model": "m:1", **ANSWER})


def in_turn(*answers: Reply) -> Callable[[httpx.Request], Reply]:
    waiting = list(answers)
    return lambda request: waiting.pop(0) if waiting else one(request)


def flows(jitter: float = 1.0) -> JobFlows:
    return JobFlows(URL, jitter=lambda: jitter)


# Requests


def test_request_contains_only_changed_options() -> None:
    options = PredictOptions(
        model="boots:production", top_k=3, threshold=0.5, normalize="off", lang="ja", timeout=2.5
    )
    request = next(JobFlows(f"{URL}/", "secret").predict(b"picture", options))

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
    plain = next(flows().predict(b"picture", PredictOptions()))
    assert isinstance(plain, httpx.Request)
    assert (plain.url.query, "authorization" in plain.headers) == (b"", False)


def test_key_is_not_shown() -> None:
    assert "secret" not in repr(JobFlows(URL, "secret"))


@pytest.mark.parametrize(
    "url", ["localhost:3000", "", "ftp://service", "http://", "http://service:port"]
)
def test_invalid_address_is_a_usage_error(url: str) -> None:
    with pytest.raises(InvalidUsage, match="http://HOST:PORT") as raised:
        JobFlows(url)
    assert (raised.value.code, raised.value.exit_code) == ("invalid_address", 2)


@pytest.mark.parametrize("key", ["", "two words", "line\n", "schlüssel"])
def test_invalid_key_is_refused_without_being_shown(key: str) -> None:
    with pytest.raises(InvalidUsage) as raised:
        JobFlows(URL, key)
    assert raised.value.code == "invalid_api_key"
    assert not key or key not in raised.value.message


# Retries


@given(st.floats(0, 1))
def test_pauses_double_and_differ_between_callers(jitter: float) -> None:
    _, pauses = run(
        flows(jitter).predict(b"", PredictOptions()), in_turn(*[RESET] * (MAX_ATTEMPTS - 1))
    )

    limits = [FIRST_PAUSE_SECONDS * 2**number for number in range(MAX_ATTEMPTS - 1)]
    for pause, longest in zip(pauses, limits, strict=True):
        assert longest / 2 <= pause <= longest


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_is_respected(status: int) -> None:
    busy = httpx.Response(status, headers={"Retry-After": "7"})
    answer, pauses = run(flows().predict(b"", PredictOptions()), in_turn(busy))

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
def test_hopeless_requests_are_not_retried(answer: Reply) -> None:
    with pytest.raises(LoupeError):
        run(flows().predict(b"", PredictOptions()), in_turn(answer))


def test_restarting_service_is_retried() -> None:
    client_flows = flows()
    run(client_flows.predict(b"", PredictOptions()), one)

    gone = [httpx.ConnectError("refused")] * 3
    assert run(client_flows.predict(b"", PredictOptions()), in_turn(*gone))[0] == BOOT


# Responses


def test_refusal_has_the_service_s_code_status_and_message() -> None:
    refusal = httpx.Response(
        404, json={"error": "Model 'x' is not there.", "code": "model_not_found"}
    )
    with pytest.raises(RequestRefused) as raised:
        run(flows().predict(b"", PredictOptions()), in_turn(refusal))

    error = raised.value
    assert (error.status, error.code, error.message) == (
        404,
        "model_not_found",
        "Model 'x' is not there.",
    )


def test_refusal_by_another_server_is_quoted() -> None:
    with pytest.raises(RequestRefused) as raised:
        run(
            flows().predict(b"", PredictOptions()),
            in_turn(httpx.Response(502, text="<h1>Bad gateway</h1>")),
        )

    assert (raised.value.code, raised.value.message) == (
        "http_502",
        "HTTP 502 with '<h1>Bad gateway</h1>'",
    )


@pytest.mark.parametrize("text", ["<html>", "{}", "[]", '{"model": 3}'])
def test_response_of_another_server_is_unexpected(text: str) -> None:
    with pytest.raises(UnexpectedAnswer, match=r"http://service:3000 .* HTTP 200 with"):
        run(flows().predict(b"", PredictOptions()), in_turn(httpx.Response(200, text=text)))


def test_wrong_number_of_answers_is_refused() -> None:
    few = httpx.Response(200, json={"model": "m:1", "predictions": [ANSWER]})
    with pytest.raises(UnexpectedAnswer, match="1 answers to 2 pictures"):
        run(flows().predict_batch(UploadBatch([b"a", b"b"]), PredictOptions()), in_turn(few))


def limited(max_images: int) -> Callable[[httpx.Request], httpx.Response]:
    """Answer with the brightness of each image as its index, and refuse larger batches."""

    def answer(request: httpx.Request) -> httpx.Response:
        content = request.read()
        images = np.frombuffer(content[-(len(content) // 784) * 784 :], np.uint8).reshape(
            -1, 28, 28
        )
        if len(images) > max_images:
            return httpx.Response(413, json={"error": "too many", "code": "too_many_images"})
        found = [{**ANSWER, "index": int(image[14, 14])} for image in images]
        return httpx.Response(200, content=json.dumps({"model": "m:1", "predictions": found}))

    return answer


@given(st.lists(st.booleans(), min_size=1, max_size=20), st.integers(0, 6))
def test_batches_are_halved_when_the_service_accepts_fewer_and_keep_their_order(
    readable: list[bool], max_images: int
) -> None:
    images = np.zeros((len(readable), 28, 28), np.uint8)
    images[:, 14, 14] = np.arange(len(readable))
    items = [
        image if good else InvalidImage("nothing")
        for image, good in zip(images, readable, strict=True)
    ]
    outcomes, _ = run(
        flows().predict_batch(UploadBatch(items), PredictOptions()), limited(max_images)
    )

    for number, (outcome, good) in enumerate(zip(outcomes, readable, strict=True)):
        if good and max_images:
            assert isinstance(outcome, Prediction)
            assert outcome.index == number
        else:
            assert isinstance(outcome, PredictionError)
            assert outcome.code == ("too_many_images" if good else "invalid_image")


def test_unreadable_pictures_are_not_sent() -> None:
    def unreachable(request: httpx.Request) -> Reply:
        raise AssertionError(request)

    outcomes, _ = run(
        flows().predict_batch(UploadBatch([InvalidImage("nothing")] * 2), PredictOptions()),
        unreachable,
    )
    assert outcomes == [PredictionError("invalid_image", InvalidImage("nothing").message)] * 2


def test_abstaining_model_gives_no_label() -> None:
    unsure = {**ANSWER, "model": "m:1", "label": None, "index": None, "abstained": True}
    answer, _ = run(
        flows().predict(pictures.digits(1)[0], PredictOptions()),
        in_turn(httpx.Response(200, json=unsure)),
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


def submitted(*answers: Reply) -> tuple[int, list[float]]:
    """Submit a job; return the number of requests and the pauses before it succeeds."""
    asked = 0
    waiting = list(answers)

    def answer(request: httpx.Request) -> Reply:
        nonlocal asked
        asked += 1
        return waiting.pop(0) if waiting else httpx.Response(202, json=JOB)

    _, pauses = run(
        JobFlows(URL, jitter=lambda: 1.0).submit_path("/images", ScoringRequest()),
        answer,
    )
    return asked, pauses


def test_job_is_not_submitted_again_if_the_service_may_have_accepted_it() -> None:
    for reply in (
        RESET,
        httpx.RemoteProtocolError("gone"),
    ):
        with pytest.raises(LoupeError):
            submitted(
                httpx.Response(503, json={"error": "later", "code": "redis_unavailable"}), reply
            )


def test_refused_job_is_submitted_again() -> None:
    refused = [
        httpx.Response(status, json={"error": "later", "code": "x"}) for status in (503, 429)
    ]
    asked, pauses = submitted(*refused, httpx.ConnectError("refused"))

    assert (asked, len(pauses)) == (4, 3)


def test_polling_slows_down_while_only_the_estimate_changes() -> None:
    before = {**JOB, "state": "running", "eta_seconds": 9.0}
    client_flows = JobFlows(URL)
    first, _ = run(client_flows.job("a"), lambda _: httpx.Response(200, json=before))
    answers = [{**before, "eta_seconds": 8.0 - number} for number in range(8)] + [
        {**before, "done": 1}
    ]
    changed, pauses = run(
        client_flows.wait_for_change(first), lambda _: httpx.Response(200, json=answers.pop(0))
    )

    assert changed.done == 1
    assert pauses == sorted(pauses)
    assert pauses[-1] == 1.0


def test_only_changed_options_of_a_job_are_sent() -> None:
    step = next(JobFlows(URL).submit_path("/images", ScoringRequest(top_k=2, probabilities=False)))
    assert isinstance(step, httpx.Request)
    assert json.loads(step.read()) == {"source": "/images", "top_k": 2, "probabilities": False}
