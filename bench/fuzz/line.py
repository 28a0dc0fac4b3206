"""Who sends a case and hears what comes of it: a client that can be as rude as the case wants it."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field

from bench.connection import Reply
from bench.fuzz.bodies import REFUSALS
from bench.fuzz.bodies import check as check_wrong
from bench.fuzz.http import Case
from bench.fuzz.known import Check

PATIENCE_SECONDS = 30.0  # for an answer that has to come; the service's own limit is 10
MOMENT_SECONDS = 0.2  # for one that need not
PAUSE_SECONDS = 0.005  # between the pieces of a request


@dataclass(frozen=True)
class Line:
    """A connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    @classmethod
    async def open(cls, port: int) -> "Line":
        """To a port of this machine."""
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    @property
    def is_open(self) -> bool:
        """Whether neither side has closed it."""
        return not (self.writer.is_closing() or self.reader.at_eof())

    async def send(self, case: Case) -> None:
        """All pieces of a case."""
        for place, piece in enumerate(case.pieces):
            if place:
                await asyncio.sleep(PAUSE_SECONDS)
            self.writer.write(piece)
            await self.writer.drain()
        if case.half_closes:
            self.writer.write_eof()

    async def read(self, *, is_head: bool) -> Reply:
        """The next answer; those that only say that there will be one are passed over."""
        status = 100
        while status < 200:
            first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).strip().split(b"\r\n")
            status = int(first.split()[1])
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(b":") for line in lines)}
        length = 0 if is_head or status == 204 else int(headers.get(b"content-length", 0))
        return Reply(status, headers, await self.reader.readexactly(length))

    def close(self) -> None:
        """End it, whatever is under way."""
        self.writer.transport.abort()


@dataclass
class Outcome:
    """What came of a case.

    Attributes:
        replies: As far as they came.
        wrong: What should not be, if anything.
    """

    replies: list[Reply] = field(default_factory=list)
    wrong: str | None = None


class Caller:
    """Plays one case after another, on one connection those that leave it in order.

    Args:
        port: Of the service.
    """

    def __init__(self, port: int) -> None:
        self._port = port
        self._kept: Line | None = None

    async def play(self, case: Case) -> Outcome:
        """Send what a case says, and check what comes."""
        outcome = Outcome()
        lines: list[Line] = []
        try:
            for _ in range(case.connections):
                lines.append(await self._line(case))
            # Who is refused early may still have an answer to read; of a closed connection, uvloop has an error of its own.
            with suppress(ConnectionError, RuntimeError):
                await lines[-1].send(case)
            await self._hear(case, lines[-1], outcome)
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            outcome.wrong = f"no answer ({type(error).__name__})" if case.answers == "must" else None
        except (LookupError, ValueError, TypeError, AttributeError) as error:
            outcome.wrong = f"an answer of another shape ({error!r})"
        self._kept = lines[-1] if lines and case.stays and not outcome.wrong else None
        for line in lines:
            if line is not self._kept:
                line.close()
        return outcome

    def close(self) -> None:
        """Leave."""
        if self._kept is not None:
            self._kept.close()

    async def _line(self, case: Case) -> Line:
        if case.stays and self._kept is not None and self._kept.is_open:
            return self._kept
        self.close()
        return await Line.open(self._port)

    async def _hear(self, case: Case, line: Line, outcome: Outcome) -> None:
        limit = {"must": PATIENCE_SECONDS, "may": MOMENT_SECONDS, "none": 0}[case.answers]
        for check in case.checks:
            reply = await asyncio.wait_for(line.read(is_head=case.is_head), limit)
            outcome.replies.append(reply)
            outcome.wrong = outcome.wrong or _wrong(check, reply)


def _wrong(check: Check, reply: Reply) -> str | None:
    """What is wrong with an answer; to be refused for want of time or room is not."""
    if reply.status >= 500 and reply.status not in REFUSALS:
        return f"{reply.status}: {reply.body[:200]!r}"
    return check_wrong(reply) if reply.status in REFUSALS else check(reply)
