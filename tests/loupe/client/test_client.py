"""The client against a real server that misbehaves; the service itself answers in tests/e2e/service/test_client.py."""

import asyncio
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from loupe import AsyncClient, Client, Prediction, PredictionError
from loupe.client.client import BATCHES_IN_FLIGHT
from loupe.client.predictions import MAX_ATTEMPTS
from loupe.images.spec import UInt8Array
from loupe.old_errors.core import InvalidSetting, RequestRefused, ServiceUnreachable
from tests.support import tls_server
from tests.support.programs import environment, free_port

ANSWER = {
    "label": "boot",
    "index": 1,
    "confidence": 0.9,
    "probabilities": {"shoe": 0.1, "boot": 0.9},
}
OVERLOADED = {"error": "Expected at most 8,192 images waiting.", "code": "overloaded"}

Behaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Does to each request what is next in turn, and then answers."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_POST(self) -> None:
        self.content = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.heard.append(self)
        behaviour = self.server.next_behaviour()
        behaviour(self)

    def answer(self, status: int, content: object, **headers: str) -> None:
        body = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    url: str

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.heard: list[Handler] = []
        self.behaviours: list[Behaviour] = []
        self._lock = threading.Lock()

    def next_behaviour(self) -> Behaviour:
        with self._lock:
            return self.behaviours.pop(0) if self.behaviours else well


def well(handler: Handler) -> None:
    """Every image of an array is answered with the value of its middle as the index."""
    if handler.path.startswith("/predict_batch"):
        size = 28 * 28
        images = np.frombuffer(handler.content[-(len(handler.content) // size) * size :], np.uint8)
        found = [{**ANSWER, "index": int(image[14, 14])} for image in images.reshape(-1, 28, 28)]
        handler.answer(200, {"model": "m:1", "predictions": found})
    else:
        handler.answer(200, {"model": "m:1", **ANSWER})


def reset(handler: Handler) -> None:
    """The connection is gone, without a word."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.shutdown(socket.SHUT_RD)
    handler.close_connection = True


def hang_up(handler: Handler) -> None:
    handler.close_connection = True


def overloaded(handler: Handler) -> None:
    handler.answer(429, OVERLOADED, Retry_After="0")


def stopping(handler: Handler) -> None:
    handler.answer(
        503, {"error": "The service is shutting down.", "code": "shutting_down"}, Retry_After="1"
    )


def slow(handler: Handler) -> None:
    time.sleep(0.3)
    well(handler)


def broken(handler: Handler) -> None:
    handler.answer(500, {"error": "The engine failed.", "code": "engine_failed"})


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def numbered(count: int) -> UInt8Array:
    """Dark images whose middle is their number."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 14, 14] = np.arange(count)
    return images


def indices(outcomes: list[Prediction | PredictionError]) -> list[int | None]:
    return [outcome.index if isinstance(outcome, Prediction) else None for outcome in outcomes]


@pytest.mark.parametrize("trouble", [reset, hang_up, overloaded])
def test_what_may_pass_is_tried_again(server: Server, trouble: Behaviour) -> None:
    server.behaviours = [trouble, trouble]
    with Client(server.url) as client:
        assert client.predict(b"picture").label == "boot"

    assert [handler.content for handler in server.heard] == [b"picture"] * 3


@pytest.mark.parametrize("trouble", [reset, hang_up, overloaded])
def test_what_may_pass_is_tried_again_asynchronously(server: Server, trouble: Behaviour) -> None:
    async def ask() -> Prediction:
        async with AsyncClient(server.url) as client:
            return await client.predict(b"picture")

    server.behaviours = [trouble, trouble]
    assert asyncio.run(ask()).label == "boot"
    assert len(server.heard) == 3


def test_a_service_that_says_when_to_come_back_is_not_asked_before(server: Server) -> None:
    server.behaviours = [stopping]
    begun = time.monotonic()
    with Client(server.url) as client:
        client.predict(b"picture")

    assert time.monotonic() - begun >= 1


def test_tries_have_an_end(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loupe.client.predictions.FIRST_PAUSE_SECONDS", 0.001)
    server.behaviours = [overloaded] * 20
    with Client(server.url) as client, pytest.raises(RequestRefused) as raised:
        client.predict(b"picture")

    assert (raised.value.status, raised.value.code) == (429, "overloaded")
    assert raised.value.message == OVERLOADED["error"]
    assert len(server.heard) == MAX_ATTEMPTS


def test_a_service_that_fails_is_asked_once(server: Server) -> None:
    server.behaviours = [broken]
    with (
        Client(server.url) as client,
        pytest.raises(RequestRefused, match=r"^The engine failed\.$"),
    ):
        client.predict(b"picture")

    assert len(server.heard) == 1


def test_a_certificate_that_the_environment_trusts_is_trusted_on_this_machine_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with tls_server.serving(tmp_path, tmp_path) as (url, certificate):
        with (
            Client(url) as client,
            pytest.raises(ServiceUnreachable, match="CERTIFICATE_VERIFY_FAILED"),
        ):
            client.models()
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        with (
            Client(url) as client,
            pytest.raises(RequestRefused, match="404"),
        ):  # it has files, and no models
            client.models()


def test_certificates_that_are_not_there_are_told_where_they_are_needed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with (
        Client("http://127.0.0.1:1"),
        pytest.raises(InvalidSetting, match=r"^SSL_CERT_FILE has value '/nowhere.pem': "),
    ):
        Client("https://127.0.0.1:1")


def test_the_key_is_shown_to_the_service(server: Server) -> None:
    with Client(server.url, api_key="secret") as client:
        client.predict(b"picture")

    assert server.heard[0].headers["Authorization"] == "Bearer secret"


def test_where_nobody_is_the_error_says_how_to_start_the_service() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    begun = time.monotonic()
    with Client(url) as client, pytest.raises(ServiceUnreachable) as raised:
        client.predict(b"picture")

    assert raised.value.message.startswith(f"Expected the service at {url}. Received: ")
    assert raised.value.message.endswith("Connection refused. Start it: loupe serve")
    assert time.monotonic() - begun < 1


def test_who_waits_in_vain_is_told_for_how_long(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loupe.client.predictions.GRACE_SECONDS", 0.0)
    server.behaviours = [slow]
    with (
        Client(server.url) as client,
        pytest.raises(ServiceUnreachable, match=r"no answer within 0\.1 s"),
    ):
        client.predict(b"picture", timeout=0.1)


def test_many_keep_their_order_when_batches_are_late_or_lost(server: Server) -> None:
    server.behaviours = [slow, well, reset, overloaded]
    with Client(server.url) as client:
        outcomes = list(client.predict_many(numbered(100), batch_size=7))

    assert indices(outcomes) == list(range(100))


def test_many_keep_their_order_asynchronously(server: Server) -> None:
    async def pictures() -> AsyncIterator[UInt8Array]:
        for image in numbered(100):
            yield image

    async def ask() -> list[Prediction | PredictionError]:
        async with AsyncClient(server.url) as client:
            return [outcome async for outcome in client.predict_many(pictures(), batch_size=7)]

    server.behaviours = [slow, well, reset, overloaded]
    assert indices(asyncio.run(ask())) == list(range(100))


def test_a_request_that_fails_as_a_whole_is_raised_after_the_answers_before_it(
    server: Server,
) -> None:
    def broken_from_five(handler: Handler) -> None:
        first = handler.content[-5 * 28 * 28 + 14 * 28 + 14]
        (broken if first == 5 else well)(handler)

    server.behaviours = [broken_from_five] * 2
    with Client(server.url) as client:
        outcomes = client.predict_many(numbered(10), batch_size=5)

        assert indices(list(islice(outcomes, 5))) == list(range(5))
        with pytest.raises(RequestRefused, match="The engine failed"):
            next(outcomes)


def test_what_the_iterable_raises_is_not_hidden(server: Server) -> None:
    def pictures() -> Iterator[UInt8Array]:
        yield from numbered(3)
        raise KeyError("the archive ends early")

    with Client(server.url) as client, pytest.raises(KeyError, match="the archive ends early"):
        list(client.predict_many(pictures(), batch_size=2))


def test_who_has_seen_enough_may_leave(server: Server) -> None:
    server.behaviours = [well, slow]
    with Client(server.url) as client:
        first = next(iter(client.predict_many(numbered(50), batch_size=5)))

    assert isinstance(first, Prediction)
    assert len(server.heard) <= BATCHES_IN_FLIGHT


def test_only_who_asks_for_the_client_imports_it() -> None:
    script = "import sys, loupe; print('httpx' in sys.modules); loupe.Client; print('httpx' in sys.modules)"
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True)

    assert ended.stdout == "False\nTrue\n", ended.stderr


def test_the_package_has_nothing_else() -> None:
    import loupe

    with pytest.raises(AttributeError, match="module 'loupe' has no attribute 'Server'"):
        loupe.Server  # type: ignore[attr-defined]  # noqa: B018
