"""A connection of HTTP/1.1 that costs its program little: who measures a service on its own machine takes what the service could use."""

import asyncio
from dataclasses import dataclass, field
from typing import cast

import httptools


@dataclass
class Reply:
    """What came back; the names of headers are in small letters."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class Connection(asyncio.Protocol):
    """One connection, which takes one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reply = Reply()
        self._answer: asyncio.Future[Reply] | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """A connection to a port of this machine."""
        _, connection = await asyncio.get_running_loop().create_connection(cls, "127.0.0.1", port)
        return connection

    @property
    def is_open(self) -> bool:
        """Whether the other side has not closed it."""
        return self._transport is not None and not self._transport.is_closing()

    async def ask(self, request: bytes) -> Reply:
        """Send a whole request, and wait for the whole answer.

        Raises:
            ConnectionError: If the other side closes the connection instead.
        """
        if not self.is_open:
            raise ConnectionResetError("the connection is closed")
        assert self._transport is not None
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        """End it, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """For asyncio."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """For asyncio."""
        self._transport = None
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(ConnectionResetError("the connection was closed before the answer"))

    def data_received(self, data: bytes) -> None:
        """For asyncio."""
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """For the parser."""
        self._reply.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """For the parser."""
        self._reply.body += body

    def on_message_complete(self) -> None:
        """For the parser."""
        reply, self._reply = self._reply, Reply()
        reply.status = self._parser.get_status_code()
        if self._answer is not None and not self._answer.done():
            self._answer.set_result(reply)
