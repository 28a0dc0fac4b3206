"""Request bodies, read within limits of time, size, and total memory."""

import asyncio
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO

from starlette.requests import Request

from loupe.errors import (
    BodyTooSlow,
    ContentTooLarge,
    InvalidRequest,
    TooManyRequests,
    UnsupportedMediaType,
)
from loupe.settings import Settings
from service.http.context import RequestContext, context_of
from service.http.shares import LONG_BYTES, Shares, part, turn
from service.prediction.caller import caller_gone

BODY_SECONDS = 25.0  # timeout for a whole body
MAX_LARGEST_BODIES = 4  # bodies of the maximum size that fit into memory at a time
LARGEST_BODIES_SHARE = 2  # of these, of one caller
ENCODINGS = (b"gzip", b"x-gzip", b"deflate")  # compressed bodies that are unpacked
GZIP_OR_ZLIB = zlib.MAX_WBITS | 32
UNPACK_BYTES = 2**20  # in one step of the event loop
MAX_RATIO = 200  # of unpacked to compressed bytes; equal images in JSON reach 100
MAX_SHOWN = 40  # characters of a header in an error message


class Bodies:
    """Reads bodies and limits the memory that they take together.

    Args:
        settings: The maximum size of one body.
    """

    def __init__(self, settings: Settings) -> None:
        self._max_bytes = settings.max_body_bytes
        self._memory = Shares(
            part(MAX_LARGEST_BODIES, settings.processes) * settings.max_body_bytes,
            part(LARGEST_BODIES_SHARE, settings.processes) * settings.max_body_bytes,
        )

    async def read(
        self, request: Request, expected: str = "an image", limit_seconds: float = BODY_SECONDS
    ) -> bytes:
        """Return the body. It counts as memory in use until `release`.

        Args:
            request: The request.
            expected: What the body should contain, for the error message.
            limit_seconds: Timeout for the whole body.

        Raises:
            BodyTooSlow: If it does not arrive in time.
            CallerGone: If the client disconnects.
            ContentTooLarge: If it is longer than the limit.
            InvalidRequest: If it is empty.
            TooManyRequests: If all bodies, or those of this caller, would take too much memory.
            UnsupportedMediaType: If it has an encoding besides gzip and deflate.
        """
        context = context_of(request.scope)
        is_compressed = self._check_headers(context.headers)
        body = await self._receive(request, context, limit_seconds)
        if is_compressed:
            body = await self._unpack(context, body)
        if not body:
            raise InvalidRequest(f"The body is empty. Send {expected} in it.")
        return body

    async def _receive(
        self, request: Request, context: RequestContext, limit_seconds: float
    ) -> bytes:
        if context.is_received:  # in one piece, without waiting
            return (await self._next_chunk(request, context))[0]
        body = BytesIO()  # unlike a list of chunks, it needs no second copy to join them
        chunk, size = b"", 0
        has_more = True
        timeout = _Timeout(limit_seconds)
        context.pause()  # a slow upload does not count as in flight
        try:
            while has_more:
                chunk, has_more = await self._next_chunk(request, context)
                size += len(chunk)
                if size == len(chunk) and not has_more:
                    break
                body.write(chunk)
        except asyncio.CancelledError:
            if timeout.expired:
                raise BodyTooSlow(
                    f"Received {size:,} bytes of the body in {limit_seconds:g} s."
                ) from None
            raise
        finally:
            timeout.cancel()
        context.resume()
        if size == len(chunk):
            return chunk
        if size > LONG_BYTES:
            await turn()
        return body.getvalue()

    async def _next_chunk(self, request: Request, context: RequestContext) -> tuple[bytes, bool]:
        """Return the next chunk of the body, and whether there are more."""
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise caller_gone()
        chunk = message.get("body", b"")
        if context.body_bytes + len(chunk) > self._max_bytes:
            raise self._too_large()
        self._hold(context, len(chunk))
        return chunk, message.get("more_body", False)

    async def _unpack(self, context: RequestContext, packed: bytes) -> bytes:
        """Return a compressed body unpacked; other requests run between the steps."""
        limit = min(self._max_bytes, max(UNPACK_BYTES, MAX_RATIO * len(packed)))
        body = BytesIO()
        for piece in _unpacked(packed):
            if body.tell() + len(piece) > limit:
                raise ContentTooLarge(
                    f"The body unpacks to more than {limit:,} bytes (LOUPE_MAX_BODY_BYTES, "
                    f"and {MAX_RATIO} times its compressed size)."
                )
            self._hold(context, len(piece))
            body.write(piece)
            if body.tell() > LONG_BYTES:
                await turn()
        return body.getvalue()

    @contextmanager
    def holding(self, caller: str, size: int) -> Iterator[None]:
        """Count bytes that are in memory already, such as a gRPC message, during the block.

        Raises:
            TooManyRequests: If all bodies, or those of this caller, would take too much memory.
        """
        self._take(caller, size)
        try:
            yield
        finally:
            self._give_back(caller, size)

    def release(self, context: RequestContext) -> None:
        """Free the memory of a request's body."""
        self._give_back(context.caller, context.body_bytes)
        context.body_bytes = 0

    def _check_headers(self, headers: Mapping[bytes, bytes]) -> bool:
        """Return whether the body is compressed."""
        length = headers.get(b"content-length")
        if length is not None and not (length.isdigit() and int(length) <= self._max_bytes):
            raise self._too_large()
        encoding = headers.get(b"content-encoding")
        if encoding is None or encoding.strip().lower() == b"identity":
            return False
        if encoding.strip().lower() not in ENCODINGS:
            shown = encoding[:MAX_SHOWN].decode("latin-1")
            raise UnsupportedMediaType(
                f"Content-Encoding {shown!r} is not supported. Send gzip, deflate or plain bodies."
            )
        return True

    def _too_large(self) -> ContentTooLarge:
        return ContentTooLarge(
            f"The body is larger than {self._max_bytes:,} bytes (LOUPE_MAX_BODY_BYTES)."
        )

    def _hold(self, context: RequestContext, size: int) -> None:
        self._take(context.caller, size)
        context.body_bytes += size

    def _take(self, caller: str, size: int) -> None:
        if not self._memory.take(caller, size):
            raise TooManyRequests(
                f"The bodies of all requests together exceed {self._memory.total:,} bytes, or "
                f"yours {self._memory.share:,} ({self._memory.total // self._max_bytes} and "
                f"{self._memory.share // self._max_bytes} times LOUPE_MAX_BODY_BYTES). "
                "Try again in a second.",
                code="too_many_bytes",
            )

    def _give_back(self, caller: str, size: int) -> None:
        if size:
            self._memory.give_back(caller, size)


def _unpacked(packed: bytes) -> Iterator[bytes]:
    """Yield an unpacked body in pieces of at most `UNPACK_BYTES`.

    Raises:
        InvalidRequest: If it is not one gzip or zlib stream.
    """
    unpacker = zlib.decompressobj(GZIP_OR_ZLIB)
    for start in range(0, len(packed), LONG_BYTES):
        rest, has_more = packed[start : start + LONG_BYTES], not unpacker.eof
        while has_more:
            try:
                piece = unpacker.decompress(rest, UNPACK_BYTES)
            except zlib.error as error:
                raise InvalidRequest(f"The compressed body is damaged: {error}.") from error
            yield piece
            rest = unpacker.unconsumed_tail
            has_more = not unpacker.eof and (bool(rest) or len(piece) == UNPACK_BYTES)
    if not unpacker.eof:
        raise InvalidRequest("The compressed body is damaged: it has no end.")
    if rest or unpacker.unused_data:
        raise InvalidRequest("The compressed body is damaged: bytes follow its end.")


class _Timeout:
    """Cancels the current task after some seconds; cheaper than the task of `asyncio.wait_for`."""

    def __init__(self, seconds: float) -> None:
        self.expired = False
        self._task = asyncio.current_task()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._expire)

    def cancel(self) -> None:
        """Stop the timer."""
        self._timer.cancel()

    def _expire(self) -> None:
        self.expired = True
        if self._task is not None:
            self._task.cancel()
