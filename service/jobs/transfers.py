"""Long uploads and downloads, and how many of them may run at a time."""

import re
from collections.abc import AsyncIterable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from loupe.errors import InvalidRequest, TooManyRequests
from loupe.results import JoinedFiles
from service.http import replies
from service.http.context import caller_of, context_of
from service.http.shares import Shares, part

# Limits at a time for all callers together, and for one.
MAX_UPLOADS, UPLOADS_SHARE = 16, 4
MAX_STREAMS, STREAMS_SHARE = 200, 50
MAX_PAGES, PAGES_SHARE = 8, 2
RANGE = re.compile(r"(?i:bytes)=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", re.ASCII)


class TransferLimit:
    """A limit for transfers of one kind.

    Args:
        kind: Name of the kind in messages.
        limit: Maximum number at a time.
        share: Maximum number of one caller at a time.
        processes: Number of processes, each with an equal part of both.
    """

    def __init__(self, kind: str, limit: int, share: int, processes: int = 1) -> None:
        self._kind = kind
        self._slots = Shares(part(limit, processes), part(share, processes))

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


class TransferLimits:
    """The limits for uploads, for downloads and followers of jobs, and for pages of rows.

    Args:
        processes: Number of processes of the service.
    """

    def __init__(self, processes: int) -> None:
        self.uploads = TransferLimit("uploads", MAX_UPLOADS, UPLOADS_SHARE, processes)
        self.streams = TransferLimit(
            "downloads and followers of jobs", MAX_STREAMS, STREAMS_SHARE, processes
        )
        self.pages = TransferLimit("pages of rows", MAX_PAGES, PAGES_SHARE, processes)


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
    status: int = 200,
) -> Response:
    """Return a response that is sent in chunks, or only its headers for `HEAD`.

    Without a `Content-Length` in the headers, its length is unknown.
    """
    headers = {"Accept-Ranges": "none", **(headers or {})}
    if request.method == "HEAD":
        response = Response(headers=headers, media_type=media_type)
        if "Content-Length" not in headers:
            del response.headers["content-length"]  # would be that of the empty body
        return response
    stream = _Stream(content, status, headers, media_type)
    stream.slot = ExitStack()
    stream.slot.enter_context(limit.slot(caller_of(request.scope)))
    return stream


def downloaded(
    request: Request,
    files: JoinedFiles,
    limit: TransferLimit,
    media_type: str,
    headers: Mapping[str, str] | None = None,
) -> Response:
    """Return a response with files as one, or with the range of their bytes that is asked for.

    Source: https://www.rfc-editor.org/rfc/rfc9110#name-range-requests
    """
    tag = f'"{files.version}"'
    headers = {**(headers or {}), "Accept-Ranges": "bytes", "ETag": tag}
    start, stop, status = 0, files.size, 200
    asked = _asked_range(request, files.size, tag)
    if asked is not None:
        (start, stop), status = asked, 206
        if start >= stop:
            error = InvalidRequest(
                f"The file has only {files.size:,} bytes.", code="range_not_satisfiable"
            )
            return replies.json(error.to_json(), 416, {"Content-Range": f"bytes */{files.size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{files.size}"
    headers["Content-Length"] = str(stop - start)
    return streamed(request, files.read(start, stop), limit, media_type, headers, status)


def _asked_range(request: Request, size: int, tag: str) -> tuple[int, int] | None:
    """Return the offsets of the range that is asked for, or `None` for everything.

    Invalid ranges, and several in one request, are ignored, as the standard allows.
    """
    asked = RANGE.fullmatch(request.headers.get("range", ""))
    if asked is None or request.method != "GET" or request.headers.get("if-range", tag) != tag:
        return None
    first, last, suffix = asked.groups()
    if suffix:
        return max(size - int(suffix), 0), size
    if last and int(last) < int(first):
        return None
    return int(first), min(int(last) + 1, size) if last else size
