"""Several worker processes under one that starts them, starts another one when one dies, and stops them."""

import logging
import signal
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from loupe.errors import ProgramFailed
from loupe.runtime.cores import available_cores
from loupe.runtime.processes import GRACE_SECONDS, running
from loupe.runtime.redis_server import open_redis
from loupe.settings import ENV_PREFIX, Settings

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1  # between looks whether a process has died
RESTART_PAUSE_SECONDS = 1.0  # one that dies as soon as it starts is not to take the whole machine
WELL = {
    0,
    -signal.SIGTERM,
}  # how a process ends that was told to: the second before it had anything in hand


def supervise(
    settings: Settings, processes: int, stopping: threading.Event, *, burst: bool
) -> None:
    """Keep so many workers running until `stopping` is set or, with `burst`, until each has found no step left to claim.

    Args:
        settings: Of the workers. They share the cores, unless `threads` says how many each may use.
        processes: How many.
        stopping: Set it, and they are told to stop.
        burst: Whether they end when there is no more to do.

    Raises:
        RedisUnavailable: If there is no Redis.
        ProgramFailed: If one did not stop in time.
    """
    # An embedded Redis stays while they come and go, and an address that is wrong is told once.
    with (
        open_redis(settings),
        ThreadPoolExecutor(processes, thread_name_prefix="supervisor") as keepers,
    ):
        kept = [
            keepers.submit(
                _keep,
                f"worker {number + 1}",
                settings,
                variables_of(settings, processes, number),
                stopping,
                burst,
            )
            for number in range(processes)
        ]
    for keeper in kept:
        keeper.result()


def variables_of(settings: Settings, processes: int, number: int) -> dict[str, str]:
    """What is different in the environment of one of so many workers; the first has number 0."""
    threads = settings.threads or max(1, available_cores() // processes)
    variables = {f"{ENV_PREFIX}THREADS": str(threads)}
    if settings.worker_metrics_port is not None:
        variables[f"{ENV_PREFIX}WORKER_METRICS_PORT"] = str(settings.worker_metrics_port + number)
    return variables


def _keep(
    name: str, settings: Settings, variables: dict[str, str], stopping: threading.Event, burst: bool
) -> None:
    """Run one worker, and another one whenever it has died."""
    command = [sys.executable, "-m", "loupe.cli", "worker", *(["--burst"] if burst else [])]
    grace_seconds = settings.shutdown_timeout_seconds + GRACE_SECONDS
    while not stopping.is_set():
        with running(name, command, environment=variables, grace_seconds=grace_seconds) as program:
            while program.process.poll() is None and not stopping.wait(POLL_SECONDS):
                pass
            code = program.process.poll()
        if code is None:  # it was told to stop when the block ended
            if program.process.returncode not in WELL:
                raise ProgramFailed(f"{name} ended with exit code {program.process.returncode}.")
        elif burst and code == 0:
            return
        else:
            logger.warning(
                "%s has died (exit code %d); another one starts in %g s",
                name,
                code,
                RESTART_PAUSE_SECONDS,
            )
            stopping.wait(RESTART_PAUSE_SECONDS)
