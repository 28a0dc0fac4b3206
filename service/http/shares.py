"""Shares of scarce resources, so that no caller takes all of one."""

import asyncio
import ipaddress
from functools import lru_cache
from typing import TypeAlias
from weakref import WeakKeyDictionary

from starlette.types import Scope

from service.http.context import NO_KEY, context_of

IPV6_PREFIX = 64  # bits; one subscriber has all addresses below it
LONG_BYTES = 64 * 1024  # bodies above take turns; others are read in less than a millisecond

_Locks: TypeAlias = WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock]
_parsing: _Locks = WeakKeyDictionary()
_long_steps: _Locks = WeakKeyDictionary()


def long_steps() -> asyncio.Lock:
    """Return the lock of the event loop for steps that take milliseconds.

    Without it, all requests that are ready would run their long steps in one turn of the event
    loop, and short requests would wait for all of them.
    """
    return _long_steps.setdefault(asyncio.get_running_loop(), asyncio.Lock())


def parsing() -> asyncio.Lock:
    """Return the lock for parsing long bodies; hold it before `long_steps`.

    So only one parser queues for `long_steps`, and requests that are parsed already finish, and
    free their values, before many others are parsed.
    """
    return _parsing.setdefault(asyncio.get_running_loop(), asyncio.Lock())


async def turn() -> None:
    """Wait for a turn of the event loop in which no other long step runs."""
    async with long_steps():
        await asyncio.sleep(0)


class Shares:
    """A resource with a total, of which one caller may hold a share.

    Args:
        total: Amount that all callers together may hold.
        share: Amount that one caller may hold.
    """

    def __init__(self, total: int, share: int) -> None:
        self.total = total
        self.share = share
        self._held: dict[str, int] = {}  # by caller
        self._sum = 0

    def take(self, caller: str, amount: int = 1) -> bool:
        """Take an amount, and return whether it was left for this caller."""
        held = self._held.get(caller, 0) + amount
        if self._sum + amount > self.total or held > self.share:
            return False
        self._held[caller] = held
        self._sum += amount
        return True

    def give_back(self, caller: str, amount: int = 1) -> None:
        """Return an amount."""
        self._sum -= amount
        held = self._held.pop(caller) - amount
        if held:
            self._held[caller] = held


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
