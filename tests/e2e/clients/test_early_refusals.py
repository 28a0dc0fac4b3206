"""Refusals of bodies that are still arriving reach clients that read only after they have sent."""

import json

import pytest

from tests.e2e.clients.conftest import KEY, MAX_BODY_BYTES
from tests.support.programs import RunningService
from tests.support.servers.wire import connected, head, read_all, read_answer

BODY = bytes(2 * MAX_BODY_BYTES)  # more than the buffers of a connection
SENT_BY = f"X-API-Key: {KEY}"
PNG = "Content-Type: image/png"
REFUSALS = [
    (401, "unauthorized", "/predict", [PNG]),
    (404, "route_not_found", "/nowhere", [SENT_BY, PNG]),
    (404, "model_not_found", "/predict?model=absent", [SENT_BY, PNG]),
    (405, "method_not_allowed", "/livez", [SENT_BY, PNG]),
    (413, "body_too_large", "/predict", [SENT_BY, PNG]),
    (415, "unsupported_media_type", "/jobs", [SENT_BY]),
]


@pytest.mark.parametrize(("status", "code", "path", "lines"), REFUSALS)
def test_refusal_of_a_long_body_arrives(
    base: str, status: int, code: str, path: str, lines: list[str]
) -> None:
    length = f"Content-Length: {len(BODY)}"
    for version, connection in (("1.1", "keep-alive"), ("1.1", "close"), ("1.0", "close")):
        more = [*lines, length, f"Connection: {connection}"]
        with connected(base) as client:
            client.sendall(head(base, "POST", path, *more, version=version) + BODY)
            found, _, body = read_answer(client)

        assert (found, json.loads(body)["code"]) == (status, code)


def test_request_after_a_refusal_gets_its_own_answer(base: str) -> None:
    length = f"Content-Length: {len(BODY)}"
    with connected(base) as client:
        client.sendall(head(base, "POST", "/nowhere", SENT_BY, length) + BODY)
        client.sendall(head(base, "GET", "/livez", "X-Request-ID: next", "Connection: close"))
        status, headers, _ = read_answer(client)
        rest = read_all(client)

    assert status == 404
    assert headers["x-request-id"] != "next"
    assert rest == b"" or b"x-request-id: next" in rest.lower()


@pytest.mark.parametrize("base", ["direct", "haproxy"], indirect=True)
@pytest.mark.parametrize(("status", "code", "path", "lines"), REFUSALS)
def test_client_that_asks_first_is_refused_without_its_body(
    base: str, status: int, code: str, path: str, lines: list[str]
) -> None:
    more = [*lines, f"Content-Length: {len(BODY)}", "Expect: 100-continue"]
    with connected(base) as client:
        client.sendall(head(base, "POST", path, *more))
        received = client.recv(65536)

    assert received.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(("version", "is_asked"), [("1.1", True), ("1.0", False)])
def test_client_that_asks_first_is_told_to_continue(
    guarded: RunningService, version: str, is_asked: bool
) -> None:
    more = [SENT_BY, PNG, "Content-Length: 4", "Expect: 100-continue"]
    with connected(guarded.url) as client:
        client.sendall(head(guarded.url, "POST", "/predict", *more, version=version))
        if is_asked:
            assert client.recv(25) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(b"nope")
        assert client.recv(65536).startswith(b"HTTP/1.1 422 ")
