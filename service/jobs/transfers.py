"""What takes long to send or to receive, and how much of it there may be at a time."""

from collections.abc import AsyncIterable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from loupe.old_errors.service import TooManyTransfers


class Room:
    """For so many transfers of a kind.

    Args:
        kind: What callers are told that there are too many of.
        most: At a time.
    """

    def __init__(self, kind: str, most: int) -> None:
        self._kind = kind
        self._most = most
        self._taken = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """A place that is taken until the block ends; see `take`."""
        self.take()
        try:
            yield
        finally:
            self.leave()

    def take(self) -> None:
        """Take a place.

        Raises:
            TooManyTransfers: If there is none.
        """
        if self._taken >= self._most:
            raise TooManyTransfers(self._kind, self._most)
        self._taken += 1

    def leave(self) -> None:
        """Give the place back."""
        self._taken -= 1


class Stream(StreamingResponse):
    """An answer that takes long. It has a place in a room, and none among the requests that wait for their answers.

    Args:
        content: Pieces of the body.
        room: Where it takes a place.
        headers: Of the answer.
        media_type: Of the body.

    Raises:
        TooManyTransfers: If there is no place.
    """

    def __init__(
        self,
        content: AsyncIterable[bytes] | Iterable[bytes],
        room: Room,
        headers: Mapping[str, str] | None,
        media_type: str,
    ) -> None:
        super().__init__(content, headers=headers, media_type=media_type)
        room.take()
        self._room = room

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            let_go: Callable[[], None] | None = scope["state"].get(
                "let_go"
            )  # where the connection is one of ours
            if let_go is not None:
                let_go()
            await super().__call__(scope, receive, send)
        finally:
            self._room.leave()


def streamed(
    request: Request,
    content: AsyncIterable[bytes] | Iterable[bytes],
    room: Room,
    media_type: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """The answer to a request, in pieces; who asks for its head only gets that.

    Raises:
        TooManyTransfers: If there is no place in the room.
    """
    if request.method == "HEAD":
        return Response(headers=headers, media_type=media_type)
    return Stream(content, room, headers, media_type)
