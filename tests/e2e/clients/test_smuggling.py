"""Bodies that look like requests: a caller never makes or gets the requests of another."""

import json
import re
import time
from contextlib import suppress

import pytest

from tests.e2e.clients.conftest import KEY, MAX_BODY_BYTES
from tests.support.programs import RunningService
from tests.support.servers.wire import connected, head, read_all, read_answer

SENT_BY = f"X-API-Key: {KEY}"
INNER = head("http://loupe", "GET", "/metrics", SENT_BY, "X-Request-ID: smuggled")
LENGTH = f"Content-Length: {len(INNER)}"
CHUNKED = "Transfer-Encoding: chunked"
CHUNKS = b"%x\r\n%b\r\n0\r\n\r\n" % (len(INNER), INNER)
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQ")
WEBSOCKET = (
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
)
MANY = INNER * (MAX_BODY_BYTES // 2 // len(INNER))
ATTACKS: dict[str, tuple[str, str, list[str], bytes]] = {
    "h2c": ("POST", "/predict", [SENT_BY, *H2C, LENGTH], INNER),
    "h2c, chunked": ("POST", "/predict", [SENT_BY, *H2C, CHUNKED], CHUNKS),
    "h2c, long": ("POST", "/predict", [SENT_BY, *H2C, f"Content-Length: {len(MANY)}"], MANY),
    "h2c, closing": (
        "POST",
        "/predict",
        [SENT_BY, "Connection: close, Upgrade", *H2C[1:], LENGTH],
        INNER,
    ),
    "h2c, no key": ("POST", "/predict", [*H2C, LENGTH], INNER),
    "websocket": ("POST", "/predict", [SENT_BY, *WEBSOCKET, LENGTH], INNER),
    "websocket, GET": ("GET", "/livez", [SENT_BY, *WEBSOCKET, LENGTH], INNER),
    "TLS": (
        "POST",
        "/predict",
        [SENT_BY, "Connection: Upgrade", "Upgrade: TLS/1.2", LENGTH],
        INNER,
    ),
    "expect": ("POST", "/predict", [SENT_BY, *H2C, "Expect: 100-continue", LENGTH], INNER),
    "expect, no key": ("POST", "/predict", ["Expect: 100-continue", LENGTH], INNER),
    "body of GET": ("GET", "/livez", [LENGTH], INNER),
    "body of HEAD": ("HEAD", "/livez", [LENGTH], INNER),
    "refused": ("POST", "/nowhere", [SENT_BY, f"Content-Length: {len(MANY)}"], MANY),
    "refused, chunked": ("POST", "/nowhere", [SENT_BY, CHUNKED], CHUNKS),
    "two lengths": ("POST", "/predict", [SENT_BY, CHUNKED, "Content-Length: 4"], CHUNKS),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_body_is_no_request(guarded: RunningService, base: str, attack: str) -> None:
    method, path, lines, body = ATTACKS[attack]
    start = head(base, method, path, *lines)
    logged_before = len(guarded.log.read_text())
    end = head(base, "GET", "/livez", "X-Request-ID: own", "Connection: close")
    for pieces in ([start + body], [start, body[:9], body[9:]]):
        with connected(base) as attacker:
            with suppress(ConnectionError):
                for piece in pieces:
                    attacker.sendall(piece)
                    time.sleep(0.005 * (len(pieces) - 1))
                attacker.sendall(end)
            for name in ("other-1", "other-2"):
                with connected(base) as other:
                    other.sendall(head(base, "GET", "/models", SENT_BY, f"X-Request-ID: {name}"))
                    status, headers, answer = read_answer(other)
                assert (status, headers["x-request-id"]) == (200, name)
                assert "default" in json.loads(answer)
            received = read_all(attacker)
        assert len(re.findall(rb"HTTP/1\.1 [2-5]", received)) in (1, 2)
        assert b"smuggled" not in received
    assert '"request_id": "smuggled"' not in guarded.log.read_text()[logged_before:]
