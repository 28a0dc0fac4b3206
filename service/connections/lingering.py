"""Closing of connections while a request is still arriving.

Closing a socket with unread bytes resets the connection, and the client loses the answer.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from uvicorn.protocols.http.flow_control import FlowControl


class LingeringConnection(Protocol):
    """A connection that can drop the rest of a request."""

    is_receiving: bool
    flow: FlowControl

    def drop_rest(self) -> None:
        """Start the limits of time and size for the rest."""


class LingeringTransport:
    """A transport that ends writing when it is closed, and reads on until the client closes.

    Args:
        transport: The transport.
        connection: Says whether a request is still arriving.
    """

    def __init__(self, transport: asyncio.Transport, connection: "LingeringConnection") -> None:
        self._transport = transport
        self._connection = connection
        self.lingers = False
        self.write: Callable[[bytes], object] = transport.write
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def is_closing(self) -> bool:
        """Return whether no more answers can be sent."""
        return self.lingers or self._transport.is_closing()

    def close(self) -> None:
        """Send what is written, and close."""
        if self._connection.is_receiving and not self.is_closing():
            self.lingers = True
            self._transport.write_eof()
            self.write = self._drop
            self._connection.flow.resume_reading()
            self._connection.drop_rest()
        elif not self.lingers:
            self._transport.close()

    def _drop(self, data: bytes) -> None:
        """Drop the answer to an earlier request, which comes after the last one was refused."""
