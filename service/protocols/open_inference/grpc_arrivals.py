"""The messages of gRPC calls, received a few at a time.

gRPC holds a message in memory before anybody knows its size. Until a call asks for its message,
HTTP/2's flow control keeps all but the first bytes of it at the client.
"""

import asyncio
from weakref import WeakValueDictionary

import grpc

MAX_MESSAGE_BYTES = 16 * 2**20
OPEN_SECONDS = 5.0  # timeout for the short messages of methods without a key
SLOTS, SLOTS_SHARE = 12, 4  # messages that arrive at a time, of all callers and of one


class Arrivals:
    """Slots for arriving messages. A call waits for a slot after earlier calls of its caller.

    Args:
        limit_seconds: Timeout for a message, with the wait for a slot.
    """

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._slots = asyncio.Semaphore(SLOTS)
        self._shares: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    async def receive(self, caller: str, call: grpc.aio.ServicerContext) -> bytes:
        """Return the next message of a call.

        The call's iterator would keep the message in memory until the garbage collector runs.

        Raises:
            EOFError: If the client sends none.
            TimeoutError: If it does not arrive in time.
        """
        share = self._shares.setdefault(caller, asyncio.Semaphore(SLOTS_SHARE))
        try:
            async with asyncio.timeout(self._limit_seconds), share, self._slots:
                message: bytes | grpc.aio.EOF = await call.read()
        except TimeoutError:
            raise TimeoutError(
                f"No message within {self._limit_seconds:g} s, with the wait for other messages: "
                f"{SLOTS_SHARE} of yours arrive at a time, and {SLOTS} of all callers."
            ) from None
        if not isinstance(message, bytes):
            raise EOFError("The call has no message.")
        return message
