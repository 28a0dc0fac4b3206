"""Connections of the service: limits for clients that send or read slowly, and closing."""

import asyncio
from typing import Any

from loupe.errors import InvalidRequest, LoupeError
from service.connections.flow import LimitedFlow
from service.connections.http1 import Http1Connection
from service.connections.lingering import LingeringTransport
from service.http.middleware import MAX_HEADER_BYTES, headers_too_large, last_response
from service.metrics import Metrics

HEAD_SECONDS = 10  # timeout for the head of a request, from its first byte
IDLE_SECONDS = 75  # timeout between requests; proxies keep idle connections for a minute
LAST_SECONDS = 1  # timeout for a head while the service stops
DROP_SECONDS = 30  # timeout for the rest of a body that is not read
MAX_DROPPED_BYTES = 256 * 2**20  # of such a body


class Connection(Http1Connection):
    """A connection with limits of time and size, which closes without loss of its last answer.

    Args:
        metrics: Counts requests that cannot be parsed.

    Attributes:
        is_receiving: Whether a request has started to arrive and is not complete.
    """

    def __init__(self, *, metrics: Metrics, **options: Any) -> None:
        super().__init__(**options)
        self._metrics = metrics
        self.is_receiving = self._is_reading_head = False
        self._made_progress = False  # the last chunk ended a head, or contained a body
        self._overhead_bytes = 0  # received since the last progress
        self._dropped_bytes = 0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout for the first request; uvicorn has none."""
        lingering = LingeringTransport(transport, self)
        super().connection_made(lingering)  # type: ignore[arg-type]
        self.flow = LimitedFlow(lingering)
        self._start_timer(IDLE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeout."""
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a chunk, or drop it if the connection is closing."""
        if self.transport.is_closing():
            self._drop(len(data))
            return
        self._made_progress = False
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self.is_receiving:
            self._limit_overhead(len(data))
        elif self.is_answered and self.timeout_keep_alive_task is None:
            # After the rest of a body whose request has been answered, uvicorn has no timeout.
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def on_message_begin(self) -> None:
        """Note that a head has started."""
        super().on_message_begin()
        self.is_receiving = self._is_reading_head = True
        self._overhead_bytes = 0

    def on_headers_complete(self) -> None:
        """Stop the timeout for the head."""
        self._is_reading_head = False
        self._made_progress = True
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count a body that is not read; uvicorn drops it without limit."""
        self._made_progress = True
        super().on_body(body)
        if self.cycle.response_complete:
            self._drop(len(body))

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        super().on_message_complete()
        self.is_receiving = False
        self._made_progress = True
        self._stop_timer()

    def on_response_complete(self) -> None:
        """Start the limits for the rest of the body."""
        super().on_response_complete()
        if self.is_receiving and self.is_answered and not self.transport.is_closing():
            self.drop_rest()

    def shutdown(self) -> None:
        """Close if no request waits for its answer; do not wait for the rest of a body.

        The first request of a new connection may be on its way, and cannot be sent again if it is
        lost: wait a moment for its head, and for others that are arriving.
        """
        if self.cycle is None or (self.is_answered and self._is_reading_head):
            self._start_timer(LAST_SECONDS)
        elif self.is_answered and self.is_receiving:
            self.transport.abort()
        else:
            super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that cannot be parsed, in JSON."""
        self._refuse(InvalidRequest("The bytes are not an HTTP/1.1 request."))

    def drop_rest(self) -> None:
        """Give the client a little time to send the rest of a body that is not read."""
        self._dropped_bytes = 0
        self._start_timer(DROP_SECONDS)

    def _refuse(self, error: LoupeError) -> None:
        """Send an error and close: the start of the next request is unknown."""
        self._metrics.refused(error)
        self.transport.write(last_response(error))
        self.transport.close()

    def _limit_overhead(self, size: int) -> None:
        """Limit the time of heads, and the size of heads, chunk headers and trailers."""
        if self._is_reading_head and not self._overhead_bytes:
            self._start_timer(HEAD_SECONDS)
        # A chunk with progress may hold the end of the previous body, so its size does not count.
        self._overhead_bytes = 1 if self._made_progress else self._overhead_bytes + size
        if self._overhead_bytes > 2 * MAX_HEADER_BYTES:  # the middleware checks complete heads
            self._refuse(headers_too_large())

    def _drop(self, size: int) -> None:
        self._dropped_bytes += size
        if self._dropped_bytes > MAX_DROPPED_BYTES:
            self.transport.abort()

    def _start_timer(self, seconds: float) -> None:
        self._stop_timer()
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
