"""Bodies of requests, read within limits of size and time."""

import asyncio

import pytest
from starlette.requests import Request
from starlette.types import Message

from loupe.old_errors.service import BodyTooLarge, BodyTooSlow, CallerGone, TooManyBytes
from loupe.settings import Settings
from service.http.bodies import MOST_OF_THE_LONGEST, Bodies

SETTINGS = Settings(max_body_bytes=100_000)


def request(body: bytes, media_type: str | None, length: str | None) -> Request:
    """A request whose body comes in pieces."""
    pieces = [body[start : start + 1000] for start in range(0, len(body), 1000)] or [b""]

    async def receive() -> Message:
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    headers = [(b"content-type", media_type), (b"content-length", length)]
    raw = [(name, value.encode()) for name, value in headers if value is not None]
    return Request(
        {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": raw},
        receive,
    )


def read(request: Request) -> bytes:
    return asyncio.run(Bodies(SETTINGS).read(request))


def test_body_without_a_length_is_counted_as_it_arrives() -> None:
    with pytest.raises(BodyTooLarge, match=r"100,000 bytes \(LOUPE_MAX_BODY_BYTES\)"):
        read(request(bytes(100_001), None, None))


@pytest.mark.parametrize("length", ["-1", "many", "100001", "1e3", ""])
def test_invalid_content_length_is_refused_before_anything_is_read(length: str) -> None:
    with pytest.raises(BodyTooLarge):
        read(request(b"x", None, length))


def test_disconnect_while_the_body_arrives_is_reported_as_such() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    going = Request(
        {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": []}, receive
    )
    with pytest.raises(CallerGone):
        asyncio.run(Bodies(SETTINGS).read(going))


def test_incomplete_body_is_refused_after_the_time_limit() -> None:
    parts = iter([b"half of "])

    async def receive() -> Message:
        for part in parts:
            return {"type": "http.request", "body": part, "more_body": True}
        await asyncio.sleep(30)
        raise AssertionError("nobody should have waited so long")

    slow = Request({"type": "http", "method": "POST", "headers": [], "query_string": b""}, receive)

    with pytest.raises(BodyTooSlow, match=r"0\.05 s.*8 bytes"):
        asyncio.run(Bodies(SETTINGS).read(slow, limit_seconds=0.05))


def test_cancellation_while_the_body_arrives_is_passed_on() -> None:
    async def receive() -> Message:
        await asyncio.sleep(30)
        raise AssertionError("nobody should have waited so long")

    async def cancelled() -> None:
        waiting = Request(
            {"type": "http", "method": "POST", "headers": [], "query_string": b""}, receive
        )
        reading = asyncio.create_task(Bodies(SETTINGS).read(waiting))
        await asyncio.sleep(0)
        reading.cancel()
        await reading

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled())


def test_all_bodies_share_one_memory_limit_until_they_are_released() -> None:
    bodies = Bodies(SETTINGS)
    held = [request(bytes(100_000), None, None) for _ in range(MOST_OF_THE_LONGEST)]
    late = request(b"x", None, None)

    async def story() -> None:
        for each in held:
            await bodies.read(each)
        with pytest.raises(TooManyBytes, match="800,000 bytes"):
            await bodies.read(late)
        bodies.release(late.scope)
        bodies.release(held[0].scope)
        bodies.release(held[0].scope)  # a body is released once
        assert len(await bodies.read(request(bytes(100_000), None, None))) == 100_000
        with pytest.raises(TooManyBytes):
            await bodies.read(request(b"x", None, None))

    asyncio.run(story())
