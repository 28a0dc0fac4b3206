"""Connections and limits: a real server on a real port, and an app that answers on demand."""

import asyncio
import gc
import json
import random
import socket
import time
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
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from loupe.errors import BodyTooSlow, CallerGone, LoupeError
from loupe.settings import Settings
from service.connections import connection, flow
from service.connections.connection import Connection
from service.http import replies
from service.http.bodies import LARGEST_BODIES_SHARE, Bodies
from service.http.context import context_of
from service.http.middleware import MAX_HEADER_BYTES, RequestMiddleware
from service.key_limits import KeyLimits
from service.metrics import Metrics, exposed
from tests.support.garbage import uncollected

MAX_REQUESTS = 2
LONG_BYTES = 256 * 1024
HEADERS = ["Accept: */*", "Connection: keep-alive", "User-Agent: a program", "X-Request-ID: mine"]


class Gate:
    """An app that reads the body as the service does and answers with its length.

    It answers under `/predict` only once the gate is open.
    """

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.begun = 0
        self.bodies = Bodies(Settings())
        self.limit_seconds = 30.0
        self.refused: list[str] = []
        self.alone_and_complete: list[tuple[bool, bool]] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        self.begun += 1
        context = context_of(scope)
        self.alone_and_complete.append((context.is_alone(), context.is_received))
        try:
            body = await self._read(Request(scope, receive, send))
            if scope["path"] == "/predict":
                await self.open.wait()
            response = Response(str(len(body)))
        except LoupeError as error:
            self.refused.append(error.code)
            response = replies.failure(error)
        finally:
            self.bodies.release(context)
        await response(scope, receive, send)

    async def _read(self, request: Request) -> bytes:
        has_body = {"transfer-encoding", "content-length"} & set(request.headers)
        if not has_body or request.headers.get("content-length") == "0":
            return b""
        return await self.bodies.read(request, limit_seconds=self.limit_seconds)


class Client:
    """One connection to the server."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    def post(self, body: bytes = b"image", path: str = "/predict") -> None:
        self.send(head(len(body), path) + body)

    async def response(self) -> tuple[int, dict[str, str], bytes]:
        """Read status, headers and body."""
        status, headers = await self.response_head()
        return status, headers, await self._reader.readexactly(int(headers["content-length"]))

    async def response_head(self) -> tuple[int, dict[str, str]]:
        status, *lines = (await self._reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        return int(status.split()[1]), dict(line.lower().split(": ", 1) for line in lines)

    async def is_closed(self) -> bool:
        """Wait for the end of the connection; return whether it comes without more bytes."""
        return await self._reader.read(1) == b""

    async def send_forever(self, data: bytes) -> None:
        while True:
            self.send(data)
            await self._writer.drain()
            await asyncio.sleep(0.001)

    def leave(self) -> None:
        self._writer.transport.abort()


class Scene:
    """A server, its app, and its clients."""

    def __init__(self, **limits: Any) -> None:
        self.gate = Gate()
        self.metrics = Metrics()
        options = {"max_requests": MAX_REQUESTS, "access_log": True, **limits}
        self.is_draining = False
        middleware = RequestMiddleware(
            self.gate,
            Settings(**options),
            self.metrics,
            KeyLimits({}),
            is_draining=lambda: self.is_draining,
        )
        self.in_flight = middleware.in_flight
        self._app: ASGIApp = middleware
        self._clients: list[Client] = []

    async def client(self) -> Client:
        made = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self._clients.append(made)
        return made

    async def until_in_flight(self, requests: int) -> None:
        while self.in_flight.held != requests:
            await asyncio.sleep(0.001)

    async def until_begun(self, requests: int) -> None:
        while self.gate.begun < requests:
            await asyncio.sleep(0.001)

    async def fill(self) -> list[Client]:
        """Return clients that have the maximum number of requests in flight."""
        clients = [await self.client() for _ in range(MAX_REQUESTS)]
        for client in clients:
            client.post()
        await self.until_in_flight(MAX_REQUESTS)
        return clients

    async def play(self, story: Callable[["Scene"], Awaitable[None]]) -> None:
        with closing(socket.create_server(("127.0.0.1", 0))) as listening:
            self.port = listening.getsockname()[1]

            def protocol(**options: Any) -> Connection:
                return Connection(metrics=self.metrics, **options)

            config = uvicorn.Config(
                self._app,
                http=protocol,  # type: ignore[arg-type]
                ws="none",
                lifespan="off",
                log_config=None,
                timeout_keep_alive=connection.IDLE_SECONDS,
            )
            self.server = server = uvicorn.Server(config)
            serving = asyncio.create_task(server.serve([listening]))
            try:
                await asyncio.wait_for(story(self), 30)
            finally:
                self.gate.open.set()
                for client in self._clients:
                    client.leave()
                server.should_exit = True
                await asyncio.wait_for(serving, 30)


def head(length: int, path: str = "/predict", *more: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: loupe", f"Content-Length: {length}", *more, "", ""]
    return "\r\n".join(lines).encode()


def play(story: Callable[[Scene], Awaitable[None]], **limits: Any) -> Metrics:
    """Run a story on the service's event loop, and return what was counted."""
    scene = Scene(**limits)
    uvloop.run(scene.play(story))
    return scene.metrics


# What a connection knows about its requests


def test_request_knows_whether_it_is_alone_and_complete() -> None:
    async def story(scene: Scene) -> None:
        first, second = await scene.client(), await scene.client()
        first.post()
        await scene.until_begun(1)
        second.send(head(5))
        await scene.until_begun(2)
        second.send(b"image")
        scene.gate.open.set()
        for client in (first, second):
            assert (await client.response())[::2] == (200, b"5")
        assert scene.gate.alone_and_complete == [(True, True), (False, False)]

    play(story)


# Too many requests


def test_excess_request_is_refused_at_once_and_those_in_flight_are_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def story(scene: Scene) -> None:
        early = await scene.fill()
        late = await scene.client()
        late.send(head(100, "/predict?top_k=1", "X-Request-ID: late") + b"x" * 100)
        status, headers, body = await late.response()

        assert (status, headers["retry-after"], headers["x-frame-options"]) == (429, "1", "deny")
        assert headers["x-request-id"] == "late"
        assert json.loads(body)["code"] == "too_many_requests"
        assert "LOUPE_MAX_REQUESTS" in json.loads(body)["error"]
        assert scene.gate.begun == MAX_REQUESTS
        scene.gate.open.set()
        assert [(await client.response())[::2] for client in early] == [(200, b"5")] * MAX_REQUESTS
        late.post(b"x" * 100)  # the connection stays usable
        assert (await late.response())[::2] == (200, b"100")
        await scene.until_in_flight(0)

    with caplog.at_level("INFO", "service.access"):
        metrics = play(story)
    assert "POST '/predict' 429 " in caplog.text
    assert b'loupe_rejected_total{code="too_many_requests"} 1.0' in exposed(
        metrics.collected({}, [])
    )


@given(
    st.lists(
        st.tuples(st.integers(0, 20), st.sets(st.sampled_from(HEADERS))), min_size=1, max_size=3
    ),
    st.lists(st.integers(1, 400), max_size=4),
)
@settings(max_examples=30)
def test_excess_requests_are_refused_one_by_one_in_whatever_chunks_they_arrive(
    requests: list[tuple[int, set[str]]], cuts: list[int]
) -> None:
    stream = b"".join(
        head(length, "/predict", *sorted(more)) + bytes(length) for length, more in requests
    )

    async def story(scene: Scene) -> None:
        early = await scene.fill()
        late = await scene.client()
        for start, stop in pairwise([0, *sorted(cuts), len(stream)]):
            late.send(stream[start:stop])
            await asyncio.sleep(0.001)
        assert [(await late.response())[0] for _ in requests] == [429] * len(requests)
        scene.gate.open.set()
        for client in early:
            await client.response()
        late.post()
        assert (await late.response())[::2] == (200, b"5")

    play(story)


@pytest.mark.parametrize("more", ["Content-Length: 4", "Transfer-Encoding: chunked", "no colon"])
def test_ambiguous_request_is_invalid_at_any_load(more: str) -> None:
    async def story(scene: Scene) -> None:
        await scene.fill()
        late = await scene.client()
        late.send(head(5, "/predict", more) + b"0\r\n\r\n")
        assert (await late.response_head())[0] == 400

    play(story)


def test_body_of_a_refused_request_may_arrive_later() -> None:
    async def story(scene: Scene) -> None:
        await scene.fill()
        late = await scene.client()
        late.send(head(3))
        assert (await late.response())[0] == 429
        late.send(b"abc" + head(2, "/livez") + b"de")
        assert (await late.response())[::2] == (200, b"2")

    play(story)


@pytest.mark.parametrize(
    "more", [["Expect: 100-continue"], ["Connection: close"], ["Transfer-Encoding: chunked"]]
)
def test_incomplete_excess_request_is_refused(more: list[str]) -> None:
    async def story(scene: Scene) -> None:
        await scene.fill()
        late = await scene.client()
        lines = ["POST /predict HTTP/1.1", "Host: loupe", *more]
        if "chunked" not in more[0]:
            lines.append("Content-Length: 3")
        late.send("\r\n".join([*lines, "", ""]).encode())
        status, headers, _ = await late.response()
        assert status == 429
        if more == ["Connection: close"]:
            assert headers["connection"] == "close"
            assert await late.is_closed()

    play(story)


def test_refused_head_request_has_no_body() -> None:
    async def story(scene: Scene) -> None:
        await scene.fill()
        late = await scene.client()
        late.send(b"HEAD /models HTTP/1.1\r\nHost: loupe\r\n\r\n" * 2)
        assert (await late.response_head())[0] == 429
        assert (await late.response_head())[0] == 429

    play(story)


def test_health_checks_are_answered_at_any_load() -> None:
    async def story(scene: Scene) -> None:
        await scene.fill()
        watcher = await scene.client()
        watcher.post(path="/readyz")
        assert (await watcher.response())[0] == 200

    play(story)


def test_options_requests_are_answered_at_any_load() -> None:
    async def story(scene: Scene) -> None:
        await scene.fill()
        late = await scene.client()
        late.send(b"OPTIONS /nowhere HTTP/1.1\r\nHost: loupe\r\n\r\n")
        assert (await late.response())[0] == 200

    play(story)


def test_slow_uploads_do_not_count_as_in_flight() -> None:
    async def story(scene: Scene) -> None:
        slow = [await scene.client() for _ in range(2 * MAX_REQUESTS)]
        for client in slow:
            client.send(head(5) + b"imag")
        await scene.until_begun(len(slow))
        await scene.until_in_flight(0)
        quick = await scene.client()
        quick.post(path="/elsewhere")
        assert (await quick.response())[0] == 200

    play(story)


def test_disconnected_clients_make_room() -> None:
    async def story(scene: Scene) -> None:
        scene.gate.limit_seconds = 0.2
        early = [await scene.client() for _ in range(MAX_REQUESTS)]
        for client in early:
            client.send(head(5) + b"imag")
        await scene.until_begun(MAX_REQUESTS)
        for client in early:
            client.leave()
        await scene.until_in_flight(0)

    play(story)


@pytest.mark.parametrize(
    ("allowed", "origin", "answered"),
    [
        ("https://pages.example", "https://pages.example", "https://pages.example"),
        ("https://pages.example", "https://other.example", None),
        ("*", "https://other.example", "*"),
        ("", "https://pages.example", None),
    ],
)
def test_pages_may_read_the_refusal_of_an_excess_request(
    allowed: str, origin: str, answered: str | None
) -> None:
    async def story(scene: Scene) -> None:
        early, late = await scene.client(), await scene.client()
        early.post()
        await scene.until_in_flight(1)
        late.send(head(5, "/predict", f"Origin: {origin}") + b"image")
        status, headers, _ = await late.response()
        assert (status, headers.get("access-control-allow-origin")) == (429, answered)
        if answered is not None:
            assert "retry-after" in headers["access-control-expose-headers"]

    play(story, max_requests=1, cors_origins=allowed or None)


# Pipelining and upgrades


def test_disconnect_ends_all_pipelined_requests(caplog: pytest.LogCaptureFixture) -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send(2 * (head(5) + b"image"))
        await scene.until_in_flight(1)
        client.leave()
        scene.gate.open.set()
        await scene.until_in_flight(0)
        other = await scene.client()
        other.post()
        assert (await other.response())[0] == 200

    play(story)
    assert "Exception in ASGI application" not in caplog.text


def test_refusal_during_an_earlier_request_ends_both(caplog: pytest.LogCaptureFixture) -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send(head(5) + b"image")
        await scene.until_in_flight(1)
        client.send(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + head(5))
        assert (await client.response())[0] == 400
        scene.gate.open.set()
        await scene.until_in_flight(0)
        assert await client.is_closed()

    play(story)
    assert "Exception in ASGI application" not in caplog.text


def test_websocket_upgrade_is_answered_over_http() -> None:
    async def story(scene: Scene) -> None:
        key = ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version: 13"]
        upgrade = head(0, "/elsewhere", "Connection: Upgrade", "Upgrade: websocket", *key)
        client = await scene.client()
        client.send(upgrade)
        assert (await client.response())[::2] == (200, b"0")
        await scene.until_in_flight(0)

    play(story)


def test_pipelined_requests_are_all_answered() -> None:
    async def story(scene: Scene) -> None:
        scene.gate.open.set()
        client = await scene.client()
        for length in range(1, 6):
            client.post(bytes(length))
        responses = [(await client.response())[::2] for _ in range(5)]
        assert responses == [(200, str(length).encode()) for length in range(1, 6)]
        await scene.until_in_flight(0)

    play(story)


def test_many_requests_in_one_chunk_are_all_answered() -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send((head(400, "/elsewhere") + bytes(400)) * 300)
        assert [(await client.response())[0] for _ in range(300)] == [200] * 300

    play(story)


# Heads


def test_head_that_starts_in_the_chunk_with_the_end_of_a_long_body_is_awaited() -> None:
    async def story(scene: Scene) -> None:
        scene.gate.open.set()
        client = await scene.client()
        length = 2 * MAX_HEADER_BYTES
        for _ in range(10):
            client.send(head(length) + bytes(length) + head(5)[:20])
            await asyncio.sleep(0.01)
            client.send(head(5)[20:] + b"image")
            responses = [(await client.response())[::2] for _ in range(2)]
            assert responses == [(200, str(length).encode()), (200, b"5")]

    play(story)


async def assert_headers_too_large(client: Client) -> None:
    status, headers, body = await client.response()
    assert (status, headers["connection"]) == (431, "close")
    assert json.loads(body)["code"] == "headers_too_large"
    assert len(headers["x-request-id"]) == 16


@pytest.mark.parametrize("piece", [b"a: b\r\n" * 1000, b"a" * 5000], ids=["many", "one"])
def test_endless_trailers_are_refused(piece: bytes) -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send(
            b"POST /predict HTTP/1.1\r\nHost: loupe\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"4\r\nbody\r\n0\r\nx: "
        )
        for _ in range(2 * MAX_HEADER_BYTES // len(piece) + 1):
            await asyncio.sleep(0.001)
            client.send(piece)
        await assert_headers_too_large(client)

    play(story)


def test_body_in_small_chunks_with_trailers_is_accepted() -> None:
    async def story(scene: Scene) -> None:
        scene.gate.open.set()
        client = await scene.client()
        client.send(b"POST /predict HTTP/1.1\r\nHost: loupe\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(100):
            client.send(b"1\r\nx\r\n" * 500)
            await asyncio.sleep(0.001)
        client.send(b"0\r\nDigest: none\r\n\r\n")
        assert (await client.response())[::2] == (200, b"50000")

    play(story)


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        "GET /é HTTP/1.1\r\nHost: loupe\r\n\r\n".encode(),
        b"no word of HTTP\r\n\r\n",
    ],
    ids=["TLS", "not ASCII", "text"],
)
def test_bytes_that_are_not_http_are_refused_in_json_and_counted(sent: bytes) -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send(sent)
        status, headers, body = await client.response()
        assert (status, headers["connection"]) == (400, "close")
        assert headers["content-type"] == "application/json"
        assert len(headers["x-request-id"]) == 16
        assert json.loads(body).keys() == {"error", "code"}
        assert json.loads(body)["code"] == "invalid_request"
        assert await client.is_closed()

    counted = b'loupe_requests_total{key="-",model="-",protocol="-",status="400"} 1.0'
    assert counted in exposed(play(story).collected({}, []))


def test_endless_headers_are_refused() -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        line = b"X: " + b"x" * 1000 + b"\r\n"
        client.send(b"GET / HTTP/1.1\r\n" + line * (2 * MAX_HEADER_BYTES // len(line) + 1))
        await assert_headers_too_large(client)

    play(story)


@pytest.mark.parametrize("sent", [b"", b"GET / HTT", b"GET / HTTP/1.1\r\nHost:"])
def test_incomplete_head_times_out(monkeypatch: pytest.MonkeyPatch, sent: bytes) -> None:
    monkeypatch.setattr(connection, "HEAD_SECONDS" if sent else "IDLE_SECONDS", 0.05)

    async def story(scene: Scene) -> None:
        first = await scene.client()
        first.send(sent)
        assert await first.is_closed()
        scene.gate.open.set()
        second = await scene.client()
        second.post()
        assert (await second.response())[0] == 200
        if sent:
            second.send(sent)
            assert await second.is_closed()

    play(story)


def test_idle_connection_is_closed_after_the_late_body_of_a_refused_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(connection, "IDLE_SECONDS", 0.3)

    async def story(scene: Scene) -> None:
        await scene.fill()
        late = await scene.client()
        late.send(head(5))
        assert (await late.response())[0] == 429
        late.send(b"image")
        assert await late.is_closed()

    play(story)


# Long bodies


@given(
    lengths=st.lists(st.integers(1, 4 * LONG_BYTES), min_size=1, max_size=3),
    cuts=st.lists(st.integers(1, 12 * LONG_BYTES), max_size=6),
)
@example(lengths=[LONG_BYTES + 1, 3 * LONG_BYTES, 5], cuts=[])
@example(lengths=[4 * LONG_BYTES], cuts=[100, 300, 200_000, 200_001])
@settings(max_examples=30, deadline=None)
def test_bodies_of_every_length_are_read_in_whatever_chunks_they_arrive(
    lengths: list[int], cuts: list[int]
) -> None:
    sent = [random.Random(length).randbytes(length) for length in lengths]
    stream = b"".join(head(len(body), "/elsewhere") + body for body in sent)

    async def story(scene: Scene) -> None:
        client = await scene.client()
        for start, stop in pairwise([0, *sorted(cuts), len(stream)]):
            client.send(stream[start:stop])
            await asyncio.sleep(0.001)
        responses = [(await client.response())[::2] for _ in sent]
        assert responses == [(200, str(len(body)).encode()) for body in sent]
        await scene.until_in_flight(0)

    play(story)


def test_announced_body_is_asked_for() -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send(head(LONG_BYTES, "/elsewhere", "Expect: 100-continue"))
        assert (await client.response_head())[0] == 100
        client.send(bytes(LONG_BYTES))
        assert (await client.response())[::2] == (200, str(LONG_BYTES).encode())

    play(story)


@pytest.mark.parametrize("sent", [1000, LONG_BYTES])
def test_client_that_disconnects_during_a_long_body_is_gone(sent: int) -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send(head(4 * LONG_BYTES, "/elsewhere") + bytes(sent))
        await scene.until_begun(1)
        await asyncio.sleep(0.01)
        client.leave()
        while not scene.gate.refused:
            await asyncio.sleep(0.001)
        assert scene.gate.refused == [CallerGone.code]
        other = await scene.client()
        other.post(path="/elsewhere")
        assert (await other.response())[0] == 200
        await scene.until_in_flight(0)

    play(story)


def test_truncated_long_body_is_not_taken_for_another_request() -> None:
    sent = 2 * LONG_BYTES + 17

    async def story(scene: Scene) -> None:
        scene.gate.limit_seconds = 0.2
        client = await scene.client()
        client.send(head(4 * LONG_BYTES, "/elsewhere") + bytes(sent))
        status, _, body = await client.response()
        assert (status, json.loads(body)["code"]) == (BodyTooSlow.status, "body_too_slow")
        assert f"{sent:,} bytes" in json.loads(body)["error"]
        client.post(path="/elsewhere")
        await asyncio.sleep(0.05)
        assert scene.gate.begun == 1

    play(story)


def test_long_bodies_share_the_memory_limit() -> None:
    body = bytes(4 * LONG_BYTES)

    async def story(scene: Scene) -> None:
        scene.gate.bodies = Bodies(Settings(max_body_bytes=len(body)))
        clients = [await scene.client() for _ in range(LARGEST_BODIES_SHARE)]
        for count, client in enumerate(clients, start=1):
            client.send(head(len(body), "/elsewhere") + body[:-1])
            await scene.until_begun(count)
        await asyncio.sleep(0.2)
        late = await scene.client()
        late.post(bytes(LONG_BYTES), "/elsewhere")
        assert json.loads((await late.response())[2])["code"] == "too_many_bytes"
        for client in clients:
            client.send(body[-1:])
            assert (await client.response())[::2] == (200, str(len(body)).encode())

    play(story)


@pytest.mark.parametrize("ends", ["whole", "too slow", "gone"])
def test_answered_long_bodies_are_freed(ends: str) -> None:
    length = 16 * LONG_BYTES
    sent = length if ends == "whole" else length // 2

    async def story(scene: Scene) -> None:
        scene.gate.limit_seconds = 0.2 if ends == "too slow" else 30
        clients = [await scene.client() for _ in range(4)]
        for client in clients:
            client.send(head(length, "/elsewhere") + bytes(sent))
            if ends == "gone":
                await asyncio.sleep(0.1)
                client.leave()
            else:
                await client.response()
        while ends == "gone" and len(scene.gate.refused) < len(clients):
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        assert tracemalloc.get_traced_memory()[0] < length

    with uncollected():
        tracemalloc.start()
        try:
            play(story)
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("length", [5, 4 * LONG_BYTES])
def test_answered_requests_leave_no_reference_cycles(length: int) -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        for _ in range(10):
            client.post(bytes(length), "/elsewhere")
            assert (await client.response())[0] == 200
        left = [thing for thing in gc.get_objects() if type(thing) is RequestResponseCycle]
        assert len(left) == 1  # the connection keeps its last one

    with uncollected():
        play(story)


def test_client_that_reads_nothing_is_disconnected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "WRITE_SECONDS", 0.05)
    ended = asyncio.Event()

    async def endless(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not context_of(scope).is_gone():
            await send({"type": "http.response.body", "body": bytes(2**16), "more_body": True})
        ended.set()

    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send(b"GET / HTTP/1.1\r\nHost: loupe\r\n\r\n")
        await ended.wait()

    scene = Scene()
    scene._app = endless
    uvloop.run(scene.play(story))


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_response_without_a_length_that_breaks_off_is_not_taken_for_complete(version: str) -> None:
    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"half", "more_body": True})
        await asyncio.sleep(0.05)
        raise RuntimeError

    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send(f"GET / HTTP/{version}\r\nHost: loupe\r\n\r\n".encode())
        await client.response_head()
        try:
            body = await client._reader.read()
        except ConnectionResetError:
            assert version == "1.0"
        else:
            assert version == "1.1"
            assert body == b"4\r\nhalf\r\n"  # without the last chunk

    scene = Scene()
    scene._app = broken
    uvloop.run(scene.play(story))


def test_client_that_reads_slowly_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(flow, "WRITE_SECONDS", 0.2)
    chunk, chunks = bytes(2**20), 16

    async def large(scope: Scope, receive: Receive, send: Send) -> None:
        await Response(chunk * chunks)(scope, receive, send)

    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send(b"GET / HTTP/1.1\r\nHost: loupe\r\n\r\n")
        await client.response_head()
        for _ in range(chunks):
            await asyncio.sleep(0.05)
            await client._reader.readexactly(len(chunk))

    scene = Scene()
    scene._app = large
    uvloop.run(scene.play(story))


# Offers to upgrade to another protocol


OFFERS = ["h2c", "websocket", "TLS/1.2", "foo, bar"]
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: loupe\r\n\r\n"


def offer(length: int | None, protocol: str, path: str = "/elsewhere") -> bytes:
    body = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    lines = [f"POST {path} HTTP/1.1", "Host: loupe", "Connection: Upgrade, HTTP2-Settings"]
    return "\r\n".join([*lines, f"Upgrade: {protocol}", body, "", ""]).encode()


@pytest.mark.parametrize("protocol", OFFERS)
@pytest.mark.parametrize("is_chunked", [False, True])
@pytest.mark.parametrize("piece", [1, 50, 1000])
def test_offer_to_upgrade_is_ignored_and_its_body_read(
    protocol: str, is_chunked: bool, piece: int
) -> None:
    body = SMUGGLED
    sent = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if is_chunked else body
    stream = offer(None if is_chunked else len(body), protocol) + sent
    stream += head(3, "/elsewhere") + b"abc" + offer(2, protocol) + b"de"

    async def story(scene: Scene) -> None:
        client = await scene.client()
        for start in range(0, len(stream), piece):
            client.send(stream[start : start + piece])
            if piece > 1:
                await asyncio.sleep(0.001)
        answers = [(await client.response())[::2] for _ in range(3)]
        assert answers == [(200, str(len(body)).encode()), (200, b"3"), (200, b"2")]
        assert scene.gate.begun == 3

    play(story)


def test_offer_with_a_long_body_is_read_completely() -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send(offer(8 * LONG_BYTES, "h2c"))
        for _ in range(8):
            client.send(bytes(LONG_BYTES))
            await asyncio.sleep(0.001)
        assert (await client.response())[::2] == (200, str(8 * LONG_BYTES).encode())

    play(story)


def test_request_to_connect_is_refused() -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send(b"CONNECT loupe:443 HTTP/1.1\r\nHost: loupe:443\r\n\r\n" + SMUGGLED)
        assert (await client.response())[0] == 400
        assert await client.is_closed()
        assert scene.gate.begun == 0

    play(story)


# Answers before the end of a body


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_client_that_reads_after_sending_gets_the_early_answer(version: str) -> None:
    length = 32 * LONG_BYTES
    lines = [f"POST /predict HTTP/{version}", "Host: loupe", "Connection: close"]
    request = "\r\n".join([*lines, f"Content-Length: {length}", "", ""]).encode() + bytes(length)

    def send_then_read(port: int) -> bytes:
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            client.sendall(request)
            answer = b""
            while chunk := client.recv(65536):
                answer += chunk
        return answer

    async def story(scene: Scene) -> None:
        await scene.fill()
        for _ in range(10):
            answer = await asyncio.to_thread(send_then_read, scene.port)
            assert answer.startswith(b"HTTP/1.1 429 ")
            assert b"too_many_requests" in answer

    play(story)


def test_bytes_after_an_early_answer_are_not_taken_for_a_request() -> None:
    async def story(scene: Scene) -> None:
        early = await scene.fill()
        client = await scene.client()
        client.send(head(100_000, "/predict", "Connection: close"))
        assert (await client.response())[0] == 429
        client.send(SMUGGLED)
        assert await client.is_closed()
        scene.gate.open.set()
        for each in early:
            await each.response()
        assert scene.gate.begun == len(early)

    play(story)


@pytest.mark.parametrize("more", [[], ["Connection: close"]])
@pytest.mark.parametrize("limit", ["DROP_SECONDS", "MAX_DROPPED_BYTES"])
def test_rest_of_an_answered_body_is_limited(
    limit: str, more: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if limit == "DROP_SECONDS":
        monkeypatch.setattr(connection, limit, 0.1)
    else:
        monkeypatch.setattr(connection, limit, LONG_BYTES)

    async def story(scene: Scene) -> None:
        await scene.fill()
        client = await scene.client()
        client.send(head(10**9, "/predict", *more))
        assert (await client.response())[0] == 429
        chunk = bytes(1000 if limit == "DROP_SECONDS" else LONG_BYTES)
        with pytest.raises((ConnectionError, RuntimeError)):  # the latter is uvloop's
            await client.send_forever(chunk)

    play(story)


def test_connection_that_drops_a_body_does_not_delay_the_shutdown() -> None:
    async def story(scene: Scene) -> None:
        await scene.fill()
        for more in ([], ["Connection: close"]):
            client = await scene.client()
            client.send(head(10**9, "/predict", *more))
            assert (await client.response())[0] == 429
        unfinished = await scene.client()
        unfinished.send(b"POST /predict HT")
        await asyncio.sleep(0.01)
        scene.gate.open.set()

    started = time.monotonic()
    play(story)
    assert time.monotonic() - started < connection.DROP_SECONDS / 2


# Versions, hosts, and shutdown


@pytest.mark.parametrize("wants", [True, False])
def test_http_1_0_connection_is_kept_if_the_client_asks(wants: bool) -> None:
    asks = b"Connection: keep-alive\r\n" if wants else b""
    request = b"POST /elsewhere HTTP/1.0\r\n" + asks + b"Content-Length: 3\r\n\r\nabc"

    async def story(scene: Scene) -> None:
        client = await scene.client()
        client.send(request)
        status, headers, body = await client.response()
        assert (status, body) == (200, b"3")
        assert headers["connection"] == ("keep-alive" if wants else "close")
        if wants:
            client.send(request)
            assert (await client.response())[::2] == (200, b"3")
        else:
            assert await client.is_closed()

    play(story)


@pytest.mark.parametrize(
    ("hosts", "status"),
    [
        ([], 400),
        (["Host: a", "Host: a"], 400),
        (["Host: a", "Host: b"], 400),
        (["Host: a", "Accept: b", "Accept: c"], 200),
    ],
)
def test_http_1_1_request_needs_one_host(hosts: list[str], status: int) -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        lines = ["POST /elsewhere HTTP/1.1", *hosts, "Content-Length: 0", "", ""]
        client.send("\r\n".join(lines).encode())
        assert (await client.response())[0] == status

    play(story)


def test_draining_service_answers_and_asks_clients_to_leave() -> None:
    async def story(scene: Scene) -> None:
        kept, other = await scene.client(), await scene.client()
        for client in (kept, other):
            client.post(path="/elsewhere")
            assert "connection" not in (await client.response())[1]
        scene.is_draining = True
        kept.post(path="/elsewhere")
        status, headers, _ = await kept.response()
        assert (status, headers["connection"]) == (200, "close")
        assert await kept.is_closed()
        other.post(path="/elsewhere")  # was not cut while it was idle
        assert (await other.response())[0] == 200

    play(story)


def test_new_connections_have_a_moment_for_their_requests_while_the_server_stops() -> None:
    request = head(3, "/elsewhere") + b"abc"

    async def story(scene: Scene) -> None:
        new, begun, silent, kept = [await scene.client() for _ in range(4)]
        begun.send(request[:20])
        kept.send(request)
        assert (await kept.response())[0] == 200  # the connections before it are open, too
        scene.is_draining = scene.server.should_exit = True
        assert await kept.is_closed()
        new.send(request)
        begun.send(request[20:])

        for client in (new, begun):
            status, headers, body = await client.response()
            assert (status, headers["connection"], body) == (200, "close", b"3")
        assert await silent.is_closed()

    play(story)


def test_client_of_http_1_0_is_not_told_to_continue() -> None:
    async def story(scene: Scene) -> None:
        client = await scene.client()
        asks = head(3, "/elsewhere", "Expect: 100-continue").replace(b"HTTP/1.1", b"HTTP/1.0")
        client.send(asks)
        await asyncio.sleep(0.05)
        client.send(b"abc")

        assert (await client.response())[::2] == (200, b"3")

    play(story)
