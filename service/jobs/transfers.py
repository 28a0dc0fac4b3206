"""Long uploads and downloads, and how many of them may run at a time."""

from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from loupe.errors import TooManyRequests
from service.http.context import context_of
from service.http.shares import Shares, caller_of


class TransferLimit:
    """A limit for transfers of one kind.

    Args:
        kind: Name of the kind in messages.
        limit: Maximum number at a time.
        share: Maximum number of one caller at a time.
    """

    def __init__(self, kind: str, limit: int, share: int) -> None:
        self._kind = kind
        self._slots = Shares(limit, share)

    @contextmanager
    def slot(self, caller: str) -> Iterator[None]:
        """Hold a slot until the block ends, or raise `TooManyRequests` if none is free."""
        if not self._slots.take(caller):
            raise TooManyRequests(
                f"The limit of {self._slots.total} {self._kind} at a time, or of "
                f"{self._slots.share} of yours, is reached. Try again in a second.",
                code="too_many_transfers",
            )
        try:
            yield
        finally:
            self._slots.give_back(caller)


class _Stream(StreamingResponse):
    """A long response, which counts as a transfer instead of a request in flight."""

    slot: ExitStack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.slot:
            context_of(scope).pause()
            await super().__call__(scope, receive, send)


def streamed(
    request: Request,
    content: AsyncIterable[bytes] | Iterable[bytes],
    limit: TransferLimit,
    media_type: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a response that is sent in chunks, or only its headers for `HEAD`.

    Its length is unknown, so a `Range` is ignored, as its headers say.
    """
    headers = {**(headers or {}), "Accept-Ranges": "none"}
    if request.method == "HEAD":
        response = Response(headers=headers, media_type=media_type)
        del response.headers["content-length"]  # would be that of the empty body
        return response
    stream = _Stream(content, headers=headers, media_type=media_type)
    stream.slot = ExitStack()
    stream.slot.enter_context(limit.slot(caller_of(request.scope)))
    return stream
