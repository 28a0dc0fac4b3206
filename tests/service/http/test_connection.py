"""Connections: a real server on a real port, and an app whose answers wait until the test lets them go."""

import asyncio
import gc
import hashlib
import json
import random
import socket
import tracemalloc
from collections.abc import Awaitable, Callable
from contextlib import closing
from itertools import pairwise
from typing import Any

import pytest
import uvicorn
import uvloop
from hypothesis import example, given, settings
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from loupe.errors import LoupeError
from loupe.models.store import StoredModel
from loupe.old_errors.service import BodyTooSlow, CallerGone
from loupe.settings import Settings
from service.http import bodies, connection, replies
from service.http.bodies import (
    BEGUN_BYTES,
    LONG_BYTES,
    MOST_LONG_BYTES,
    MOST_OF_THE_LONGEST,
    Bodies,
)
from service.http.connection import MOST_DISCARDED_BYTES, Connection, InHand
from service.http.guard import MAX_HEADER_BYTES
from service.http.long_bodies import LongBody
from service.prediction.predictor import Predictor, Routes
from tests.support.garbage import uncollected

MOST = 2  # requests in hand
HARMLESS = ["Accept: */*", "Connection: keep-alive", "User-Agent: a program", "X-Request-ID: mine"]


class Gate:
    """An app that reads the whole body and answers with its length, once the gate is open.

    Under `/read` it reads the body as the service does, in so many seconds, and keeps what is refused there.
    """

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.begun = 0
        self.bodies = Bodies(Settings())
        self.limit_seconds = 30.0
        self.late_seconds = 0.0  # that what comes is on its way from the connection to the app, as through middleware
        self.refused: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            return
        self.begun += 1
        if scope["path"] == "/read":
            await self._read(scope, receive, send)
            return
        length, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            length += len(message.get("body", b""))
            more = message.get("more_body", False)
        if scope["path"] == "/predict":
            await self.open.wait()
        body = str(length).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _read(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a digest of the body, read as the service reads it."""

        async def receive_late() -> Message:
            message = await receive()
            await asyncio.sleep(self.late_seconds)
            return message

        request = Request(scope, receive_late if self.late_seconds else receive, send)
        try:
            body = await self.bodies.read(request, limit_seconds=self.limit_seconds)
            response = Response(hashlib.sha256(body).digest())
        except LoupeError as error:
            self.refused.append(error.code)
            response = replies.failure(error)
        finally:
            self.bodies.release(scope)
        await response(scope, receive, send)


class Caller:
    """One connection to the server, and what comes back on it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def ask(self, body: bytes = b"image", path: str = "/predict") -> None:
        self.send(head(len(body), path) + body)

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body."""
        status, headers = await self.head()
        return status, headers, await self._reader.readexactly(int(headers["content-length"]))

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and headers, where no body follows them."""
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines)

    async def is_closed(self) -> bool:
        """Whether the server ends the connection without another word."""
        return await self._reader.read(1) == b""

    def leave(self) -> None:
        self._writer.transport.abort()


class Scene:
    """A server, its app, and its callers."""

    def __init__(self, routes: Routes) -> None:
        self.gate = Gate()
        self.in_hand = InHand(Settings(max_requests=MOST, access_log=True), routes)
        self._callers: list[Caller] = []

    async def caller(self) -> Caller:
        made = Caller(*await asyncio.open_connection("127.0.0.1", self._port))
        self._callers.append(made)
        return made

    async def until(self, requests: int) -> None:
        """Wait until so many requests are in hand."""
        while self.in_hand.requests != requests:
            await asyncio.sleep(0.001)

    async def play(self, story: Callable[["Scene"], Awaitable[None]]) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as listening:
            self._port = listening.getsockname()[1]

            def protocol(**about: Any) -> Connection:
                return Connection(in_hand=self.in_hand, **about)

            config = uvicorn.Config(
                self.gate,
                http=protocol,  # type: ignore[arg-type]
                lifespan="off",
                log_config=None,
                timeout_keep_alive=connection.IDLE_SECONDS,
            )
            server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve([listening]))
            try:
                await asyncio.wait_for(story(self), 30)
            finally:
                self.gate.open.set()
                for caller in self._callers:
                    caller.leave()
                server.should_exit = True
                await serving


def head(length: int, path: str = "/predict", *more: str) -> bytes:
    return "\r\n".join(
        [f"POST {path} HTTP/1.1", "Host: loupe", f"Content-Length: {length}", *more, "", ""]
    ).encode()


@pytest.fixture(scope="module")
def routes(digits_model: StoredModel) -> Routes:
    made = Routes([])
    made.predictor = Predictor(Settings(model=digits_model.tag))
    return made


def play(routes: Routes, story: Callable[[Scene], Awaitable[None]]) -> None:
    uvloop.run(Scene(routes).play(story))  # what the service runs on


async def fill(scene: Scene) -> list[Caller]:
    """Callers with as many requests in hand as there may be."""
    callers = [await scene.caller() for _ in range(MOST)]
    for caller in callers:
        caller.ask()
    await scene.until(MOST)
    return callers


def test_a_request_too_many_is_refused_at_once_and_those_in_hand_are_answered(
    routes: Routes, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(scene: Scene) -> None:
        early = await fill(scene)
        late = await scene.caller()
        late.send(head(100, "/predict?top_k=1", "X-Request-ID: late") + b"x" * 100)
        status, headers, body = await late.answer()

        assert (status, headers["retry-after"], headers["x-frame-options"]) == (429, "1", "deny")
        assert headers["x-request-id"] == "late"
        assert json.loads(body) == {
            "error": "Expected at most 2 requests at a time (LOUPE_MAX_REQUESTS). Received more; try again in a second.",
            "code": "too_many_requests",
        }
        assert scene.gate.begun == MOST
        scene.gate.open.set()
        assert [(await caller.answer())[::2] for caller in early] == [(200, b"5")] * MOST
        late.ask(
            b"x" * 100
        )  # on the same connection, since the body of the refused request has been left behind
        assert (await late.answer())[::2] == (200, b"100")
        assert scene.in_hand.requests == 0

    with caplog.at_level("INFO", "bentoml.loupe.access"):
        play(routes, story)
    assert "POST '/predict' 429 " in caplog.text
    assert b'loupe_rejected_total{code="too_many_requests"}' in routes.predictor.exposed_metrics()


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.sets(st.sampled_from(HARMLESS))), min_size=1, max_size=3
    ),
    st.lists(st.integers(1, 400), max_size=4),
)
@settings(max_examples=30)
def test_requests_too_many_are_refused_one_by_one_in_whatever_pieces_they_come(
    routes: Routes, requests: list[tuple[int, set[str]]], cuts: list[int]
) -> None:
    stream = b"".join(
        head(length, "/predict", *sorted(more)) + bytes(length) for length, more in requests
    )

    async def story(scene: Scene) -> None:
        early = await fill(scene)
        late = await scene.caller()
        for begin, end in pairwise([0, *sorted(cuts), len(stream)]):
            late.send(stream[begin:end])
            await asyncio.sleep(0.001)
        assert [(await late.answer())[0] for _ in requests] == [429] * len(requests)
        scene.gate.open.set()
        for caller in early:
            await caller.answer()
        late.ask(b"image")
        assert (await late.answer())[::2] == (200, b"5")

    play(routes, story)


@pytest.mark.parametrize("more", ["Content-Length: 4", "Transfer-Encoding: chunked", "no colon"])
def test_a_request_that_ends_nobody_knows_where_is_invalid_however_many_wait(
    routes: Routes, more: str
) -> None:
    async def story(scene: Scene) -> None:
        await fill(scene)
        late = await scene.caller()
        late.send(head(5, "/predict", more) + b"0\r\n\r\n")
        assert (await late.head())[0] == 400

    play(routes, story)


def test_the_body_of_a_refused_request_may_come_later(routes: Routes) -> None:
    async def story(scene: Scene) -> None:
        await fill(scene)
        late = await scene.caller()
        late.send(head(3))
        assert (await late.answer())[0] == 429
        late.send(b"abc" + head(2, "/livez") + b"de")
        assert (await late.answer())[::2] == (200, b"2")

    play(routes, story)


def test_a_head_that_is_refused_has_no_body(routes: Routes) -> None:
    async def story(scene: Scene) -> None:
        await fill(scene)
        late = await scene.caller()
        late.send(b"HEAD /models HTTP/1.1\r\n\r\n" * 2)
        assert (await late.head())[0] == 429
        assert (await late.head())[0] == 429

    play(routes, story)


def test_whether_the_service_is_well_is_answered_however_many_wait(routes: Routes) -> None:
    async def story(scene: Scene) -> None:
        await fill(scene)
        watcher = await scene.caller()
        watcher.ask(path="/readyz")
        assert (await watcher.answer())[0] == 200

    play(routes, story)


@pytest.mark.parametrize("more", [["Expect: 100-continue"], ["Connection: close"]])
def test_a_request_that_cannot_be_refused_in_passing_goes_on_to_the_app(
    routes: Routes, more: list[str]
) -> None:
    async def story(scene: Scene) -> None:
        early = await fill(scene)
        late = await scene.caller()
        late.send(head(3, "/predict", *more))
        while scene.gate.begun <= MOST:
            await asyncio.sleep(0.001)
        for caller in (*early, late):
            caller.leave()
        await scene.until(0)

    play(routes, story)


def test_a_long_body_is_left_to_those_who_read_it(routes: Routes) -> None:
    async def story(scene: Scene) -> None:
        await fill(scene)
        late = await scene.caller()
        late.ask(bytes(MOST_DISCARDED_BYTES + 1), "/elsewhere")
        assert (await late.answer())[::2] == (200, str(MOST_DISCARDED_BYTES + 1).encode())

    play(routes, story)


def test_who_is_still_sending_takes_nobody_s_place(routes: Routes) -> None:
    async def story(scene: Scene) -> None:
        slow = [await scene.caller() for _ in range(2 * MOST)]
        for caller in slow:
            caller.send(head(5) + b"imag")
        while scene.gate.begun < len(slow):
            await asyncio.sleep(0.001)
        assert scene.in_hand.requests == 0
        quick = await scene.caller()
        quick.ask(path="/elsewhere")
        assert (await quick.answer())[0] == 200

    play(routes, story)


def test_who_leaves_while_several_of_his_requests_wait_is_forgotten(
    routes: Routes, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(scene: Scene) -> None:
        caller = await scene.caller()
        caller.send(2 * (head(5) + b"image"))
        await scene.until(1)
        caller.leave()
        await scene.until(0)
        scene.gate.open.set()
        other = await scene.caller()
        other.ask()
        assert (await other.answer())[0] == 200

    play(routes, story)
    assert "Exception in ASGI application" not in caplog.text


def test_who_asks_for_a_websocket_gets_http_and_takes_no_place_for_ever(routes: Routes) -> None:
    async def story(scene: Scene) -> None:
        key = ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
        asks = head(0, "/elsewhere", "Connection: Upgrade", "Upgrade: websocket", *key)
        caller = await scene.caller()
        caller.send(head(5) + b"image" + asks)
        await scene.until(1)
        caller.leave()
        await scene.until(0)
        other = await scene.caller()
        other.send(asks)
        assert (await other.answer())[::2] == (200, b"0")

    play(routes, story)


def test_who_leaves_makes_room(routes: Routes) -> None:
    async def story(scene: Scene) -> None:
        early = await fill(scene)
        early[0].leave()
        await scene.until(MOST - 1)
        early[1].leave()
        await scene.until(0)

    play(routes, story)


def test_requests_that_follow_on_one_connection_without_waiting_are_all_answered(
    routes: Routes,
) -> None:
    async def story(scene: Scene) -> None:
        scene.gate.open.set()
        caller = await scene.caller()
        for length in range(1, 6):
            caller.ask(bytes(length))
        assert [(await caller.answer())[::2] for _ in range(5)] == [
            (200, str(n).encode()) for n in range(1, 6)
        ]
        await scene.until(0)

    play(routes, story)


def test_a_head_that_begins_in_the_same_piece_as_a_long_body_ends_is_waited_for(
    routes: Routes,
) -> None:
    async def story(scene: Scene) -> None:
        scene.gate.open.set()
        caller = await scene.caller()
        length = 2 * MAX_HEADER_BYTES
        for _ in range(10):
            caller.send(head(length) + bytes(length) + head(5)[:20])
            await asyncio.sleep(0.01)
            caller.send(head(5)[20:] + b"image")
            answers = [(await caller.answer())[::2] for _ in range(2)]
            assert answers == [(200, str(length).encode()), (200, b"5")]

    play(routes, story)


@pytest.mark.parametrize("piece", [b"a: b\r\n" * 1000, b"a" * 5000], ids=["many", "one"])
def test_trailers_without_an_end_are_refused(routes: Routes, piece: bytes) -> None:
    async def story(scene: Scene) -> None:
        caller = await scene.caller()
        caller.send(
            b"POST /predict HTTP/1.1\r\nHost: loupe\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\nx: "
        )
        for _ in range(2 * MAX_HEADER_BYTES // len(piece) + 1):
            await asyncio.sleep(0.001)
            caller.send(piece)
        status, headers, body = await caller.answer()
        assert (status, headers["connection"], json.loads(body)["code"]) == (
            431,
            "close",
            "headers_too_large",
        )

    play(routes, story)


def test_a_body_in_small_chunks_and_its_trailers_are_taken(routes: Routes) -> None:
    async def story(scene: Scene) -> None:
        scene.gate.open.set()
        caller = await scene.caller()
        caller.send(b"POST /predict HTTP/1.1\r\nHost: loupe\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            caller.send(b"1\r\nx\r\n" * 500)
            await asyncio.sleep(0.001)
        caller.send(b"0\r\nDigest: none\r\n\r\n")
        assert (await caller.answer())[::2] == (200, b"50000")

    play(routes, story)


def test_many_requests_in_one_piece_are_all_answered(routes: Routes) -> None:
    async def story(scene: Scene) -> None:
        scene.gate.open.set()
        caller = await scene.caller()
        caller.send((head(400, "/read") + bytes(400)) * 300)
        assert [(await caller.answer())[0] for _ in range(300)] == [200] * 300

    play(routes, story)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        "GET /é HTTP/1.1\r\nHost: loupe\r\n\r\n".encode(),
        b"no word of HTTP\r\n\r\n",
    ],
)
def test_what_is_no_http_is_refused_like_anything_else_and_counted(
    routes: Routes, sent: bytes
) -> None:
    async def story(scene: Scene) -> None:
        caller = await scene.caller()
        caller.send(sent)
        status, headers, body = await caller.answer()
        assert (status, headers["connection"], headers["content-type"]) == (
            400,
            "close",
            "application/json",
        )
        assert len(headers["x-request-id"]) == 16
        assert json.loads(body) == {
            "error": "Expected a request of HTTP/1.1. Received: bytes that are none.",
            "code": "invalid_request",
        }
        assert await caller.is_closed()

    play(routes, story)
    counted = b'loupe_requests_total{key="-",model="-",protocol="-",status="400"}'
    assert counted in routes.predictor.exposed_metrics()


def test_a_page_may_ask_what_it_may_do_however_many_wait(routes: Routes) -> None:
    async def story(scene: Scene) -> None:
        await fill(scene)
        late = await scene.caller()
        late.send(b"OPTIONS /nowhere HTTP/1.1\r\nHost: loupe\r\n\r\n")
        assert (await late.answer())[0] == 200

    play(routes, story)


@pytest.mark.parametrize(
    ("allowed", "origin", "answered"),
    [
        ("https://pages.example", "https://pages.example", "https://pages.example"),
        ("https://pages.example", "https://other.example", None),
        ("*", "https://other.example", "*"),
        ("", "https://pages.example", None),
    ],
)
def test_a_page_may_read_that_its_request_was_one_too_many(
    routes: Routes, allowed: str, origin: str, answered: str | None
) -> None:
    async def story(scene: Scene) -> None:
        scene.in_hand = InHand(Settings(max_requests=1, cors_origins=allowed or None), routes)
        early, late = await scene.caller(), await scene.caller()
        early.ask()
        await scene.until(1)
        late.send(head(5, "/predict", f"Origin: {origin}") + b"image")
        status, headers, _ = await late.answer()
        assert (status, headers.get("access-control-allow-origin")) == (429, answered)
        assert ("retry-after" in headers.get("access-control-expose-headers", "")) is (
            answered is not None
        )

    play(routes, story)


def test_headers_without_an_end_are_refused(routes: Routes) -> None:
    async def story(scene: Scene) -> None:
        caller = await scene.caller()
        line = b"X: " + b"x" * 1000 + b"\r\n"
        caller.send(b"GET / HTTP/1.1\r\n" + line * (2 * MAX_HEADER_BYTES // len(line) + 1))
        status, headers, body = await caller.answer()
        assert (status, headers["connection"], json.loads(body)["code"]) == (
            431,
            "close",
            "headers_too_large",
        )
        assert len(headers["x-request-id"]) == 16

    play(routes, story)


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost:"])
def test_a_head_that_does_not_come_is_not_waited_for(
    routes: Routes, monkeypatch: pytest.MonkeyPatch, sent: bytes
) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS" if sent else "IDLE_SECONDS", 0.05)

    async def story(scene: Scene) -> None:
        first = await scene.caller()
        first.send(sent)
        assert await first.is_closed()
        scene.gate.open.set()
        second = await scene.caller()
        second.ask()
        assert (await second.answer())[0] == 200
        if sent:
            second.send(sent)
            assert await second.is_closed()

    play(routes, story)


def test_a_connection_is_not_idle_while_its_requests_are_refused(
    routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.3)

    async def story(scene: Scene) -> None:
        await fill(scene)
        late = await scene.caller()
        for _ in range(6):
            late.ask()
            assert (await late.answer())[0] == 429
            await asyncio.sleep(0.1)
        assert await late.is_closed()

    play(routes, story)


# Long bodies


def digest(body: bytes) -> tuple[int, bytes]:
    """Status and body of the answer to a body that was read whole."""
    return 200, hashlib.sha256(body).digest()


@given(
    lengths=st.lists(
        st.integers(0, 2).map(lambda n: n * LONG_BYTES) | st.integers(1, 4 * LONG_BYTES),
        min_size=1,
        max_size=3,
    ),
    cuts=st.lists(st.integers(1, 12 * LONG_BYTES), max_size=6),
    late_seconds=st.sampled_from([0.0, 0.01]),
)
@example(lengths=[LONG_BYTES + 1, 3 * LONG_BYTES, 5], cuts=[], late_seconds=0)
@example(lengths=[4 * LONG_BYTES], cuts=[100, 300, 200_000, 200_001], late_seconds=0)
@example(lengths=[4 * LONG_BYTES, 9], cuts=[100, 300_000], late_seconds=0.01)
@example(lengths=[2 * LONG_BYTES], cuts=[LONG_BYTES // 2], late_seconds=0.01)
@settings(max_examples=40, deadline=None)
def test_bodies_of_every_length_are_read_whole_in_whatever_pieces_they_come(
    routes: Routes, lengths: list[int], cuts: list[int], late_seconds: float
) -> None:
    sent = [random.Random(length).randbytes(length or 1) for length in lengths]
    stream = b"".join(head(len(body), "/read") + body for body in sent)

    async def story(scene: Scene) -> None:
        scene.gate.late_seconds = late_seconds
        caller = await scene.caller()
        for begin, end in pairwise([0, *sorted(cuts), len(stream)]):
            caller.send(stream[begin:end])
            await asyncio.sleep(0.001)
        assert [(await caller.answer())[::2] for _ in sent] == [digest(body) for body in sent]
        await scene.until(0)

    play(routes, story)


def test_a_body_and_another_request_may_have_come_before_the_app_learns_that_it_is_long(
    routes: Routes,
) -> None:
    body, other = (random.Random(seed).randbytes(LONG_BYTES + 90_000) for seed in range(2))
    parts = (head(len(body), "/read") + body[:40_000], body[40_000:80_000], body[80_000:140_000])
    last = body[140_000:] + head(len(other), "/read") + other[:20]

    async def story(scene: Scene) -> None:
        caller = await scene.caller()
        for _ in range(4):  # the system's buffers grow with use
            caller.ask(4 * body, "/read")
            assert (await caller.answer())[::2] == digest(4 * body)
        scene.gate.late_seconds = 0.1
        for part, seconds in zip(
            (*parts, last, other[20:]), (0.13, 0.03, 0.02, 0.2, 0), strict=True
        ):
            caller.send(part)
            await asyncio.sleep(seconds)
        assert (await caller.answer())[::2] == digest(body)
        assert (await caller.answer())[::2] == digest(other)

    play(routes, story)


@pytest.mark.parametrize("length", [LONG_BYTES, MOST_LONG_BYTES + LONG_BYTES + 1])
def test_a_long_body_that_is_announced_is_asked_for(routes: Routes, length: int) -> None:
    body = random.Random(0).randbytes(length)

    async def story(scene: Scene) -> None:
        caller = await scene.caller()
        caller.send(head(length, "/read", "Expect: 100-continue"))
        assert (await caller.head())[0] == 100
        caller.send(body)
        assert (await caller.answer())[::2] == digest(body)

    play(routes, story)


@pytest.mark.parametrize("sent", [1000, LONG_BYTES])
@pytest.mark.parametrize("late_seconds", [0, 0.05])
def test_who_leaves_in_the_middle_of_a_long_body_is_called_gone(
    routes: Routes, sent: int, late_seconds: float
) -> None:
    async def story(scene: Scene) -> None:
        scene.gate.late_seconds = late_seconds
        caller = await scene.caller()
        caller.send(head(4 * LONG_BYTES, "/read") + bytes(sent))
        while not scene.gate.begun:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        caller.leave()
        while not scene.gate.refused:
            await asyncio.sleep(0.001)
        assert scene.gate.refused == [CallerGone.code]
        other = await scene.caller()
        other.ask(b"image", "/read")
        assert (await other.answer())[::2] == digest(b"image")
        assert scene.in_hand.requests == 0

    play(routes, story)


def test_a_long_body_that_does_not_come_to_its_end_is_not_waited_for_nor_taken_for_another_request(
    routes: Routes,
) -> None:
    sent = 2 * LONG_BYTES + 17

    async def story(scene: Scene) -> None:
        scene.gate.limit_seconds = 0.2
        caller = await scene.caller()
        caller.send(head(4 * LONG_BYTES, "/read") + bytes(sent))
        status, _, body = await caller.answer()
        assert (status, json.loads(body)["code"]) == (BodyTooSlow.status, "body_too_slow")
        assert f"Received: {sent:,} bytes of it." in json.loads(body)["error"]
        caller.send(head(5, "/read") + b"image")
        assert await caller.is_closed()
        assert scene.gate.begun == 1

    play(routes, story)


def test_long_bodies_have_no_more_room_than_others(routes: Routes) -> None:
    body = bytes(4 * LONG_BYTES)

    async def story(scene: Scene) -> None:
        scene.gate.bodies = Bodies(Settings(max_body_bytes=len(body)))
        callers = [await scene.caller() for _ in range(MOST_OF_THE_LONGEST + 1)]
        for place, caller in enumerate(callers, start=1):
            caller.send(
                head(len(body), "/read") + body[:LONG_BYTES]
            )  # takes the place of all of it
            while scene.gate.begun < place:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.01)
        assert json.loads((await callers.pop().answer())[2])["code"] == "too_many_bytes"
        for caller in callers:
            caller.send(body[LONG_BYTES:])
            assert (await caller.answer())[::2] == digest(body)

    play(routes, story)


def test_little_room_is_made_for_a_body_of_which_little_has_come(routes: Routes) -> None:
    async def story(scene: Scene) -> None:
        scene.gate.bodies = Bodies(Settings(max_body_bytes=MOST_LONG_BYTES))
        for _ in range(2 * MOST_OF_THE_LONGEST):
            caller = await scene.caller()
            caller.send(head(MOST_LONG_BYTES, "/read") + bytes(10_000))
        other = await scene.caller()
        other.ask(bytes(4 * LONG_BYTES), "/read")
        assert (await other.answer())[::2] == digest(bytes(4 * LONG_BYTES))

    play(routes, story)


def test_only_so_much_room_is_made_for_what_has_not_come(
    routes: Routes, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = bytes(4 * LONG_BYTES)
    given = []

    def give(*about: Any) -> LongBody:
        given.append(about)
        return LongBody(*about)

    monkeypatch.setattr(bodies, "MOST_ON_TRUST_BYTES", len(body))
    monkeypatch.setattr(connection, "LongBody", give)

    async def story(scene: Scene) -> None:
        scene.gate.bodies = Bodies(Settings(max_body_bytes=len(body)))
        callers = [await scene.caller() for _ in range(2 * MOST_OF_THE_LONGEST)]
        for caller in callers:
            caller.send(head(len(body), "/read") + body[: BEGUN_BYTES + 1])
        while scene.gate.begun < len(callers) or not given:
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.05)
        assert len(given) == 1
        for caller in callers[::-1]:
            caller.send(body[BEGUN_BYTES + 1 :])
            assert (await caller.answer())[::2] == digest(body)
        given.clear()
        caller.ask(body, "/read")
        assert (await caller.answer())[::2] == digest(body)
        assert len(given) == 1

    play(routes, story)


@pytest.mark.parametrize("ends", ["whole", "too slow", "gone"])
def test_nothing_is_kept_of_a_long_body_that_has_been_answered(routes: Routes, ends: str) -> None:
    length = 16 * LONG_BYTES
    sent = length if ends == "whole" else length // 2

    async def story(scene: Scene) -> None:
        scene.gate.limit_seconds = 0.2 if ends == "too slow" else 30
        callers = [await scene.caller() for _ in range(4)]
        for caller in callers:
            caller.send(head(length, "/read") + bytes(sent))
            if ends == "gone":
                await asyncio.sleep(0.1)
                caller.leave()
            else:
                await caller.answer()
        while ends == "gone" and len(scene.gate.refused) < len(callers):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert tracemalloc.get_traced_memory()[0] < length

    with uncollected():
        tracemalloc.start()
        try:
            play(routes, story)
        finally:
            tracemalloc.stop()


def test_the_next_request_after_a_long_body_may_be_the_last_one_and_have_something_behind_it(
    routes: Routes,
) -> None:
    body = bytes(4 * LONG_BYTES)

    async def story(scene: Scene) -> None:
        caller = await scene.caller()
        caller.ask(body, "/read")
        assert (await caller.answer())[::2] == digest(body)
        caller.send(head(5, "/read", "Connection: close") + b"image" + head(5, "/read") + b"image")
        assert (await caller.answer())[::2] == digest(b"image")

    play(routes, story)


@pytest.mark.parametrize("length", [5, 4 * LONG_BYTES])
def test_requests_that_have_been_answered_wait_for_no_garbage_collector(
    routes: Routes, length: int
) -> None:
    async def story(scene: Scene) -> None:
        caller = await scene.caller()
        for _ in range(10):
            caller.ask(bytes(length), "/read")
            assert (await caller.answer())[0] == 200
        left = [thing for thing in gc.get_objects() if type(thing) is RequestResponseCycle]
        assert len(left) == 1  # the connection's last one

    with uncollected():
        play(routes, story)
