"""Messages of any size through a socket between two processes."""

import socket

SIZE_BYTES = 8


def send(end: socket.socket, content: bytes | bytearray | memoryview) -> None:
    """Send a message.

    Raises:
        OSError: If the other process has closed its end.
    """
    end.sendall(len(content).to_bytes(SIZE_BYTES, "big"))
    end.sendall(content)


def receive(end: socket.socket) -> bytes:
    """Wait for a message.

    Raises:
        EOFError: If the other process has closed its end, even within a message.
        OSError: If it closed its end while it had unread messages.
    """
    return _read(end, int.from_bytes(_read(end, SIZE_BYTES), "big"))


def _read(end: socket.socket, size: int) -> bytes:
    content = bytearray(size)
    rest = memoryview(content)
    while rest:
        count = end.recv_into(rest, flags=socket.MSG_WAITALL)
        if not count:
            raise EOFError
        rest = rest[count:]
    return bytes(content)
