"""uvicorn's HTTP connection with its faults mended; `test_connection.py` proves each of them."""

import asyncio
from typing import Any

import httptools
from uvicorn._types import ASGISendEvent
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.http.context import KEY, RequestContext, first_values

IPV4_MAPPED = "::ffff:"  # before an IPv4 address on a socket for both families


class PlainCycle(RequestResponseCycle):
    """A response over HTTP/1.0, which has no chunks: without a length, the connection ends it."""

    ends_with_connection = False

    async def send(self, message: ASGISendEvent) -> None:
        """Send a part of the response."""
        if message["type"] == "http.response.start":
            self.ends_with_connection = b"content-length" not in dict(message["headers"])
            if self.ends_with_connection:
                self.chunked_encoding = self.keep_alive = False
        elif self.ends_with_connection and message["type"] == "http.response.body":
            self.expected_content_length = len(message["body"])  # so uvicorn accepts it
        await super().send(message)


class Http1Connection(HttpToolsProtocol):
    """A connection that ignores offers to upgrade, and does not send HTTP/1.1 to older clients."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._pipelined: list[RequestResponseCycle] = []  # unanswered, before the current one

    @property
    def is_answered(self) -> bool:
        """True if no request waits for its answer."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def is_ended_by_closing(self) -> bool:
        """True if the client reads the response up to the end of the connection."""
        cycle = self.cycle
        is_plain = isinstance(cycle, PlainCycle) and cycle.ends_with_connection
        return is_plain and not cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Write IPv4 addresses as such."""
        super().connection_made(transport)
        if self.client is not None:
            self.client = (self.client[0].removeprefix(IPV4_MAPPED), self.client[1])

    def connection_lost(self, exc: Exception | None) -> None:
        """Disconnect all pipelined requests; uvicorn does so only for the last."""
        for cycle in self._pipelined:
            cycle.disconnected = True
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a chunk."""
        self._unset_keepalive_if_required()
        try:
            self._parse(data)
        except httptools.HttpParserError:
            self.send_400_response("")

    def on_headers_complete(self) -> None:
        """Start the request; let it ask whether its client has disconnected."""
        if self.parser.should_upgrade():
            return  # `_parse` parses the head again
        self.scope["state"][KEY] = context = RequestContext(
            first_values(self.headers), self.transport.is_closing, self._has_one_task
        )
        if not self.is_answered:
            self._pipelined = [
                cycle for cycle in (*self._pipelined, self.cycle) if not cycle.response_complete
            ]
        super().on_headers_complete()
        if self.scope["http_version"] == "1.0":
            self.cycle.__class__ = PlainCycle
            self.cycle.waiting_for_100_continue = False  # HTTP/1.0 has no interim responses
            if self.parser.should_keep_alive():
                self.cycle.keep_alive = context.offers_keep_alive = True  # uvicorn closes always

    def _has_one_task(self) -> bool:
        """Return whether the server handles one request only."""
        return len(self.tasks) == 1

    def on_message_complete(self) -> None:
        """End the request, unless `_parse` parses it again."""
        if not self.parser.should_upgrade():
            self.scope["state"][KEY].is_received = True
            super().on_message_complete()

    def _parse(self, data: bytes) -> None:
        """Parse a chunk as if no request offered to upgrade to another protocol.

        The parser takes everything after such a head for the other protocol, also its body. So
        a new parser gets the head without the offer.
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
