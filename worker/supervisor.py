"""Several worker processes, and what each of them is given."""

import sys
import threading

from loupe.runtime.cores import core_share
from loupe.runtime.processes import GRACE_SECONDS
from loupe.runtime.redis_server import open_redis
from loupe.runtime.supervisor import Child, Supervisor
from loupe.settings import ENV_PREFIX, Settings


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
    command = [sys.executable, "-m", "loupe", "worker", *(["--burst"] if burst else [])]
    workers = [
        Child(f"worker {number + 1}", command, worker_variables(settings, processes, number))
        for number in range(processes)
    ]
    grace_seconds = settings.shutdown_timeout_seconds + GRACE_SECONDS
    # Holding Redis open keeps an embedded server running, and reports a wrong address once.
    with open_redis(settings):
        Supervisor(stopping, grace_seconds, burst=burst).run(workers)


def worker_variables(settings: Settings, processes: int, number: int) -> dict[str, str]:
    """Return the environment variables of one worker, whose `number` starts at 0."""
    threads = settings.threads or core_share(processes)
    variables = {f"{ENV_PREFIX}THREADS": str(threads)}
    if settings.worker_metrics_port is not None:
        variables[f"{ENV_PREFIX}WORKER_METRICS_PORT"] = str(settings.worker_metrics_port + number)
    return variables
