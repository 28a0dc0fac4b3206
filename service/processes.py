"""Several processes of the service behind one port.

On Linux, each process has its own listening socket, and the kernel spreads connections over
them. That is more even than one socket for all when clients connect in bursts. The supervisor keeps
the sockets open, so connections that wait for a process outlive it; a neighbour accepts them.
"""

import asyncio
import json
import os
import select
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from prometheus_client.multiprocess import mark_process_dead
from starlette.applications import Starlette

from loupe.logs import log_everything
from loupe.runtime.cores import core_share
from loupe.runtime.ports import listen
from loupe.runtime.processes import GRACE_SECONDS, stop_on_signals
from loupe.runtime.supervisor import Child, Supervisor
from loupe.settings import ENV_PREFIX, Settings, load_settings
from service.http.shares import part
from service.server import Server, new_app, set_up
from service.shared_metrics import SharedMetrics

MAX_SHORT_LIVES = 5  # of one process in a row; then the service ends


@dataclass(frozen=True)
class Process:
    """The number of a process, and what it is given.

    Attributes:
        number: Its number, from 0.
        parent: Process ID of the supervisor.
        metrics: Folder of the metrics of all processes.
        listening: Descriptors of its sockets.
        spare: Descriptors of a neighbour's sockets.
    """

    number: int
    parent: int
    metrics: str
    listening: Sequence[int]
    spare: Sequence[int]


def supervise(settings: Settings, listening: Sequence[socket.socket]) -> None:
    """Run the processes until a signal arrives.

    Args:
        settings: The settings of the service as a whole.
        listening: The sockets for HTTP.

    Raises:
        ProgramFailed: If a process did not stop in time, or dies whenever it is started.
    """
    count = settings.processes
    stopping, hurry = threading.Event(), threading.Event()
    with (
        stop_on_signals(stopping, hurry),
        tempfile.TemporaryDirectory(prefix="loupe-metrics-") as metrics,
        _sockets(settings, listening, stopping) as sockets,
    ):
        children = []
        for number in range(count):
            mine, spare = sockets[number], sockets[(number + 1) % count]
            descriptors = [each.fileno() for each in mine]
            spares = [each.fileno() for each in spare if spare is not mine]
            process = Process(number, os.getpid(), metrics, descriptors, spares)
            command = [sys.executable, "-m", "service.processes", json.dumps(asdict(process))]
            name = f"process {number + 1} of the service"
            children.append(Child(name, command, variables(settings), [*descriptors, *spares]))
        Supervisor(
            stopping,
            settings.drain_seconds + settings.shutdown_timeout_seconds + GRACE_SECONDS,
            max_short_lives=MAX_SHORT_LIVES,
            hurry=hurry,
            on_death=lambda number: mark_process_dead(number, metrics),
        ).run(children)


def variables(settings: Settings) -> dict[str, str]:
    """Return the environment variables of each process: its part of cores and limits.

    A request of the maximum size fits into the queue of every process.
    """
    count = settings.processes
    values = {
        "processes": count,
        "threads": settings.threads or core_share(count),
        "max_requests": part(settings.max_requests, count),
        "max_queued_images": max(settings.max_images, part(settings.max_queued_images, count)),
    }
    return {f"{ENV_PREFIX}{name.upper()}": str(value) for name, value in values.items()}


@contextmanager
def _sockets(
    settings: Settings, listening: Sequence[socket.socket], stopping: threading.Event
) -> Iterator[list[Sequence[socket.socket]]]:
    """Yield the sockets of each process, and close them as soon as `stopping` is set.

    While the supervisor had one open, connections that no process accepts any more would wait.
    """
    sockets: list[Sequence[socket.socket]] = [listening] * settings.processes
    if sys.platform == "linux":  # elsewhere, the last socket would get all connections
        for each in listening:
            each.close()
        sockets = [
            listen(settings.host, settings.port, reuse_port=True) for _ in range(settings.processes)
        ]

    def close() -> None:
        stopping.wait()
        for each in sockets:
            for one in each:
                one.close()

    closing = threading.Thread(target=close, name="close sockets")
    closing.start()
    try:
        yield sockets
    finally:
        stopping.set()
        closing.join()


class ProcessServer(Server):
    """The server of one process, which also accepts connections that wait for its neighbour.

    Args:
        app: The app.
        spare: The sockets of the neighbour.
        parent: Process ID of the supervisor. The server stops with it.
    """

    def __init__(self, app: Starlette, spare: Sequence[socket.socket], parent: int) -> None:
        super().__init__(app)
        self._spare = spare
        self._parent = parent
        for each in spare:
            each.setblocking(False)

    async def on_tick(self, counter: int) -> bool:
        """Accept what the neighbour has not, because it has died or is busy."""
        await self._accept_spare()
        if os.getppid() != self._parent and not self.should_exit:
            self.handle_exit(signal.SIGINT, None)
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Accept what waits for the neighbour, and shut down."""
        await self._accept_spare()
        for each in self._spare:
            each.close()
        await super().shutdown(sockets)

    async def _accept_spare(self) -> None:
        while ready := select.select(self._spare, [], [], 0)[0]:
            for each in ready:
                with suppress(BlockingIOError, ConnectionAbortedError):
                    connection, _ = each.accept()
                    await asyncio.get_running_loop().connect_accepted_socket(
                        self._new_connection, connection
                    )

    def _new_connection(self) -> asyncio.Protocol:
        make = self.config.http_protocol_class
        return make(  # type: ignore[call-arg]
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state
        )


def main(process: Process) -> None:
    """Run one process of the service."""
    settings = load_settings()
    if settings.log_format == "json":
        log_everything()
    set_up(settings)
    app = new_app(settings, SharedMetrics(Path(process.metrics), process.number))
    spare = [socket.socket(fileno=number) for number in process.spare]
    listening = [socket.socket(fileno=number) for number in process.listening]
    ProcessServer(app, spare, process.parent).run_on(listening)


if __name__ == "__main__":
    main(Process(**json.loads(sys.argv[1])))
