"""Connections on which a test decides each byte."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.client import HTTPResponse
from urllib.parse import urlsplit

from tests.support.programs import PATIENCE_SECONDS


def head(url: str, method: str, path: str, *lines: str, version: str = "1.1") -> bytes:
    """Return the head of a request to a path below a URL."""
    parts = urlsplit(url)
    first = [f"{method} {parts.path}{path} HTTP/{version}", f"Host: {parts.netloc}"]
    return "".join(f"{line}\r\n" for line in [*first, *lines, ""]).encode()


@contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    """Connect to the server of a URL while the block runs."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname or "", parts.port), PATIENCE_SECONDS) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        yield client


def read_answer(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """Read status, headers with names in lower case, and body of one answer."""
    answer = HTTPResponse(client)
    answer.begin()
    headers = {name.lower(): value for name, value in answer.getheaders()}
    return answer.status, headers, answer.read()


def read_all(client: socket.socket) -> bytes:
    """Read until the server closes or resets the connection."""
    received = b""
    with suppress(ConnectionError):
        while chunk := client.recv(65536):
            received += chunk
    return received
