"""The context of a request: facts that middleware and handlers share."""

import ipaddress
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

from starlette.types import Scope

from service.http.keys import KEYLESS_RIGHTS, Rights
from service.http.shares import Shares

KEY = "loupe"  # in `scope["state"]`
IPV6_PREFIX = 64  # bits; one subscriber has all addresses below it
NO_KEY = "-"  # used instead of an API key's name if no key is needed


@dataclass(slots=True)
class RequestContext:
    """The facts about one request.

    Attributes:
        headers: The first value of each header, by its name in lower case.
        is_gone: Returns whether the client has disconnected, if the connection can tell.
        is_alone: Returns whether it is the only request in flight, if the server can tell.
        request_id: ID in the log and in the header `X-Request-ID`.
        key_name: Name of the client's API key.
        rights: What the client may do.
        started: When the request arrived, on the clock of `time.monotonic`.
        caller: Whose share of scarce resources it takes: see `caller_of`.
        is_received: Whether its whole body is known to have arrived.
        body_bytes: Bytes of its body that are in memory.
        prefix: Path before the service's own, as its clients see it; empty or `/…`.
        offers_keep_alive: Whether the client speaks HTTP/1.0 and wants to keep the connection.
    """

    headers: dict[bytes, bytes]
    is_gone: Callable[[], bool] = lambda: False
    is_alone: Callable[[], bool] = lambda: False
    request_id: str = ""
    key_name: str = NO_KEY
    rights: Rights = KEYLESS_RIGHTS
    started: float = field(default_factory=time.monotonic)
    caller: str = ""
    is_received: bool = False
    body_bytes: int = 0
    prefix: str = ""
    offers_keep_alive: bool = False
    _counted_by: Shares | None = None
    _in_flight: Shares | None = None

    def count_in(self, in_flight: Shares) -> None:
        """Count the request as in flight."""
        self._in_flight = in_flight
        self.resume()

    def resume(self) -> None:
        """Count the request again, for example when its body is complete."""
        if self._counted_by is None and self._in_flight is not None:
            self._counted_by = self._in_flight
            self._counted_by.add(self.caller)

    def pause(self) -> None:
        """Do not count the request while it only transfers a body, or when it has ended."""
        if self._counted_by is not None:
            self._counted_by.give_back(self.caller)
            self._counted_by = None


def context_of(scope: Scope) -> RequestContext:
    """Return the context of a request; create it if nothing has yet."""
    state = scope.setdefault("state", {})
    context: RequestContext | None = state.get(KEY)
    if context is None:
        context = state[KEY] = RequestContext(first_values(scope["headers"]))
    return context


def first_values(headers: list[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """Return the first value of each header, by name."""
    return dict(reversed(headers))


def caller_of(scope: Scope) -> str:
    """Return whose share a request takes: that of its API key, or else of its address."""
    name = context_of(scope).key_name
    if name != NO_KEY:
        return name
    client = scope.get("client")
    return subscriber(client[0]) if client else ""


@lru_cache(maxsize=1024)
def subscriber(address: str) -> str:
    """Return an address, or the network of a subscriber's IPv6 addresses."""
    try:
        ip = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:  # not an address, such as the name of a socket
        return address
    if isinstance(ip, ipaddress.IPv4Address):
        return str(ip)
    if ip.ipv4_mapped is not None:
        return str(ip.ipv4_mapped)
    return str(ipaddress.ip_network((ip, IPV6_PREFIX), strict=False))
