"""Test cases: a request and its delivery, which may be slow, pipelined, malformed or aborted."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, TypeAlias

from bench.service.open_loop import Reply
from tests.stress.fuzz.invalid_bodies import INVALID_BODIES, damage
from tests.stress.fuzz.invalid_heads import INVALID_HEADS, METHODS
from tests.stress.fuzz.invalid_pictures import INVALID_PICTURES
from tests.stress.fuzz.requests import Check, Factory, Reference, Request
from tests.stress.fuzz.valid import VALID

VALID_SHARE, INVALID_SHARE = 0.35, 0.5  # of all cases; the others are malformed
INVALID: Sequence[Factory] = (*INVALID_BODIES, *INVALID_HEADS, *INVALID_PICTURES)
MAX_PIECES = 4
MAX_IDLE_CONNECTIONS = 30
# After a longer head or body, the service may close before it has read all, and its response may be
# lost.
LONG_HEAD_BYTES, LONG_BODY_BYTES = 60_000, 256 * 2**20
TARGETS = ["/predict", "*", "", "http://a/predict", "http://a", "//a", "a:1", "?", "#"]
TARGETS += ["/\xff", "/a b", "/" + "x" * 70_000]
VERSIONS = ["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/9.9", "ICY", "", "HTTP/1.1 x"]
HEADERS = ["Host: a", "Host : a", " Host: a", "Host", ":", "Host: a\r\n b"]
HEADERS += ["A\0: b", "A: b\0", "A: \x01"]
LENGTHS = ["-1", "+5", "1_0", "0x10", "", "9" * 30, "5, 5", str(2**63), "70000000"]
ENCODINGS = ["chunked", "gzip", "gzip, chunked", "chunked, identity", "xchunked", ""]
CHUNKS = [
    b"",
    b"5\r\nhello\r\n",
    b"-1\r\n",
    b"ffffffffffffffffff\r\n",
    b"zz\r\n",
    b"5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n",
    b"5\r\nhel",
]
WEBSOCKET_HEADERS = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"


@dataclass(frozen=True)
class Case:
    """Bytes to send on a connection, and the checks of the responses.

    Attributes:
        kind: The name for the report.
        pieces: Sent one after another with short pauses.
        checks: The checks of the responses in order.
        responses: Whether responses must come, may come, or are not awaited.
        keeps_connection: Whether the next case may use the same connection.
        is_head: Whether responses have no bodies.
        half_closes: Whether the client closes its sending side after the last piece.
        connections: Number of connections to open; the last one carries the pieces.
    """

    kind: str
    pieces: Sequence[bytes]
    checks: Sequence[Check]
    responses: Literal["required", "optional", "ignored"] = "required"
    keeps_connection: bool = False
    is_head: bool = False
    half_closes: bool = False
    connections: int = 1


CaseFactory: TypeAlias = Callable[[Random, Reference], Case]


def make_case(reference: Reference, seed: int, number: int) -> Case:
    """Create a case that depends on nothing but the seed and its number."""
    random = Random(f"{seed}-{number}")
    share = random.random()
    if share < VALID_SHARE:
        return random.choice(DELIVERIES)(random, reference)
    if share < VALID_SHARE + INVALID_SHARE:
        return invalid(random, reference)
    return random.choice(MALFORMED)(random, reference)


def invalid(random: Random, reference: Reference) -> Case:
    """Send an invalid request on a kept connection."""
    factory = random.choice(INVALID)
    request = factory(random, reference)
    is_head = request.method == "HEAD"
    check = _check_head if is_head else request.check
    pieces = [request.encoded()]
    case = Case(_name(factory), pieces, [check], keeps_connection=True, is_head=is_head)
    if len(request.head()) > LONG_HEAD_BYTES or len(request.body) > LONG_BODY_BYTES:
        return replace(case, responses="optional", keeps_connection=False)
    return case


# Deliveries of valid requests


def plain(random: Random, reference: Reference) -> Case:
    """Send the request in one piece."""
    factory = random.choice(VALID)
    request = factory(random, reference)
    kind = f"valid: {_name(factory)}"
    return Case(kind, [request.encoded()], [request.check], keeps_connection=True)


def slow(random: Random, reference: Reference) -> Case:
    """Send the request in several pieces."""
    request = _valid(random, reference)
    pieces = _split(random, request.encoded())
    return Case("valid, slow", pieces, [request.check], keeps_connection=True)


def chunked(random: Random, reference: Reference) -> Case:
    """Send the body with the chunked transfer encoding."""
    request = _valid(random, reference)
    pieces = [piece for piece in _split(random, request.body) if piece]
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    data = request.head(("Transfer-Encoding", "chunked")) + chunks + b"0\r\n\r\n"
    return Case("valid, chunked", [data], [request.check], keeps_connection=True)


def pipelined(random: Random, reference: Reference) -> Case:
    """Send several requests without waiting for responses."""
    requests = [_valid(random, reference) for _ in range(random.randint(2, 4))]
    data = b"".join(request.encoded() for request in requests)
    checks = [request.check for request in requests]
    return Case("valid, pipelined", [data], checks, keeps_connection=True)


def expect_continue(random: Random, reference: Reference) -> Case:
    """Announce the body with `Expect: 100-continue`, as curl does."""
    request = _valid(random, reference)
    length = ("Content-Length", str(len(request.body)))
    head = request.head(length, ("Expect", "100-continue"))
    return Case("valid, Expect", [head, request.body], [request.check])


def http_1_0(random: Random, reference: Reference) -> Case:
    """Send the request with HTTP/1.0."""
    request = _valid(random, reference)
    data = request.encoded().replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
    return Case("valid, HTTP/1.0", [data], [request.check])


def offered_upgrade(random: Random, reference: Reference) -> Case:
    """Offer another protocol with a valid request, as Java's client does; the answer is right."""
    request = _valid(random, reference)
    length = ("Content-Length", str(len(request.body)))
    offer = [("Connection", "Upgrade, HTTP2-Settings"), ("HTTP2-Settings", "AAMAAABk")]
    offer += [("Upgrade", random.choice(["h2c", "websocket", "TLS/1.0"]))]
    head = request.head(length, *offer)
    return Case("valid, upgrade", [head, request.body], [request.check])


DELIVERIES: Sequence[CaseFactory] = (
    *[plain] * 8,
    slow,
    chunked,
    pipelined,
    expect_continue,
    http_1_0,
    offered_upgrade,
)


# Malformed HTTP and impatient clients


def garbage(random: Random, reference: Reference) -> Case:
    """Send random bytes, or a damaged request."""
    noise = random.randbytes(random.randint(1, 200))
    damaged = damage(random, _valid(random, reference).encoded())
    return _malformed("garbage", random.choice([noise, damaged]))


def malformed_line(random: Random, reference: Reference) -> Case:
    """Send a request line or header with syntax errors."""
    method = random.choice([*METHODS, "CONNECT", "PRI", "get", "", "X" * 100])
    target, version = random.choice(TARGETS), random.choice(VERSIONS)
    end = random.choice(["\r\n", "\n", "\r", "\r\n\r\n"])
    header = random.choice(HEADERS)
    data = f"{method} {target} {version}{end}{header}{end}\r\n".encode("latin-1")
    return _malformed("malformed line", data)


def malformed_length(random: Random, reference: Reference) -> Case:
    """Send a wrong or ambiguous length, or invalid chunks."""
    request = _valid(random, reference)
    length = len(request.body)
    lengths = [*LENGTHS, str(random.randint(0, 2 * length))]
    lengths += [f"{length}\r\nContent-Length: {length + 1}"]
    lengths += [f"{length}\r\nTransfer-Encoding: chunked"]
    headers = [("Content-Length", value) for value in lengths]
    headers += [("Transfer-Encoding", value) for value in ENCODINGS]
    body = random.choice([random.choice(CHUNKS), request.body])
    return _malformed("malformed length", request.head(random.choice(headers)) + body)


def upgrade(random: Random, reference: Reference) -> Case:
    """Ask for another protocol on the connection, sometimes after a valid request."""
    protocol = random.choice(["websocket", "h2c", "TLS/1.0", "x"])
    connection = random.choice(["Upgrade", "upgrade, close", "keep-alive"])
    headers = f"Host: a\r\nConnection: {connection}\r\nUpgrade: {protocol}\r\n"
    headers += random.choice(["", WEBSOCKET_HEADERS, "HTTP2-Settings: x\r\n"])
    path = random.choice(["/predict", "/", "/livez", "/nowhere"])
    method = random.choice(["GET", "POST", "CONNECT", "HEAD"])
    before = random.choice([b"", b"", _valid(random, reference).encoded()])
    after = random.choice([b"", b"x" * 50, bytes(20)])
    data = before + f"{method} {path} HTTP/1.1\r\n{headers}\r\n".encode() + after
    return _malformed("upgrade", data)


def hosts(random: Random, reference: Reference) -> Case:
    """Send a valid request without `Host`, or with two."""
    request = _valid(random, reference)
    host = b"Host: 127.0.0.1\r\n"
    data = request.encoded().replace(host, random.choice([b"", host * 2]), 1)
    return Case("hosts", [data], [check_bad_request])


def check_bad_request(reply: Reply) -> str | None:
    """Check the refusal of a request that is not valid HTTP/1.1."""
    return None if reply.status == 400 else f"{reply.status}: {reply.body[:200]!r}"


def aborted(random: Random, reference: Reference) -> Case:
    """Close the connection within the request, or before the response."""
    data = random.choice([_valid, _invalid])(random, reference).encoded()
    end = random.choice([len(data), random.randrange(len(data))])
    return Case("aborted", _split(random, data[:end]), [], "ignored")


def half_closed(random: Random, reference: Reference) -> Case:
    """Close the sending side within the request or after it."""
    request = _valid(random, reference)
    data, check = request.encoded(), request.check
    if random.random() < 0.5:
        data, check = data[: random.randrange(len(data))], check_malformed
    return Case("half-closed", [data], [check], "optional", half_closes=True)


def idle(random: Random, reference: Reference) -> Case:
    """Open many connections and send at most a part of a head."""
    tls_hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"
    start = random.choice([b"", b"P", b"POST /predict HTTP/1.1\r\n", tls_hello])
    connections = random.randint(2, MAX_IDLE_CONNECTIONS)
    return Case("idle", [start], [], "ignored", connections=connections)


MALFORMED: Sequence[CaseFactory] = (
    garbage,
    malformed_line,
    malformed_length,
    upgrade,
    hosts,
    *[aborted] * 2,
    half_closed,
    idle,
)


def check_malformed(reply: Reply) -> str | None:
    """Check the response to a malformed request, which need not be an error in JSON."""
    return None if reply.status < 500 else f"{reply.status}: {reply.body[:200]!r}"


def _check_head(reply: Reply) -> str | None:
    if reply.status < 500 and not reply.body:
        return None
    return f"{reply.status} with a body of {len(reply.body)} bytes"


def _malformed(kind: str, data: bytes) -> Case:
    return Case(kind, [data], [check_malformed], "optional")


def _valid(random: Random, reference: Reference) -> Request:
    return random.choice(VALID)(random, reference)


def _invalid(random: Random, reference: Reference) -> Request:
    return random.choice(INVALID)(random, reference)


def _split(random: Random, data: bytes) -> list[bytes]:
    count = random.randint(0, MAX_PIECES - 1)
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(count))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _name(factory: Factory) -> str:
    return factory.__name__.replace("_", " ")
