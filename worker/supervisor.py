"""Several worker processes: start them, restart those that die, and stop them."""

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

POLL_SECONDS = 0.1  # between checks of a process
RESTART_PAUSE_SECONDS = 1.0  # limits the load of workers that die on start
CLEAN_EXITS = {0, -signal.SIGTERM}  # of a stopped worker; the latter before its handlers are set


def supervise(
    settings: Settings, processes: int, stopping: threading.Event, *, burst: bool
) -> None:
    """Run workers until `stopping` is set or, with `burst`, until each finds no step to claim.

    Args:
        settings: Settings of the workers, which share the cores unless `threads` is set.
        processes: Number of workers.
        stopping: Set it to stop all workers.
        burst: Whether workers end when the queue is empty.

    Raises:
        RedisUnavailable: If Redis does not answer.
        ProgramFailed: If a worker did not stop in time.
    """
    # Holding Redis open keeps an embedded server running, and reports a wrong address once.
    with (
        open_redis(settings),
        ThreadPoolExecutor(processes, thread_name_prefix="supervisor") as threads,
    ):
        keepers = [
            threads.submit(
                _keep_running,
                f"worker {number + 1}",
                settings,
                worker_variables(settings, processes, number),
                stopping,
                burst,
            )
            for number in range(processes)
        ]
    for keeper in keepers:
        keeper.result()


def worker_variables(settings: Settings, processes: int, number: int) -> dict[str, str]:
    """Return the environment variables of one worker, whose `number` starts at 0."""
    threads = settings.threads or max(1, available_cores() // processes)
    variables = {f"{ENV_PREFIX}THREADS": str(threads)}
    if settings.worker_metrics_port is not None:
        variables[f"{ENV_PREFIX}WORKER_METRICS_PORT"] = str(settings.worker_metrics_port + number)
    return variables


def _keep_running(
    name: str, settings: Settings, variables: dict[str, str], stopping: threading.Event, burst: bool
) -> None:
    """Run a worker, and another one whenever it dies."""
    command = [sys.executable, "-m", "loupe", "worker", *(["--burst"] if burst else [])]
    grace_seconds = settings.shutdown_timeout_seconds + GRACE_SECONDS
    while not stopping.is_set():
        with running(name, command, environment=variables, grace_seconds=grace_seconds) as program:
            while program.process.poll() is None and not stopping.wait(POLL_SECONDS):
                pass
            code = program.process.poll()
        if code is None:  # stopped at the end of the block
            if program.process.returncode not in CLEAN_EXITS:
                raise ProgramFailed(f"{name} ended with exit code {program.process.returncode}.")
        elif burst and code == 0:
            return
        else:
            logger.warning(
                "%s died (exit code %d); restarting in %g s", name, code, RESTART_PAUSE_SECONDS
            )
            stopping.wait(RESTART_PAUSE_SECONDS)
