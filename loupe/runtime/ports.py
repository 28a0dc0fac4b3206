"""TCP ports of this machine."""

import errno
import socket

from loupe.errors import ProgramFailed

BACKLOG = 2048  # connections that wait to be accepted; BentoML's own default


def listen(host: str, port: int, setting: str = "--port or LOUPE_PORT") -> socket.socket:
    """Return a listening socket.

    Args:
        host: A name or an address.
        port: The TCP port.
        setting: The setting that chooses the port, for the error.

    Raises:
        ProgramFailed: If the port is taken or forbidden (code `address_in_use`), or the host is not
            an address of this machine (`host_unknown`).
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        problem = str(error.strerror).partition(" (")[0]
        # Failed name lookups have negative numbers.
        if error.errno == errno.EADDRNOTAVAIL or (error.errno or 0) < 0:
            raise ProgramFailed(
                f"'{host}' is not an address of this machine ({problem}). "
                "Choose another: --host or LOUPE_HOST.",
                code="host_unknown",
            ) from error
        raise ProgramFailed(
            f"Cannot listen on {host}:{port}: {problem}. Choose another port: {setting}.",
            code="address_in_use",
        ) from error


def free_port() -> int:
    """Return a port on which nothing listens now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
