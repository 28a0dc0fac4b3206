"""How requests are sent: at once, in pieces, one after another without waiting; by halves, as what is no HTTP, and by who has gone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, TypeAlias

from bench.connection import Reply
from bench.fuzz.bodies import BODIES, damage
from bench.fuzz.heads import HEADS, METHODS
from bench.fuzz.known import Check, Known, Maker, Request
from bench.fuzz.right import RIGHT

RIGHT_SHARE, WRONG_SHARE = 0.35, 0.5  # of all; the rest is broken
WRONG: Sequence[Maker] = (*BODIES, *HEADS)
MOST_PIECES = 4
MOST_CONNECTIONS = 30  # that nothing is sent on
LONG_HEAD_BYTES = 60_000  # beyond which the service may close before it has read all, and its answer be lost


@dataclass(frozen=True)
class Case:
    """What is sent on a connection, and what comes of it.

    Attributes:
        kind: What it is called in the table.
        pieces: Sent one after another, with a pause in between.
        checks: Of the answers, in their order.
        answers: Whether they have to come, may come, or are not waited for.
        stays: Whether the connection is used for what comes next.
        is_head: Whether answers have no bodies.
        half_closes: Whether nothing more can be sent after the last piece.
        connections: How many are opened; what is sent is sent on the last.
    """

    kind: str
    pieces: Sequence[bytes]
    checks: Sequence[Check]
    answers: Literal["must", "may", "none"] = "must"
    stays: bool = False
    is_head: bool = False
    half_closes: bool = False
    connections: int = 1


Way: TypeAlias = Callable[[Random, Known], Case]


def make_case(known: Known, seed: int, number: int) -> Case:
    """One of the cases of a seed, which depends on nothing but its number."""
    random = Random(f"{seed}-{number}")
    share = random.random()
    if share < RIGHT_SHARE:
        return random.choice(WAYS)(random, known)
    if share < RIGHT_SHARE + WRONG_SHARE:
        return wrong(random, known)
    return random.choice(BROKEN)(random, known)


def wrong(random: Random, known: Known) -> Case:
    """A wrong request, on a connection where right ones come too."""
    maker = random.choice(WRONG)
    request = maker(random, known)
    is_head = request.method == "HEAD"
    case = Case(
        _named(maker), [request.encoded()], [_check_head if is_head else request.check], stays=True, is_head=is_head
    )
    return replace(case, answers="may", stays=False) if len(request.head()) > LONG_HEAD_BYTES else case


# Ways to send what is right


def plain(random: Random, known: Known) -> Case:
    """All at once."""
    maker = random.choice(RIGHT)
    request = maker(random, known)
    return Case(f"right: {_named(maker)}", [request.encoded()], [request.check], stays=True)


def slow(random: Random, known: Known) -> Case:
    """In pieces."""
    request = _right(random, known)
    return Case("right, slowly", _pieces(random, request.encoded()), [request.check], stays=True)


def chunked(random: Random, known: Known) -> Case:
    """In chunks of HTTP."""
    request = _right(random, known)
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in _pieces(random, request.body) if piece)
    sent = request.head(("Transfer-Encoding", "chunked")) + chunks + b"0\r\n\r\n"
    return Case("right, in chunks", [sent], [request.check], stays=True)


def pipelined(random: Random, known: Known) -> Case:
    """Several, before the first is answered."""
    requests = [_right(random, known) for _ in range(random.randint(2, 4))]
    sent = b"".join(request.encoded() for request in requests)
    return Case("right, without waiting", [sent], [request.check for request in requests], stays=True)


def expecting(random: Random, known: Known) -> Case:
    """The body after the head, as curl sends long ones."""
    request = _right(random, known)
    head = request.head(("Content-Length", str(len(request.body))), ("Expect", "100-continue"))
    return Case("right, expecting 100", [head, request.body], [request.check])


def old(random: Random, known: Known) -> Case:
    """As HTTP had it before 1.1."""
    request = _right(random, known)
    return Case("right, HTTP/1.0", [request.encoded().replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)], [request.check])


WAYS: Sequence[Way] = (*[plain] * 8, slow, chunked, pipelined, expecting, old)


# What is no HTTP, and who does not wait


def garbage(random: Random, known: Known) -> Case:
    """Bytes, or a request that came to harm on its way."""
    data = random.choice([random.randbytes(random.randint(1, 200)), damage(random, _right(random, known).encoded())])
    return _broken("garbage", data)


def broken_line(random: Random, known: Known) -> Case:
    """First lines that are none, or that servers of other kinds want."""
    method = random.choice([*METHODS, "CONNECT", "PRI", "get", "", "X" * 100])
    target = random.choice(
        [
            "/predict",
            "*",
            "",
            "http://a/predict",
            "http://a",
            "//a",
            "a:1",
            "?",
            "#",
            "/\xff",
            "/a b",
            "/" + "x" * 70_000,
        ]
    )
    version = random.choice(["HTTP/1.1", "HTTP/1.0", "HTTP/2.0", "HTTP/0.9", "HTTP/9.9", "ICY", "", "HTTP/1.1 x"])
    ending = random.choice(["\r\n", "\n", "\r", "\r\n\r\n"])
    headers = random.choice(
        ["Host: a", "Host : a", " Host: a", "Host", ":", "Host: a\r\n b", "A\0: b", "A: b\0", "A: \x01"]
    )
    return _broken("broken line", f"{method} {target} {version}{ending}{headers}{ending}\r\n".encode("latin-1"))


def broken_length(random: Random, known: Known) -> Case:
    """Lengths that are not those of the body, and chunks that are none."""
    request = _right(random, known)
    length = len(request.body)
    header = random.choice(
        [
            *(
                ("Content-Length", value)
                for value in ("-1", "+5", "1_0", "0x10", "", "9" * 30, "5, 5", str(2**63), "70000000")
            ),
            ("Content-Length", str(random.randint(0, 2 * length))),
            ("Content-Length", f"{length}\r\nContent-Length: {length + 1}"),
            ("Content-Length", f"{length}\r\nTransfer-Encoding: chunked"),
            *(
                ("Transfer-Encoding", value)
                for value in ("chunked", "gzip", "gzip, chunked", "chunked, identity", "xchunked", "")
            ),
        ]
    )
    chunk = random.choice(
        [
            b"",
            b"5\r\nhello\r\n",
            b"-1\r\n",
            b"ffffffffffffffffff\r\n",
            b"zz\r\n",
            b"5;x=y\r\nhello\r\n0\r\nA: b\r\n\r\n",
            b"5\r\nhel",
        ]
    )
    return _broken("broken length", request.head(header) + random.choice([chunk, request.body]))


def upgrade(random: Random, known: Known) -> Case:
    """Other protocols over the same connection, before or after a right request."""
    protocol = random.choice(["websocket", "h2c", "TLS/1.0", "x"])
    headers = f"Host: a\r\nConnection: {random.choice(['Upgrade', 'upgrade, close', 'keep-alive'])}\r\nUpgrade: {protocol}\r\n"
    headers += random.choice(
        ["", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n", "HTTP2-Settings: x\r\n"]
    )
    path = random.choice(["/predict", "/", "/livez", "/nowhere"])
    method = random.choice(["GET", "POST", "CONNECT", "HEAD"])
    before = random.choice([b"", b"", _right(random, known).encoded()])
    data = before + f"{method} {path} HTTP/1.1\r\n{headers}\r\n".encode() + random.choice([b"", b"x" * 50, bytes(20)])
    return _broken("upgrade", data)


def gone(random: Random, known: Known) -> Case:
    """Who leaves in the middle, or does not wait for the answer."""
    sent = random.choice([_right, _wrong])(random, known).encoded()
    cut = random.choice([len(sent), random.randrange(len(sent))])
    return Case("gone", _pieces(random, sent[:cut]), [], "none")


def half_closed(random: Random, known: Known) -> Case:
    """Who can listen, and say nothing more."""
    request = _right(random, known)
    sent = request.encoded()
    is_whole = random.random() < 0.5
    pieces = [sent if is_whole else sent[: random.randrange(len(sent))]]
    return Case("half-closed", pieces, [request.check if is_whole else check_broken], "may", half_closes=True)


def idle(random: Random, known: Known) -> Case:
    """Many who say nothing, or begin to."""
    begun = random.choice([b"", b"P", b"POST /predict HTTP/1.1\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"])
    return Case("idle", [begun], [], "none", connections=random.randint(2, MOST_CONNECTIONS))


BROKEN: Sequence[Way] = (garbage, broken_line, broken_length, upgrade, *[gone] * 2, half_closed, idle)


def check_broken(reply: Reply) -> str | None:
    """What is wrong with an answer to what is no request; it need not be in our words."""
    return None if reply.status < 500 else f"{reply.status}: {reply.body[:200]!r}"


def _check_head(reply: Reply) -> str | None:
    return None if reply.status < 500 and not reply.body else f"{reply.status} with a body of {len(reply.body)}"


def _broken(kind: str, sent: bytes) -> Case:
    return Case(kind, [sent], [check_broken], "may")


def _right(random: Random, known: Known) -> Request:
    return random.choice(RIGHT)(random, known)


def _wrong(random: Random, known: Known) -> Request:
    return random.choice(WRONG)(random, known)


def _pieces(random: Random, data: bytes) -> list[bytes]:
    cuts = sorted(random.randrange(len(data) + 1) for _ in range(random.randint(0, MOST_PIECES - 1)))
    return [data[start:end] for start, end in zip([0, *cuts], [*cuts, len(data)], strict=True)]


def _named(maker: Maker) -> str:
    return maker.__name__.replace("_", " ")
