"""The HTTP client for `https://` sources, whose URLs and servers are not trusted.

Every request, also one that follows a redirect, goes to `https` and to a public address. The
address is checked when the socket is made, so a name cannot change its meaning in between.
"""

import errno
import ipaddress
import re
import socket
import ssl
from typing import Any

import aiohttp
from aiohttp.connector import AddrInfoType, SocketFactoryType

from loupe.errors import InvalidSource, InvalidUrl

TIMEOUT = aiohttp.ClientTimeout(total=300, sock_connect=15, sock_read=30)
RANGE = re.compile(r"bytes=(\d+)-(\d+)")
NAT_64 = ipaddress.IPv6Network("64:ff9b::/96")


async def make_public_client(**options: Any) -> aiohttp.ClientSession:
    """Return a client that connects only to public addresses."""
    return _make_client(options, _make_public_socket)


async def make_client(**options: Any) -> aiohttp.ClientSession:
    """Return a client that connects to any address."""
    return _make_client(options, None)


def _make_client(
    options: dict[str, Any], make_socket: SocketFactoryType | None
) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        # The default context is made on import, before `SSL_CERT_FILE` may be set.
        connector=aiohttp.TCPConnector(
            ssl=ssl.create_default_context(), socket_factory=make_socket
        ),
        timeout=TIMEOUT,
        middlewares=[_check],
        cookie_jar=aiohttp.DummyCookieJar(),
        # A compressed answer may unpack to any length.
        headers={"Accept-Encoding": "identity"},
        auto_decompress=False,
        **options,
    )


async def _check(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Send a request, and refuse an answer that has more bytes than were asked for."""
    if request.url.scheme != "https":
        raise InvalidUrl(f"The server redirects to '{request.url}', which is not an https:// URL.")
    response = await send(request)
    if response.status >= 400:  # the body of an error may be endless
        response.close()
        response.raise_for_status()
    asked = RANGE.fullmatch(request.headers.get("Range", ""))
    if asked and response.status in (200, 206):
        length = response.content_length
        if length is None or length > int(asked[2]) - int(asked[1]) + 1:
            response.close()
            raise InvalidSource(f"The server of '{request.url}' sends no parts of files.")
    return response


def _make_public_socket(address: AddrInfoType) -> socket.socket:
    family, kind, protocol, _, (host, *_) = address
    if not is_public(str(host)):
        raise PermissionError(errno.EACCES, f"{host} is not a public address")
    return socket.socket(family, kind, protocol)


def is_public(address: str) -> bool:
    """Return whether an IP address belongs to the internet, also if IPv6 wraps one of IPv4."""
    parsed = ipaddress.ip_address(address)
    if isinstance(parsed, ipaddress.IPv6Address):
        wrapped = parsed.ipv4_mapped or parsed.sixtofour
        if wrapped is None and parsed in NAT_64:
            wrapped = ipaddress.IPv4Address(parsed.packed[-4:])
        parsed = wrapped or parsed
    return parsed.is_global and not parsed.is_multicast
