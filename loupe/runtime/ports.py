"""TCP ports of this machine."""

import errno
import socket

from loupe.old_errors.core import AddressInUse, HostUnknown

BACKLOG = 2048  # connections that wait to be accepted; BentoML's own default


def listen(host: str, port: int, setting: str = "--port or LOUPE_PORT") -> socket.socket:
    """A socket that listens.

    Args:
        host: A name or an address.
        port: Of TCP.
        setting: Where another port can be chosen, for the error.

    Raises:
        AddressInUse: If something else listens there, or this process may not.
        HostUnknown: If the host is no address of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        problem = str(error.strerror).partition(" (")[0]
        if (
            error.errno == errno.EADDRNOTAVAIL or (error.errno or 0) < 0
        ):  # the second are those of looking names up
            raise HostUnknown(host, problem) from error
        raise AddressInUse(host, port, problem, setting) from error


def free_port() -> int:
    """A port that nothing listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port
