"""Shares of scarce resources, so that no caller takes all of one."""

import asyncio
from typing import TypeAlias
from weakref import WeakKeyDictionary

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

    Attributes:
        held: Amount that all callers hold, each at most its share.
    """

    def __init__(self, total: int, share: int) -> None:
        self.total = total
        self.share = share
        self.held = 0
        self._held: dict[str, int] = {}  # by caller

    def has_room(self, caller: str, amount: int = 1) -> bool:
        """Return whether an amount is left for this caller."""
        held = self._held.get(caller, 0) + amount
        return self.held + amount <= self.total and held <= self.share

    def take(self, caller: str, amount: int = 1) -> bool:
        """Take an amount, and return whether it was left for this caller."""
        if not self.has_room(caller, amount):
            return False
        self.add(caller, amount)
        return True

    def add(self, caller: str, amount: int = 1) -> None:
        """Take an amount, even if it is not left. The excess does not count for others."""
        before = self._held.get(caller, 0)
        self._held[caller] = before + amount
        self.held += min(before + amount, self.share) - min(before, self.share)

    def give_back(self, caller: str, amount: int = 1) -> None:
        """Return an amount."""
        before = self._held.pop(caller)
        self.held -= min(before, self.share) - min(before - amount, self.share)
        if before > amount:
            self._held[caller] = before - amount


def part(limit: int, processes: int) -> int:
    """Return the equal part of a limit that each of several processes has: at least 1."""
    return -(-limit // processes)


def shared(limit: int) -> Shares:
    """Return shares that let one caller use all of a limit, and leave others half as much more.

    So a lone caller gets the whole limit, and cannot lock others out.
    """
    return Shares(limit + limit // 2, limit)
