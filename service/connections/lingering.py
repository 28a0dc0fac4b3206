"""Closing of connections without loss of what was sent.

Closing a socket with unread bytes resets the connection, and the client loses the answer.
"""

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.connections.connection import Connection


class LingeringTransport:
    """A transport that ends writing when it is closed, and reads on until the client closes.

    Args:
        transport: The transport.
        connection: Says whether a request is still arriving.
    """

    def __init__(self, transport: asyncio.Transport, connection: "Connection") -> None:
        self._transport = transport
        self._connection = connection
        self._lingers = False
        self.write: Callable[[bytes], object] = transport.write
        self.abort = transport.abort
        self.get_extra_info = transport.get_extra_info
        self.get_write_buffer_size = transport.get_write_buffer_size
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading

    def is_closing(self) -> bool:
        """Return whether no more answers can be sent."""
        return self._lingers or self._transport.is_closing()

    def close(self) -> None:
        """Send what is written, and close."""
        if self._connection.is_ended_by_closing:
            self.reset()
        elif self._connection.is_receiving and not self.is_closing():
            self._lingers = True
            self._transport.write_eof()
            self.write = self._drop
            self._connection.flow.resume_reading()
            self._connection.drop_rest()
        elif not self._lingers:
            self._transport.close()

    def reset(self) -> None:
        """Close so that the client sees an error."""
        at_once = struct.pack("ii", 1, 0)
        self.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, at_once)
        self.abort()

    def _drop(self, data: bytes) -> None:
        """Drop the answer to an earlier request, which comes after the last one was refused."""
