"""TCP ports of this machine."""

import errno
import socket

from loupe.errors import ProgramFailed

WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 - names, not a default
NO_ADDRESS = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)
BACKLOG = 2048  # connections that wait to be accepted; BentoML's own default


def listen(
    host: str, port: int, setting: str = "--port or LOUPE_PORT", *, reuse_port: bool = False
) -> list[socket.socket]:
    """Return listening sockets for all addresses of a host.

    Args:
        host: A name or an address. `0.0.0.0` and `::` are all addresses of both families, as in
            gRPC, and `localhost` is both loopback addresses.
        port: The TCP port.
        setting: The setting that chooses the port, for the error.
        reuse_port: Whether other sockets may listen on the same port. On Linux, each gets a share
            of the connections.

    Raises:
        ProgramFailed: If the port is taken or forbidden (code `address_in_use`), or the host is not
            an address of this machine (`host_unknown`).
    """
    if host in WILDCARDS and socket.has_dualstack_ipv6():
        return [_listen("::", port, setting, reuse_port)]
    if host != "localhost":
        return [_listen(host, port, setting, reuse_port)]
    sockets = [_listen("127.0.0.1", port, setting, reuse_port)]
    try:
        sockets.append(_listen("::1", port, setting, reuse_port))
    except ProgramFailed as error:
        if error.code != "host_unknown":  # this machine has no IPv6
            sockets[0].close()
            raise
    return sockets


def url_of(host: str, port: int, scheme: str = "http") -> str:
    """Return an address that can be opened on this machine."""
    name = "localhost" if host in WILDCARDS else f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}:{port}"


def _listen(host: str, port: int, setting: str, reuse_port: bool) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server(
            (host, port),
            family=family,
            backlog=BACKLOG,
            dualstack_ipv6=host == "::",
            reuse_port=reuse_port,
        )
    except OSError as error:
        problem = str(error.strerror).partition(" (")[0]
        # Failed name lookups have negative numbers.
        if error.errno in NO_ADDRESS or (error.errno or 0) < 0:
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
