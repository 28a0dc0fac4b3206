"""Load as the world makes it: requests come at random moments (a Poisson process), whether or not those before them have been answered.

wrk sends its next request only after an answer, so that a service that stalls is asked less and looks better than it is. Here the time
of an answer counts from the moment the request was to be sent, also where none of the connections was free by then.
"""

import asyncio
import gc
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import uvloop

from bench.connection import Connection
from bench.posts import Post
from bench.wrk import Load

T = TypeVar("T")
CONNECTIONS = 1024  # opened before the first request; each takes one at a time
PATIENCE_SECONDS = 12.0  # for the answers that are still out at the end; Loupe's own limit is 10
LEAD_SECONDS = 0.05  # before the first request, to set things up in
NO_ANSWER = "no answer"


@dataclass(frozen=True)
class Answer:
    """What became of one request.

    Attributes:
        status: Of HTTP, or what went wrong.
        due: When it was to be sent, in seconds from the beginning.
        done: When the answer was there.
    """

    status: int | str
    due: float
    done: float


@dataclass(frozen=True)
class Outcome:
    """What became of all requests that were made within so many seconds."""

    answers: tuple[Answer, ...]
    seconds: float

    @property
    def statuses(self) -> Counter[int | str]:
        """How many of each there were."""
        return Counter(answer.status for answer in self.answers)

    @property
    def goodput(self) -> float:
        """Answers of 200 per second, of those that came before the last request was made."""
        return sum(answer.status == 200 and answer.done <= self.seconds for answer in self.answers) / self.seconds

    @property
    def load(self) -> Load:
        """The same in the form that wrk's figures have."""
        return Load(
            self.goodput, self.percentile_ms(50), self.percentile_ms(99), len(self.answers) - self.statuses[200]
        )

    def percentile_ms(self, percent: float) -> float:
        """Of the times to the answers of 200; infinite if there are none."""
        times = [answer.done - answer.due for answer in self.answers if answer.status == 200]
        return float(np.percentile(times, percent)) * 1e3 if times else float("inf")


def offer(port: int, post: Post, per_second: float, seconds: float) -> Outcome:
    """Make requests at random moments, so many per second on average."""
    gaps = np.random.default_rng(0).exponential(1 / per_second, round(per_second * seconds))
    gc.disable()  # a look at all the answers that were kept would stop the requests
    try:
        return run(_offer(port, post.encoded(), np.cumsum(gaps).tolist()))
    finally:
        gc.enable()


def closed_loop(port: int, post: Post, connections: int, seconds: float) -> Outcome:
    """Make a request as soon as the one before it is answered, on so many connections: what wrk does, at this generator's cost."""
    return run(_closed_loop(port, post.encoded(), connections, seconds))


def run(coroutine: Coroutine[object, object, T]) -> T:
    """Run a coroutine on a fast event loop."""
    uvloop.install()
    try:
        return asyncio.run(coroutine)
    finally:
        asyncio.set_event_loop_policy(None)


async def _offer(port: int, request: bytes, moments: Iterable[float]) -> Outcome:
    pool = await _Pool.open(port, CONNECTIONS)
    answers: list[Answer] = []
    begun = time.perf_counter() + LEAD_SECONDS

    async def ask(due: float) -> None:
        status = await pool.post(request)
        answers.append(Answer(status, due, time.perf_counter() - begun))

    under_way: set[asyncio.Task[None]] = set()
    async with _alarm() as alarm:
        due = 0.0
        for due in moments:
            await alarm.wait_until(begun + due)
            task = asyncio.create_task(ask(due))
            under_way.add(task)
            task.add_done_callback(under_way.discard)
    if under_way:
        await asyncio.wait(under_way, timeout=PATIENCE_SECONDS)
    lost = len(under_way)
    for task in list(under_way):
        task.cancel()
    pool.close()
    return Outcome((*answers, *[Answer(NO_ANSWER, due, float("inf"))] * lost), due)


async def _closed_loop(port: int, request: bytes, connections: int, seconds: float) -> Outcome:
    pool = await _Pool.open(port, connections)
    answers: list[Answer] = []
    begun = time.perf_counter()

    async def ask_again_and_again() -> None:
        while (due := time.perf_counter() - begun) < seconds:
            status = await pool.post(request)
            answers.append(Answer(status, due, time.perf_counter() - begun))

    await asyncio.gather(*[ask_again_and_again() for _ in range(connections)])
    pool.close()
    return Outcome(tuple(answers), seconds)


class _Pool:
    """Connections to one port; whoever wants one gets the one that was used last, or waits until one is free."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()

    @classmethod
    async def open(cls, port: int, connections: int) -> "_Pool":
        """So many connections."""
        pool = cls(port)
        for _ in range(connections):
            pool._idle.put_nowait(await Connection.open(port))
        return pool

    async def post(self, request: bytes) -> int | str:
        """The status of the answer, or what went wrong."""
        connection = await self._idle.get()
        try:
            if not connection.is_open:  # the other side closes those that nobody has used for a while
                connection = await Connection.open(self._port)
            return (await connection.ask(request)).status
        except OSError:
            return NO_ANSWER
        finally:
            self._idle.put_nowait(connection)

    def close(self) -> None:
        while not self._idle.empty():
            self._idle.get_nowait().close()


class _Alarm:
    """Wakes within some ten microseconds; the event loop's own timers know whole milliseconds only."""

    def __init__(self) -> None:
        self.rang = asyncio.Event()

    async def wait_until(self, moment: float) -> None:
        """Return at a moment on the clock of `time.perf_counter`, or after a look at what else there is to do."""
        while (left := moment - time.perf_counter()) > 0:
            self.rang.clear()
            signal.setitimer(signal.ITIMER_REAL, left)
            await self.rang.wait()
        await asyncio.sleep(0)


@asynccontextmanager
async def _alarm() -> AsyncIterator[_Alarm]:
    alarm = _Alarm()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGALRM, alarm.rang.set)
    try:
        yield alarm
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        with suppress(ValueError):
            loop.remove_signal_handler(signal.SIGALRM)
