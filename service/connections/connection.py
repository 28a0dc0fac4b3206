"""uvicorn's HTTP/1.1 connection, with what it gets wrong put right.

`test_connection.py` proves each fault. Limits for slow clients are in `slow_clients`, and closing
without loss of the answer in `lingering`.
"""

import asyncio
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from loupe.errors import InvalidRequest, LoupeError
from service.connections.lingering import LingeringTransport
from service.connections.slow_clients import LimitedConnection
from service.http.context import KEY, RequestContext, first_values
from service.http.middleware import last_response
from service.metrics import Metrics

IPV4_MAPPED = "::ffff:"  # before an IPv4 address on a socket for both families
MAX_DROPPED_BYTES = 256 * 2**20  # of a body that nobody reads, as its request has been answered


class Connection(LimitedConnection):
    """A connection to the service.

    Args:
        metrics: Counts requests that cannot be parsed.
        options: The arguments of uvicorn's class.
    """

    def __init__(self, *, metrics: Metrics, **options: Any) -> None:
        super().__init__(**options)
        self._metrics = metrics
        self._pipelined: list[RequestResponseCycle] = []  # unanswered, before the current one
        self._dropped_bytes = 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Answer before the connection closes, and write IPv4 addresses as such."""
        super().connection_made(LingeringTransport(transport, self))  # type: ignore[arg-type]
        if self.client is not None:
            self.client = (self.client[0].removeprefix(IPV4_MAPPED), self.client[1])

    def connection_lost(self, exc: Exception | None) -> None:
        """Disconnect all pipelined requests; uvicorn does so only for the last."""
        for cycle in self._pipelined:
            cycle.disconnected = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a chunk, or drop it if the connection is closing."""
        if self.transport.is_closing():
            self._drop(len(data))
        else:
            super().data_received(data)

    def feed(self, data: bytes) -> None:
        """Parse a chunk as if no request offered to upgrade to another protocol.

        The parser takes everything after such a head for the other protocol, also its body.
        """
        rest = memoryview(data)
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offer:
                rest = rest[offer.args[0] :]
                head = self._head_without_offer()
                self.parser = httptools.HttpRequestParser(self)
                self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn
                self.parser.feed_data(head)

    def on_headers_complete(self) -> None:
        """Start the request; let it ask whether its client has disconnected."""
        if self.parser.should_upgrade():
            return  # `feed` parses the head again
        self.scope["state"][KEY] = context = RequestContext(
            first_values(self.headers), is_gone=self.transport.is_closing
        )
        if not self.is_answered:
            self._pipelined = [
                cycle for cycle in (*self._pipelined, self.cycle) if not cycle.response_complete
            ]
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.waiting_for_100_continue = False  # HTTP/1.0 has no interim responses
            if self.parser.should_keep_alive():
                self.cycle.keep_alive = context.offers_keep_alive = True  # uvicorn closes always

    def on_body(self, body: bytes) -> None:
        """Count a body that nobody reads; uvicorn drops it without limit."""
        super().on_body(body)
        if self.cycle.response_complete:
            self._drop(len(body))

    def on_message_complete(self) -> None:
        """End the request, unless `feed` parses it again."""
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Start the limits for the rest of the body."""
        super().on_response_complete()
        if self.is_receiving and self.is_answered and not self.transport.is_closing():
            self.drop_rest()

    def shutdown(self) -> None:
        """Close if no request waits for its answer; do not wait for the rest of a body.

        The first request of a new connection may be on its way, and cannot be sent again if it is
        lost: wait a moment for its head, and for others that have begun to arrive.
        """
        if self.cycle is None or (self.is_answered and self.is_reading_head):
            self.start_last_timer()
        elif self.is_answered and self.is_receiving:
            self.transport.abort()
        else:
            super().shutdown()

    def drop_rest(self) -> None:
        """Give the client a little time to send the rest of a body that nobody reads."""
        self._dropped_bytes = 0
        self.start_drop_timer()

    def refuse(self, error: LoupeError) -> None:
        """Send an error and close: the start of the next request is unknown."""
        self._metrics.refused(error)
        self.transport.write(last_response(error))
        self.transport.close()

    def send_400_response(self, msg: str) -> None:
        """Refuse bytes that cannot be parsed, in JSON."""
        self.refuse(InvalidRequest("The bytes are not an HTTP/1.1 request."))

    def _drop(self, size: int) -> None:
        self._dropped_bytes += size
        if self._dropped_bytes > MAX_DROPPED_BYTES:
            self.transport.abort()

    def _head_without_offer(self) -> bytes:
        """Return the head of the current request again, without its `Upgrade` headers.

        Raises:
            HttpParserError: If it is a `CONNECT` request, which is nothing but an offer.
        """
        method = self.parser.get_method()
        if method == b"CONNECT":
            raise httptools.HttpParserError("CONNECT")
        version = self.parser.get_http_version().encode()
        kept = (b"%b: %b" % header for header in self.headers if header[0] != b"upgrade")
        return b"\r\n".join([b"%b %b HTTP/%b" % (method, self.url, version), *kept, b"", b""])
