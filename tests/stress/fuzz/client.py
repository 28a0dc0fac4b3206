"""A client that sends cases, malformed ones included, and checks the responses."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from bench.service.open_loop import Reply
from tests.stress.fuzz.cases import Case
from tests.stress.fuzz.invalid_bodies import REFUSALS, check_refusal
from tests.stress.fuzz.requests import Check

REQUIRED_SECONDS = 30.0  # timeout for a required response; the service's own is 10
OPTIONAL_SECONDS = 0.2  # timeout for an optional response
PAUSE_SECONDS = 0.005  # between the pieces of a request


@dataclass(frozen=True)
class Connection:
    """A TCP connection for arbitrary bytes."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to a port of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @property
    def is_open(self) -> bool:
        """True if neither side has closed the connection."""
        return not (self.writer.is_closing() or self.reader.at_eof())

    async def send(self, case: Case) -> None:
        """Send all pieces of a case."""
        for number, piece in enumerate(case.pieces):
            if number:
                await asyncio.sleep(PAUSE_SECONDS)
            self.writer.write(piece)
            await self.writer.drain()
        if case.half_closes:
            self.writer.write_eof()

    async def receive(self, *, is_head: bool) -> Reply:
        """Return the next response with a status of at least 200."""
        status = 100
        while status < 200:
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.strip().split(b"\r\n")
            status = int(first.split()[1])
        fields = (line.partition(b":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in fields}
        length = 0 if is_head or status == 204 else int(headers.get(b"content-length", 0))
        return Reply(status, headers, await self.reader.readexactly(length))

    def close(self) -> None:
        """Abort the connection."""
        self.writer.transport.abort()


@dataclass
class Outcome:
    """The outcome of a case.

    Attributes:
        replies: The responses received.
        fault: A description of what is wrong, if anything.
    """

    replies: list[Reply] = field(default_factory=list)
    fault: str | None = None


class Client:
    """Sends one case after another, on the same connection where cases allow it.

    Args:
        port: The port of the service.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._kept: Connection | None = None

    async def run(self, case: Case) -> Outcome:
        """Send a case and check the responses."""
        outcome = Outcome()
        connections: list[Connection] = []
        try:
            for _ in range(case.connections):
                connections.append(await self._connect(case))
            # After an early refusal there may still be a response to read. uvloop raises
            # RuntimeError for a closed connection.
            with suppress(ConnectionError, RuntimeError):
                await connections[-1].send(case)
            await self._receive(case, connections[-1], outcome)
        except (TimeoutError, OSError, EOFError) as error:
            if case.responses == "required":
                outcome.fault = f"no response ({type(error).__name__})"
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            outcome.fault = f"a response of another structure ({error!r})"
        keeps = bool(connections) and case.keeps_connection and not outcome.fault
        self._kept = connections[-1] if keeps else None
        for connection in connections:
            if connection is not self._kept:
                connection.close()
        return outcome

    def close(self) -> None:
        """Close the kept connection."""
        if self._kept is not None:
            self._kept.close()

    async def _connect(self, case: Case) -> Connection:
        if case.keeps_connection and self._kept is not None and self._kept.is_open:
            return self._kept
        self.close()
        return await Connection.open(self._port)

    async def _receive(self, case: Case, connection: Connection, outcome: Outcome) -> None:
        timeouts = {"required": REQUIRED_SECONDS, "optional": OPTIONAL_SECONDS, "ignored": 0}
        timeout = timeouts[case.responses]
        for check in case.checks:
            reply = await asyncio.wait_for(connection.receive(is_head=case.is_head), timeout)
            outcome.replies.append(reply)
            outcome.fault = outcome.fault or _check(check, reply)


def _check(check: Check, reply: Reply) -> str | None:
    """Apply a check, unless the service was too busy for the request."""
    if reply.status in REFUSALS:
        return check_refusal(reply)
    if reply.status >= 500:
        return f"{reply.status}: {reply.body[:200]!r}"
    return check(reply)
