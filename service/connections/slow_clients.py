"""Limits of time and size for clients that send or read slowly; uvicorn has hardly any."""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from loupe.errors import LoupeError
from service.http.middleware import MAX_HEADER_BYTES, headers_too_large

HEAD_SECONDS = 10  # timeout for the head of a request, from its first byte
WRITE_SECONDS = 60  # timeout for a client that reads nothing of its responses
IDLE_SECONDS = 75  # timeout between requests; proxies keep idle connections for a minute
LAST_SECONDS = 1  # timeout for a head while the service stops
DROP_SECONDS = 30  # timeout for the rest of a body that nobody reads


class LimitedConnection(HttpToolsProtocol):
    """uvicorn's connection with limits for heads, chunk headers and trailers, and for reading.

    Attributes:
        is_receiving: Whether a request has started to arrive and is not complete.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.is_receiving = False
        self._reads_head = True
        self._made_progress = False  # the last chunk ended a head, or contained a body
        self._overhead_bytes = 0  # received since the last progress
        self._timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None

    @property
    def is_answered(self) -> bool:
        """True if no request waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_reading_head(self) -> bool:
        """Return whether a part of a head has arrived."""
        return self.is_receiving and self._reads_head

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout for the first request; uvicorn has none."""
        super().connection_made(transport)
        self._start_timer(IDLE_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the timeouts."""
        self._stop_timer()
        self._stop_write_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a chunk, and limit the time and size of heads, chunk headers and trailers."""
        self._made_progress = False
        self._unset_keepalive_if_required()
        try:
            self.feed(data)
        except httptools.HttpParserError:
            self.send_400_response("")
        if self.transport.is_closing():
            return
        if not self.is_receiving:
            # After the rest of a body whose request has been answered, uvicorn has no timeout.
            if self.is_answered and self.timeout_keep_alive_task is None:
                self.timeout_keep_alive_task = self.loop.call_later(
                    self.timeout_keep_alive, self.timeout_keep_alive_handler
                )
            return
        if self._reads_head and not self._overhead_bytes:
            self._start_timer(HEAD_SECONDS)
        # A chunk with progress may hold the end of the previous body, so its size does not count.
        self._overhead_bytes = 1 if self._made_progress else self._overhead_bytes + len(data)
        if self._overhead_bytes > 2 * MAX_HEADER_BYTES:  # the middleware checks complete heads
            self.refuse(headers_too_large())

    def feed(self, data: bytes) -> None:
        """Parse a chunk."""
        self.parser.feed_data(data)

    def refuse(self, error: LoupeError) -> None:
        """Send an error and close."""
        raise NotImplementedError

    def on_message_begin(self) -> None:
        """Note that a head has started."""
        super().on_message_begin()
        self.is_receiving = True
        self._reads_head = True
        self._overhead_bytes = 0

    def on_headers_complete(self) -> None:
        """Stop the timeout for the head."""
        self._reads_head = False
        self._made_progress = True
        self._stop_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note that a part of a body has arrived."""
        self._made_progress = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        super().on_message_complete()
        self.is_receiving = False
        self._made_progress = True
        self._stop_timer()

    def pause_writing(self) -> None:
        """Start the timeout for the client to read; uvicorn waits for ever."""
        super().pause_writing()
        self._start_write_timer()

    def resume_writing(self) -> None:
        """Stop that timeout."""
        super().resume_writing()
        self._stop_write_timer()

    def start_last_timer(self) -> None:
        """Start the timeout for a head while the service stops."""
        self._start_timer(LAST_SECONDS)

    def start_drop_timer(self) -> None:
        """Start the timeout for the rest of a body that nobody reads."""
        self._start_timer(DROP_SECONDS)

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
        self._timer = self.loop.call_later(seconds, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
