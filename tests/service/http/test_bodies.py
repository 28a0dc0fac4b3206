"""Request bodies without a server."""

import asyncio
import gzip
import os
import tracemalloc
import zlib

import pytest
from starlette.requests import Request
from starlette.types import Message, Receive

from loupe.errors import (
    BodyTooSlow,
    CallerGone,
    ContentTooLarge,
    InvalidRequest,
    TooManyRequests,
    UnsupportedMediaType,
)
from loupe.settings import Settings
from service.http.bodies import LARGEST_BODIES_SHARE, MAX_RATIO, UNPACK_BYTES, Bodies
from service.http.context import context_of
from service.http.shares import Shares

MAX_BYTES = 100_000
SETTINGS = Settings(max_body_bytes=MAX_BYTES)


def request(receive: Receive) -> Request:
    scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}
    return Request(scope, receive)


def with_body(body: bytes) -> Request:
    async def receive() -> Message:
        return {"type": "http.request", "body": body}

    return request(receive)


def in_pieces(body: bytes, length: str | None = None) -> Request:
    pieces = [body[start : start + 1000] for start in range(0, len(body), 1000)]

    async def receive() -> Message:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    made = request(receive)
    if length is not None:
        made.scope["headers"].append((b"content-length", length.encode()))
    return made


async def never() -> Message:
    await asyncio.sleep(30)
    raise AssertionError("the body should not have been awaited for so long")


def test_body_without_a_length_is_counted_as_it_arrives() -> None:
    with pytest.raises(ContentTooLarge, match=r"100,000 bytes \(LOUPE_MAX_BODY_BYTES\)"):
        asyncio.run(Bodies(SETTINGS).read(in_pieces(bytes(MAX_BYTES + 1))))


@pytest.mark.parametrize("length", ["-1", "many", "100001", "1e3", ""])
def test_invalid_content_length_is_refused_before_anything_is_read(length: str) -> None:
    with pytest.raises(ContentTooLarge):
        asyncio.run(Bodies(SETTINGS).read(in_pieces(b"x", length)))


def test_client_that_disconnects_during_the_body_is_gone() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    with pytest.raises(CallerGone):
        asyncio.run(Bodies(SETTINGS).read(request(receive)))


def test_incomplete_body_times_out() -> None:
    parts = iter([b"half of "])

    async def receive() -> Message:
        for part in parts:
            return {"type": "http.request", "body": part, "more_body": True}
        return await never()

    with pytest.raises(BodyTooSlow, match=r"8 bytes .* 0\.05 s"):
        asyncio.run(Bodies(SETTINGS).read(request(receive), limit_seconds=0.05))


def test_cancelled_read_raises_cancelled_error() -> None:
    async def cancelled() -> None:
        reading = asyncio.create_task(Bodies(SETTINGS).read(request(never)))
        await asyncio.sleep(0)
        reading.cancel()
        await reading

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


def test_memory_of_a_caller_is_limited_until_its_requests_are_answered() -> None:
    bodies = Bodies(SETTINGS)
    held = [with_body(bytes(MAX_BYTES)) for _ in range(LARGEST_BODIES_SHARE)]
    late = with_body(b"x")

    async def story() -> None:
        for each in held:
            await bodies.read(each)
        with pytest.raises(TooManyRequests, match="200,000 ") as raised:
            await bodies.read(late)
        assert raised.value.code == "too_many_bytes"
        other = with_body(bytes(MAX_BYTES))
        context_of(other.scope).caller = "bob"
        assert len(await bodies.read(other)) == MAX_BYTES
        for released in (late, held[0], held[0]):  # releasing twice frees the memory once
            bodies.release(context_of(released.scope))
        assert len(await bodies.read(with_body(bytes(MAX_BYTES)))) == MAX_BYTES
        with pytest.raises(TooManyRequests):
            await bodies.read(with_body(b"x"))

    asyncio.run(story())


def test_long_body_is_held_once() -> None:
    size = 8 * 2**20
    sizes = [64 * 1024] * (size // (64 * 1024))

    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(sizes.pop()), "more_body": bool(sizes)}

    async def story() -> int:
        tracemalloc.start()
        body = await Bodies(Settings(max_body_bytes=size)).read(request(receive))
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert body == bytes(size)
        return peak_bytes

    assert asyncio.run(story()) < 1.4 * size


def test_request_is_in_flight_only_once_its_body_is_complete() -> None:
    in_flight = Shares(1, 1)
    counted = []

    async def receive() -> Message:
        counted.append(in_flight.held)
        return {"type": "http.request", "body": b"x"}

    slow = request(receive)
    context_of(slow.scope).count_in(in_flight)
    asyncio.run(Bodies(SETTINGS).read(slow))

    assert (counted, in_flight.held) == ([0], 1)


def test_body_that_has_arrived_is_in_flight_all_the_time() -> None:
    in_flight = Shares(1, 1)
    counted = []

    async def receive() -> Message:
        counted.append(in_flight.held)
        return {"type": "http.request", "body": b"x"}

    complete = request(receive)
    context = context_of(complete.scope)
    context.is_received = True
    context.count_in(in_flight)

    assert asyncio.run(Bodies(SETTINGS).read(complete)) == b"x"
    assert (counted, in_flight.held, context.body_bytes) == ([1], 1, 1)


def test_body_that_has_arrived_has_the_same_limits() -> None:
    too_long, too_many = with_body(bytes(MAX_BYTES + 1)), with_body(bytes(MAX_BYTES))
    bodies = Bodies(SETTINGS)
    for each in (too_long, too_many):
        context_of(each.scope).is_received = True
    with pytest.raises(ContentTooLarge):
        asyncio.run(bodies.read(too_long))
    with (
        bodies.holding("", (LARGEST_BODIES_SHARE - 1) * MAX_BYTES + 1),
        pytest.raises(TooManyRequests),
    ):
        asyncio.run(bodies.read(too_many))


# Compressed bodies

MIB = 2**20
LARGE = Settings(max_body_bytes=8 * MIB)
NOISE = os.urandom(300_000)


def packed(body: bytes, encoding: str = "gzip") -> Request:
    made = in_pieces(body)
    made.scope["headers"].append((b"content-encoding", encoding.encode()))
    return made


@pytest.mark.parametrize(
    "body",
    [b"x", NOISE, b"0," * (UNPACK_BYTES // 2), (NOISE + bytes(700_000)) * 4],
    ids=["short", "noise", "one step", "long"],
)
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "deflate"])
def test_compressed_body_is_unpacked(body: bytes, encoding: str) -> None:
    compress = zlib.compress if encoding == "deflate" else gzip.compress

    assert asyncio.run(Bodies(LARGE).read(packed(compress(body), encoding))) == body


@pytest.mark.parametrize(
    "body",
    [
        NOISE,
        gzip.compress(NOISE, mtime=0)[:-9],
        gzip.compress(NOISE)[:-20] + bytes(20),
        gzip.compress(NOISE) + b"x",
        gzip.compress(b"x") + gzip.compress(NOISE),
        gzip.compress(b""),
    ],
    ids=["plain", "cut", "wrong checksum", "longer", "two", "of nothing"],
)
def test_damaged_compressed_body_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        asyncio.run(Bodies(LARGE).read(packed(body)))


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "x"])
def test_other_encodings_are_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMediaType, match=encoding):
        asyncio.run(Bodies(LARGE).read(packed(gzip.compress(b"x"), encoding)))


@pytest.mark.parametrize(
    "body", [bytes(7 * MIB), b"ab" * (4 * MIB + 1), NOISE * 30], ids=["ratio", "both", "size"]
)
def test_body_that_unpacks_to_too_much_is_refused_before_it_is_in_memory(body: bytes) -> None:
    sent = gzip.compress(body)
    expected = min(LARGE.max_body_bytes, max(UNPACK_BYTES, MAX_RATIO * len(sent)))
    tracemalloc.start()
    try:
        with pytest.raises(ContentTooLarge, match=f"{expected:,} bytes"):
            asyncio.run(Bodies(LARGE).read(packed(sent)))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak_bytes < 2 * expected + 4 * UNPACK_BYTES + 4 * len(sent)


def test_unpacked_bodies_count_as_memory_in_use() -> None:
    bodies = Bodies(LARGE)
    body = NOISE * 26

    async def story() -> None:
        assert len(await bodies.read(packed(gzip.compress(body)))) == len(body)
        with pytest.raises(TooManyRequests) as raised:
            await bodies.read(packed(gzip.compress(body)))
        assert raised.value.code == "too_many_bytes"

    asyncio.run(story())
