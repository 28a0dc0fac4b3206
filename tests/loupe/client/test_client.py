"""The client against a real server that misbehaves.

The service itself answers in tests/e2e/service/test_client.py.
"""

import asyncio
import json
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from loupe import AsyncClient, Client, Prediction, PredictionError
from loupe.client.client import BATCHES_IN_FLIGHT
from loupe.client.flows import MAX_ATTEMPTS
from loupe.errors import InvalidSetting, LoupeError, RequestRefused, ServiceUnreachable
from loupe.images.spec import UInt8Array
from loupe.jobs import ScoringJob
from tests.support.programs import environment, free_port
from tests.support.servers import tls_server

ANSWER = {
    "label": "boot",
    "index": 1,
    "confidence": 0.9,
    "probabilities": {"shoe": 0.1, "boot": 0.9},
}
OVERLOADED = {"error": "Expected at most 8,192 images waiting.", "code": "overloaded"}

Behaviour = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """Applies the next behaviour in turn to each request."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_GET(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
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
    """Answer each image of an array with the value of its centre as the index."""
    if handler.path.startswith("/predict_batch"):
        size = 28 * 28
        images = np.frombuffer(handler.content[-(len(handler.content) // size) * size :], np.uint8)
        found = [{**ANSWER, "index": int(image[14, 14])} for image in images.reshape(-1, 28, 28)]
        handler.answer(200, {"model": "m:1", "predictions": found})
    else:
        handler.answer(200, {"model": "m:1", **ANSWER})


def reset(handler: Handler) -> None:
    """Reset the connection."""
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
    """Return images that need no normalizing, and whose centre pixel is their number."""
    images = np.zeros((count, 28, 28), np.uint8)
    images[:, 5:24:18, 5:24:18] = 255  # the corners of a centred box as large as MNIST's
    images[:, 14, 14] = np.arange(count)
    return images


def indices(outcomes: list[Prediction | PredictionError]) -> list[int | None]:
    return [outcome.index if isinstance(outcome, Prediction) else None for outcome in outcomes]


@pytest.mark.parametrize("trouble", [reset, hang_up, overloaded])
def test_transient_failures_are_retried(server: Server, trouble: Behaviour) -> None:
    server.behaviours = [trouble, trouble]
    with Client(server.url) as client:
        assert client.predict(b"picture").label == "boot"

    assert [handler.content for handler in server.heard] == [b"picture"] * 3


@pytest.mark.parametrize("trouble", [reset, hang_up, overloaded])
def test_transient_failures_are_retried_asynchronously(server: Server, trouble: Behaviour) -> None:
    async def ask() -> Prediction:
        async with AsyncClient(server.url) as client:
            return await client.predict(b"picture")

    server.behaviours = [trouble, trouble]
    assert asyncio.run(ask()).label == "boot"
    assert len(server.heard) == 3


def test_client_waits_for_retry_after(server: Server) -> None:
    server.behaviours = [stopping]
    begun = time.monotonic()
    with Client(server.url) as client:
        client.predict(b"picture")

    assert time.monotonic() - begun >= 1


def test_retries_are_limited(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("loupe.client.flows.FIRST_PAUSE_SECONDS", 0.001)
    server.behaviours = [overloaded] * 20
    with Client(server.url) as client, pytest.raises(RequestRefused) as raised:
        client.predict(b"picture")

    assert (raised.value.status, raised.value.code) == (429, "overloaded")
    assert raised.value.message == OVERLOADED["error"]
    assert len(server.heard) == MAX_ATTEMPTS


def test_server_errors_are_not_retried(server: Server) -> None:
    server.behaviours = [broken]
    with (
        Client(server.url) as client,
        pytest.raises(RequestRefused, match=r"^The engine failed\.$"),
    ):
        client.predict(b"picture")

    assert len(server.heard) == 1


def test_certificates_from_the_environment_are_trusted_on_this_machine(
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


def test_missing_certificates_are_an_invalid_setting(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    with (
        Client("http://127.0.0.1:1"),
        pytest.raises(InvalidSetting, match=r"SSL_CERT_FILE='/nowhere\.pem'"),
    ):
        Client("https://127.0.0.1:1")


def test_key_is_sent_as_a_bearer_token(server: Server) -> None:
    with Client(server.url, api_key="secret") as client:
        client.predict(b"picture")

    assert server.heard[0].headers["Authorization"] == "Bearer secret"


def test_unreachable_service_error_says_how_to_start_it() -> None:
    url = f"http://127.0.0.1:{free_port()}"
    begun = time.monotonic()
    with Client(url) as client, pytest.raises(ServiceUnreachable) as raised:
        client.predict(b"picture")

    assert url in raised.value.message
    assert "loupe serve" in raised.value.message
    assert time.monotonic() - begun < 1


def test_timeout_error_says_how_long_the_client_waited(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loupe.client.flows.GRACE_SECONDS", 0.0)
    server.behaviours = [slow]
    with (
        Client(server.url) as client,
        pytest.raises(ServiceUnreachable, match=r"no answer within 0\.1 s"),
    ):
        client.predict(b"picture", timeout=0.1)


def unpacks_to_a_gigabyte(handler: Handler) -> None:
    handler.answer(200, {}, Content_Encoding="gzip")


def drips(handler: Handler) -> None:
    """Send a byte from time to time, and never the last one."""
    handler.send_response(200)
    handler.end_headers()
    while not handler.wfile.closed:
        try:
            handler.wfile.write(b" ")
        except OSError:
            return
        time.sleep(0.02)


def drips_head(handler: Handler) -> None:
    drip(handler, b"HTTP/1.1 200 OK\r\nX-Padding: ")


def drips_interim_heads(handler: Handler) -> None:
    drip(handler, b"", b"HTTP/1.1 102 Processing\r\n\r\n")


def drips_chunk_header(handler: Handler) -> None:
    drip(handler, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;")


def drip(handler: Handler, start: bytes, piece: bytes = b"x") -> None:
    """Send the start of an answer, and then pieces that do not end it."""
    with suppress(OSError):
        handler.wfile.write(start)
        while True:
            handler.wfile.write(piece)
            time.sleep(0.02)


def endless(handler: Handler) -> None:
    handler.send_response(200)
    handler.end_headers()
    with suppress(OSError):
        while True:
            handler.wfile.write(b" " * 2**16)


def long_message(handler: Handler) -> None:
    handler.answer(400, {"error": "x" * 100_000, "code": "invalid_request"})


def odd_code(handler: Handler) -> None:
    handler.answer(400, {"error": "no", "code": "\x1b[2J" * 1000})


def odd_codec(handler: Handler) -> None:
    handler.answer(502, "bad gateway", Content_Type="text/html; charset=zlib_codec")


def outcomes(server: Server, *, asynchronous: bool) -> list[Prediction]:
    """Return the answers to two requests."""

    async def ask() -> list[Prediction]:
        async with AsyncClient(server.url) as client:
            return [await client.predict(b"picture", timeout=0.2) for _ in range(2)]

    if asynchronous:
        return asyncio.run(ask())
    with Client(server.url) as client:
        return [client.predict(b"picture", timeout=0.2) for _ in range(2)]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize(
    ("trouble", "code"),
    [
        (unpacks_to_a_gigabyte, "unexpected_answer"),
        (endless, "unexpected_answer"),
        (drips, "service_unreachable"),
        (drips_head, "service_unreachable"),
        (drips_interim_heads, "service_unreachable"),
        (drips_chunk_header, "service_unreachable"),
        (odd_codec, "http_502"),
        (long_message, "http_400"),
        (odd_code, "http_400"),
    ],
)
def test_hostile_answers_cost_little(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    trouble: Behaviour,
    code: str,
    asynchronous: bool,
) -> None:
    monkeypatch.setattr("loupe.client.flows.MAX_ANSWER_BYTES", 2**20)
    monkeypatch.setattr("loupe.client.flows.GRACE_SECONDS", 0.0)
    server.behaviours = [well, trouble]  # the second request uses the connection of the first
    with pytest.raises(LoupeError) as raised:
        outcomes(server, asynchronous=asynchronous)

    assert raised.value.code == code
    assert len(server.heard) == 2
    assert len(raised.value.message) < 1000


ROWS = b"".join(b"%d,boot\n" % number for number in range(50_000))
JOB = ScoringJob(
    id="a",
    state="done",
    model="m:1",
    source="s",
    total=1,
    done=1,
    failed=0,
    created=0,
    started=0,
    finished=0,
    eta_seconds=None,
    output="o",
    error=None,
)


def job(handler: Handler) -> None:
    handler.answer(200, JOB.model_dump())


class Rows:
    """Sends rows from the byte that is asked for, at most `size` bytes at a time.

    Args:
        size: Bytes until the connection breaks.
        tag: Changes with the rows.
        shift: Added to the start of the range, as a faulty server would.
    """

    def __init__(self, size: int = len(ROWS), tag: str = '"1"', shift: int = 0) -> None:
        self.size, self.tag, self.shift = size, tag, shift

    def __call__(self, handler: Handler) -> None:
        asked = handler.headers.get("Range", "bytes=0-")
        is_resumed = handler.headers.get("If-Range") == self.tag
        start = int(asked[len("bytes=") : -1]) + self.shift if is_resumed else 0
        handler.send_response(206 if is_resumed else 200)
        handler.send_header("Content-Length", str(len(ROWS) - start))
        handler.send_header("ETag", self.tag)
        handler.send_header("Content-Range", f"bytes {start}-{len(ROWS) - 1}/{len(ROWS)}")
        handler.end_headers()
        handler.wfile.write(ROWS[start : start + self.size])
        handler.close_connection = True


def download(server: Server, path: Path, *, asynchronous: bool) -> Path:
    async def fetch() -> Path:
        async with AsyncClient(server.url) as client:
            return await (await client.run("a")).results(path)

    if asynchronous:
        return asyncio.run(fetch())
    with Client(server.url) as client:
        return client.run("a").results(path)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_interrupted_download_asks_only_for_the_rest(
    server: Server, tmp_path: Path, asynchronous: bool
) -> None:
    server.behaviours = [job, Rows(100_000), overloaded, Rows(200_000), Rows()]
    saved = download(server, tmp_path / "rows.csv", asynchronous=asynchronous)

    assert saved.read_bytes() == ROWS
    asked = [each.headers.get("Range") for each in server.heard[1:]]
    assert asked == [None, "bytes=100000-", "bytes=100000-", "bytes=300000-"]
    assert list(tmp_path.iterdir()) == [saved]


@pytest.mark.parametrize("asynchronous", [False, True])
def test_download_starts_again_if_the_rows_have_changed(
    server: Server, tmp_path: Path, asynchronous: bool
) -> None:
    server.behaviours = [job, Rows(100_000), Rows(tag='"2"')]
    saved = download(server, tmp_path / "rows.csv", asynchronous=asynchronous)

    assert saved.read_bytes() == ROWS


def test_wrong_part_of_a_download_is_refused(server: Server, tmp_path: Path) -> None:
    server.behaviours = [job, Rows(100_000), Rows(shift=1)]
    with pytest.raises(LoupeError) as raised:
        download(server, tmp_path / "rows.csv", asynchronous=False)

    assert raised.value.code == "unexpected_answer"
    assert list(tmp_path.iterdir()) == []


def test_redirects_are_not_followed(server: Server) -> None:
    with Server() as elsewhere:
        server.behaviours = [
            lambda handler: handler.answer(307, "", Location=f"{elsewhere.url}/predict")
        ]
        with Client(server.url, api_key="secret") as client, pytest.raises(RequestRefused) as error:
            client.predict(b"picture")

        assert error.value.code == "http_307"
        assert elsewhere.heard == []


def test_id_of_a_job_cannot_name_another_route(server: Server) -> None:
    server.behaviours = [broken]
    with Client(server.url) as client, pytest.raises(RequestRefused):
        client.run("../models?x=/y")

    assert server.heard[0].path == "/jobs/..%2Fmodels%3Fx%3D%2Fy"


def test_password_in_the_address_is_not_shown() -> None:
    with (
        Client(f"http://user:secret@127.0.0.1:{free_port()}") as client,
        pytest.raises(ServiceUnreachable) as raised,
    ):
        client.models()

    assert "secret" not in raised.value.message


def test_outcomes_keep_their_order_when_batches_are_late_or_lost(server: Server) -> None:
    server.behaviours = [slow, well, reset, overloaded]
    with Client(server.url) as client:
        outcomes = list(client.predict_many(numbered(100), batch_size=7))

    assert indices(outcomes) == list(range(100))


def test_outcomes_keep_their_order_asynchronously(server: Server) -> None:
    async def pictures() -> AsyncIterator[UInt8Array]:
        for image in numbered(100):
            yield image

    async def ask() -> list[Prediction | PredictionError]:
        async with AsyncClient(server.url) as client:
            return [outcome async for outcome in client.predict_many(pictures(), batch_size=7)]

    server.behaviours = [slow, well, reset, overloaded]
    assert indices(asyncio.run(ask())) == list(range(100))


def test_failed_request_is_raised_after_the_earlier_answers(
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


def test_errors_of_the_iterable_are_raised(server: Server) -> None:
    def pictures() -> Iterator[UInt8Array]:
        yield from numbered(3)
        raise KeyError("the archive ends early")

    with Client(server.url) as client, pytest.raises(KeyError, match="the archive ends early"):
        list(client.predict_many(pictures(), batch_size=2))


def test_iteration_can_stop_early(server: Server) -> None:
    server.behaviours = [well, slow]
    with Client(server.url) as client:
        first = next(iter(client.predict_many(numbered(50), batch_size=5)))

    assert isinstance(first, Prediction)
    assert len(server.heard) <= BATCHES_IN_FLIGHT


def test_httpx_is_imported_with_the_client_only() -> None:
    script = (
        "import sys, loupe; print('httpx' in sys.modules); "
        "loupe.Client; print('httpx' in sys.modules)"
    )
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True)

    assert ended.stdout == "False\nTrue\n", ended.stderr


def test_unknown_attributes_of_the_package_raise() -> None:
    import loupe

    with pytest.raises(AttributeError, match="module 'loupe' has no attribute 'Server'"):
        loupe.Server  # type: ignore[attr-defined]  # noqa: B018
