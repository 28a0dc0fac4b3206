"""Open-loop load: requests arrive at random moments (a Poisson process), answered or not.

wrk sends its next request only after a response, so a stalling service gets fewer requests and
looks better than it is. Here response times count from the moment a request was due, including the
wait for a free connection. The client parses with httptools, to leave the CPU to the service.
"""

import asyncio
import gc
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Coroutine, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TypeVar, cast

import httptools
import numpy as np
import uvloop

from bench.inputs import Post
from bench.service.load import Load

T = TypeVar("T")
CONNECTIONS = 1024  # opened before the first request; each carries one request at a time
DRAIN_SECONDS = 12.0  # for open requests at the end; Loupe's own timeout is 10 s
LEAD_SECONDS = 0.05  # before the first request
NO_RESPONSE = "no response"


@dataclass
class Reply:
    """An HTTP response. Header names are lower-case."""

    status: int = 0
    headers: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""


class Connection(asyncio.Protocol):
    """An HTTP/1.1 connection for one request at a time."""

    def __init__(self) -> None:
        self._transport: asyncio.WriteTransport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._reply = Reply()
        self._pending: asyncio.Future[Reply] | None = None

    @classmethod
    async def open(cls, port: int) -> "Connection":
        """Connect to a port of this machine."""
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(cls, "127.0.0.1", port)
        return connection

    @property
    def is_open(self) -> bool:
        """True if the connection can take a request."""
        return self._transport is not None and not self._transport.is_closing()

    async def send(self, request: bytes) -> Reply:
        """Send an encoded request and return the response.

        Raises:
            ConnectionError: If the server closes the connection first.
        """
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is closed")
        self._pending = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._pending

    def close(self) -> None:
        """Abort the connection."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implement `asyncio.Protocol`."""
        self._transport = cast("asyncio.WriteTransport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        """Implement `asyncio.Protocol`."""
        self._transport = None
        if self._pending is not None and not self._pending.done():
            error = ConnectionResetError("the connection was closed before the response")
            self._pending.set_exception(error)

    def data_received(self, data: bytes) -> None:
        """Implement `asyncio.Protocol`."""
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Implement the parser's protocol."""
        self._reply.headers[name.lower()] = value

    def on_body(self, body: bytes) -> None:
        """Implement the parser's protocol."""
        self._reply.body += body

    def on_message_complete(self) -> None:
        """Implement the parser's protocol."""
        reply, self._reply = self._reply, Reply()
        reply.status = self._parser.get_status_code()
        if self._pending is not None and not self._pending.done():
            self._pending.set_result(reply)


@dataclass(frozen=True)
class Result:
    """The result of one request.

    Attributes:
        status: The HTTP status, or the reason why there is none.
        due: Scheduled time, in seconds from the start.
        done: Time of the response, in seconds from the start.
    """

    status: int | str
    due: float
    done: float


@dataclass(frozen=True)
class Outcome:
    """The results of all requests that were due within `seconds`."""

    results: tuple[Result, ...]
    seconds: float

    @property
    def statuses(self) -> Counter[int | str]:
        """Number of results by status."""
        return Counter(result.status for result in self.results)

    @property
    def goodput(self) -> float:
        """Successful responses per second until the last request was due."""
        in_time = (each.status == 200 and each.done <= self.seconds for each in self.results)
        return sum(in_time) / self.seconds

    @property
    def load(self) -> Load:
        """The same figures in the form that wrk's have."""
        good = self.statuses[200]
        p50, p99 = self.percentile_ms(50), self.percentile_ms(99)
        return Load(self.goodput, p50, p99, len(self.results) - good, good)

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile of the times of successful responses; infinity without any."""
        times = [result.done - result.due for result in self.results if result.status == 200]
        return float(np.percentile(times, percent)) * 1e3 if times else float("inf")


def run_open_loop(port: int, post: Post, per_second: float, seconds: float) -> Outcome:
    """Send requests at random moments, `per_second` on average."""
    gaps = np.random.default_rng(0).exponential(1 / per_second, round(per_second * seconds))
    gc.disable()  # a collection over all results would delay requests
    try:
        return run_fast(_open_loop(port, post.encoded(), np.cumsum(gaps).tolist()))
    finally:
        gc.enable()


def run_closed_loop(port: int, post: Post, connections: int, seconds: float) -> Outcome:
    """Send each request as soon as the previous one is answered, with this generator's overhead."""
    return run_fast(_closed_loop(port, post.encoded(), connections, seconds))


def run_fast(coroutine: Coroutine[object, object, T]) -> T:
    """Run a coroutine on uvloop."""
    return uvloop.run(coroutine)


def run_patient(port: int, post: Post, per_second: float, seconds: float) -> Outcome:
    """Send requests at an even pace, from clients that pause as long as `Retry-After` says.

    Each of the `CONNECTIONS` is one client that waits for its answer. Response times count from the
    moment of sending.
    """
    return run_fast(_patient(port, post.encoded(), per_second, seconds))


async def _patient(port: int, request: bytes, per_second: float, seconds: float) -> Outcome:
    connections = [await Connection.open(port) for _ in range(CONNECTIONS)]
    results: list[Result] = []
    start = time.perf_counter()

    async def repeat(connection: Connection, moment: float) -> None:
        while moment < seconds:
            await asyncio.sleep(start + moment - time.perf_counter())
            due = time.perf_counter() - start
            reply = await connection.send(request)
            done = time.perf_counter() - start
            results.append(Result(reply.status, due, done))
            pause = float(reply.headers.get(b"retry-after", 0))
            moment = max(moment + CONNECTIONS / per_second, done + pause)

    await asyncio.gather(
        *(repeat(each, number / per_second) for number, each in enumerate(connections))
    )
    for connection in connections:
        connection.close()
    return Outcome(tuple(results), seconds)


async def _open_loop(port: int, request: bytes, moments: Iterable[float]) -> Outcome:
    pool = await _Pool.open(port, CONNECTIONS)
    results: list[Result] = []
    start = time.perf_counter() + LEAD_SECONDS

    async def send(due: float) -> None:
        status = await pool.send(request)
        results.append(Result(status, due, time.perf_counter() - start))

    in_flight: set[asyncio.Task[None]] = set()
    async with _alarm() as alarm:
        due = 0.0
        for due in moments:
            await alarm.wait_until(start + due)
            task = asyncio.create_task(send(due))
            in_flight.add(task)
            task.add_done_callback(in_flight.discard)
    if in_flight:
        await asyncio.wait(in_flight, timeout=DRAIN_SECONDS)
    lost = len(in_flight)
    for task in list(in_flight):
        task.cancel()
    pool.close()
    return Outcome((*results, *[Result(NO_RESPONSE, due, float("inf"))] * lost), due)


async def _closed_loop(port: int, request: bytes, connections: int, seconds: float) -> Outcome:
    pool = await _Pool.open(port, connections)
    results: list[Result] = []
    start = time.perf_counter()

    async def repeat() -> None:
        while (due := time.perf_counter() - start) < seconds:
            status = await pool.send(request)
            results.append(Result(status, due, time.perf_counter() - start))

    await asyncio.gather(*[repeat() for _ in range(connections)])
    pool.close()
    return Outcome(tuple(results), seconds)


class _Pool:
    """Connections to one port. The most recently used idle connection is taken first."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: asyncio.LifoQueue[Connection] = asyncio.LifoQueue()

    @classmethod
    async def open(cls, port: int, connections: int) -> "_Pool":
        pool = cls(port)
        for _ in range(connections):
            pool._idle.put_nowait(await Connection.open(port))
        return pool

    async def send(self, request: bytes) -> int | str:
        """Return the status of the response, or `NO_RESPONSE`."""
        connection = await self._idle.get()
        try:
            if not connection.is_open:  # servers close idle connections
                connection = await Connection.open(self._port)
            return (await connection.send(request)).status
        except OSError:
            return NO_RESPONSE
        finally:
            self._idle.put_nowait(connection)

    def close(self) -> None:
        while not self._idle.empty():
            self._idle.get_nowait().close()


class _Alarm:
    """A timer with a precision of some ten microseconds; event loops have one of a millisecond."""

    def __init__(self) -> None:
        self.rang = asyncio.Event()

    async def wait_until(self, moment: float) -> None:
        """Return at a time of `time.perf_counter`, after other tasks had a chance to run."""
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
