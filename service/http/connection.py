"""uvicorn's HTTP/1.1 connection, with limits of time and size for the head of a request.

Each override fixes a fault that `tests/service/http/test_connection.py` proves.
"""

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from loupe.errors import InvalidRequest, LoupeError
from service.http import replies
from service.http.context import KEY, RequestContext, first_values
from service.http.middleware import (
    MAX_HEADER_BYTES,
    SECURITY_HEADERS,
    headers_too_large,
    new_request_id,
)
from service.metrics import Metrics

HEAD_SECONDS = 10  # timeout for the head of a request, from its first byte
WRITE_SECONDS = 60  # timeout for a client that reads nothing of its responses
IDLE_SECONDS = 75  # timeout between requests; proxies keep idle connections for a minute


class Connection(HttpToolsProtocol):
    """A connection to the service.

    Args:
        metrics: Counts requests that cannot be parsed.
        options: The arguments of uvicorn's class.
    """

    def __init__(self, *, metrics: Metrics, **options: Any) -> None:
        super().__init__(**options)
        self._metrics = metrics
        self._pipelined: list[RequestResponseCycle] = []  # unanswered, before the current one
        self._is_idle = True
        self._reads_head = True
        self._made_progress = False  # the last chunk ended a head, or contained a body
        self._overhead_bytes = 0  # received since the last progress
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout for the first request; uvicorn has none."""
        super().connection_made(transport)
        self._start_timer(IDLE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Disconnect all pipelined requests; uvicorn does so only for the last."""
        self._stop_timer()
        self._stop_write_timer()
        for cycle in self._pipelined:
            cycle.disconnected = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a chunk, and limit the time and size of heads, chunk headers and trailers."""
        self._made_progress = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._is_idle:
            # After the rest of a body whose request has been answered, uvicorn has no timeout.
            if self._is_answered() and self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
            return
        if self._reads_head and not self._overhead_bytes:
            self._start_timer(HEAD_SECONDS)
        # A chunk with progress may hold the end of the previous body, so its size does not count.
        self._overhead_bytes = 1 if self._made_progress else self._overhead_bytes + len(data)
        if self._overhead_bytes > 2 * MAX_HEADER_BYTES:  # the middleware checks complete heads
            self._refuse(headers_too_large())

    def pause_writing(self) -> None:
        """Start the timeout for the client to read; uvicorn waits for ever."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """Stop that timeout."""
        super().resume_writing()
        self._stop_write_timer()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that cannot be parsed, in JSON."""
        self._refuse(InvalidRequest("The bytes are not an HTTP/1.1 request."))

    def on_message_begin(self) -> None:
        """Note that a head has started."""
        super().on_message_begin()
        self._is_idle = False
        self._reads_head = True
        self._overhead_bytes = 0

    def on_headers_complete(self) -> None:
        """Stop the timeout, and let the request ask whether its client has disconnected."""
        self._reads_head = False
        self._made_progress = True
        self._stop_timer()
        self.scope["state"][KEY] = RequestContext(
            first_values(self.headers), is_gone=self.transport.is_closing
        )
        if not self._is_answered():
            self._pipelined = [
                cycle for cycle in (*self._pipelined, self.cycle) if not cycle.response_complete
            ]
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note that a part of a body has arrived."""
        self._made_progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        super().on_message_complete()
        self._is_idle = self._made_progress = True

    def _is_answered(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _refuse(self, error: LoupeError) -> None:
        """Send an error and close: the start of the next request is unknown."""
        self._metrics.refused(error)
        response = replies.failure(error)
        headers = [
            *response.raw_headers,
            *SECURITY_HEADERS,
            (b"x-request-id", new_request_id().encode()),
            (b"connection", b"close"),
        ]
        status = f"HTTP/1.1 {error.status} {HTTPStatus(error.status).phrase}".encode()
        lines = [status, *(b"%b: %b" % header for header in headers), b"", response.body]
        self.transport.write(b"\r\n".join(lines))
        self.transport.close()

    def _start_write_timer(self) -> None:
        unread = self.transport.get_write_buffer_size()
        self._write_timer = self.loop.call_later(WRITE_SECONDS, self._check_reading, unread)

    def _check_reading(self, unread: int) -> None:
        if self.transport.get_write_buffer_size() < unread:
            self._start_write_timer()
        else:
            self.transport.abort()

    def _stop_write_timer(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.transport.close)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
