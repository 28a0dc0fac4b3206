"""Long uploads and downloads, and how many of them may run at a time."""

from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from loupe.errors import TooManyRequests
from service.http.context import context_of


class TransferLimit:
    """A limit for transfers of one kind.

    Args:
        kind: Name of the kind in messages.
        limit: Maximum number at a time.
    """

    def __init__(self, kind: str, limit: int) -> None:
        self._kind = kind
        self._limit = limit
        self._running = 0

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Hold a slot until the block ends; see `acquire`."""
        self.acquire()
        try:
            yield
        finally:
            self.release()

    def acquire(self) -> None:
        """Take a slot.

        Raises:
            TooManyRequests: If none is free.
        """
        if self._running >= self._limit:
            raise TooManyRequests(
                f"The limit of {self._limit} {self._kind} at a time is reached. "
                "Try again in a second.",
                code="too_many_transfers",
            )
        self._running += 1

    def release(self) -> None:
        """Free the slot."""
        self._running -= 1


class _Stream(StreamingResponse):
    """A long response, which counts as a transfer instead of a request in flight."""

    limit: TransferLimit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            context_of(scope).pause()
            await super().__call__(scope, receive, send)
        finally:
            self.limit.release()


def streamed(
    request: Request,
    content: AsyncIterable[bytes] | Iterable[bytes],
    limit: TransferLimit,
    media_type: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a response that is sent in chunks; `HEAD` gets its headers only.

    Raises:
        TooManyRequests: If the limit is reached.
    """
    if request.method == "HEAD":
        return Response(headers=headers, media_type=media_type)
    stream = _Stream(content, headers=headers, media_type=media_type)
    limit.acquire()
    stream.limit = limit
    return stream
