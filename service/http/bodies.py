"""The bodies of requests over HTTP: read within limits of time, of bytes each, and of bytes of all of them together."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeAlias

from starlette.requests import Request
from starlette.types import Scope

from loupe.old_errors.service import (
    BodyTooLarge,
    BodyTooSlow,
    CallerGone,
    InvalidRequest,
    TooManyBytes,
    UnsupportedMediaType,
)
from loupe.settings import Settings

BODY_SECONDS = (
    25.0  # within which a body has to come; after 30, BentoML would answer in words of its own
)
MOST_OF_THE_LONGEST = (
    8  # bodies of the greatest length may be in memory at a time, or so many more that are shorter
)
BEGUN_BYTES = 64 * 1024  # of a body; room for the rest is only made for those who have sent so much
LONG_BYTES = 256 * 1024  # to come; for fewer, receiving them in their place is not worth the while
MOST_LONG_BYTES = (
    8 * 2**20
)  # to come; making room for more at once would keep the event loop too long
MOST_ON_TRUST_BYTES = (
    64 * 2**20
)  # to come of all bodies; the others come in pieces, as short ones do
MOST_SHOWN = 40  # characters of a header that an error repeats
HELD = "loupe.held_bytes"  # of a request's body


# From what has come of a body to the whole of it; see `service.connection.Connection.receive_rest`.
ReceiveRest: TypeAlias = Callable[[bytes, int, Callable[[int], None]], Awaitable[bytes]]


class Bodies:
    """The bodies that are in memory.

    Args:
        settings: How long one may be.
    """

    def __init__(self, settings: Settings) -> None:
        self._most_of_one = settings.max_body_bytes
        self._most_of_all = MOST_OF_THE_LONGEST * settings.max_body_bytes
        self._held = 0  # bytes
        self._on_trust = 0  # bytes of them that may still have to come

    async def read(
        self, request: Request, expected: str = "an image", limit_seconds: float = BODY_SECONDS
    ) -> bytes:
        """A body that is not empty. It counts as being in memory until its request is released.

        Args:
            request: Whose body it is.
            expected: What the caller is told that should be in it.
            limit_seconds: Within which it has to come.

        Raises:
            BodyTooLarge: If it says that it is longer than one may be, or is.
            BodyTooSlow: If it takes longer to come.
            CallerGone: If the caller goes before its end.
            InvalidRequest: If it is empty.
            TooManyBytes: If there is no room for it beside the others.
            UnsupportedMediaType: If it is compressed.
        """
        declared = self._declared(request)
        receive_rest: ReceiveRest | None = request.scope.get("state", {}).get("receive_rest")
        chunks: list[bytes] = []
        size = 0
        more = True

        def count(came: int) -> None:
            nonlocal size
            size += came

        alarm = _Alarm(limit_seconds)
        try:
            while more:
                message = await request.receive()
                if message["type"] == "http.disconnect":
                    raise CallerGone
                chunk, more = message.get("body", b""), message.get("more_body", False)
                count(len(chunk))
                if size > self._most_of_one:
                    raise BodyTooLarge(self._most_of_one)
                self._hold(request.scope, len(chunk))
                chunks.append(chunk)
                left = declared - size
                if receive_rest is not None and more and self._trusts(size, left):
                    self._hold(request.scope, left)
                    self._on_trust += left
                    try:
                        return await receive_rest(b"".join(chunks), declared, count)
                    finally:
                        self._on_trust -= left
        except asyncio.CancelledError:
            if alarm.rang:
                raise BodyTooSlow(limit_seconds, size) from None
            raise
        finally:
            alarm.stop()
        if not size:
            raise InvalidRequest(f"{expected} in the body", "an empty body")
        return b"".join(chunks)

    def release(self, scope: Scope) -> None:
        """A request has been answered."""
        self._held -= scope.pop(HELD, 0)

    def _declared(self, request: Request) -> int:
        """How many bytes the headers say that the body has; 0 where they do not."""
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.strip().lower() != "identity":
            raise UnsupportedMediaType(
                "a body that is not compressed", f"Content-Encoding {encoding[:MOST_SHOWN]!r}"
            )
        declared = request.headers.get("content-length", "0")
        if not declared.isdecimal() or int(declared) > self._most_of_one:
            raise BodyTooLarge(self._most_of_one)
        return int(declared)

    def _trusts(self, size: int, left: int) -> bool:
        """Whether room is made for the rest of a body before it comes."""
        is_worth_it = size >= BEGUN_BYTES and LONG_BYTES <= left <= MOST_LONG_BYTES
        return is_worth_it and self._on_trust + left <= MOST_ON_TRUST_BYTES

    def _hold(self, scope: Scope, size: int) -> None:
        if self._held + size > self._most_of_all:
            raise TooManyBytes(self._most_of_all)
        self._held += size
        scope[HELD] = scope.get(HELD, 0) + size


class _Alarm:
    """Cancels what the task waits for when a time is over. `asyncio.wait_for` would cost every request a task of its own."""

    def __init__(self, seconds: float) -> None:
        self.rang = False
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)

    def stop(self) -> None:
        """It has not to ring any more."""
        self._timer.cancel()

    def _ring(self) -> None:
        self.rang = True
        if self._task is not None:
            self._task.cancel()
