"""Everything that runs together: Redis, a worker and the service."""

import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from loupe.runtime.processes import GRACE_SECONDS, POLL_SECONDS, Program, running, wait_until_ready
from loupe.runtime.redis_server import open_redis
from loupe.settings import ENV_PREFIX, Settings


@dataclass(frozen=True)
class Stack:
    """Everything that runs: the service, a worker, and the Redis between them."""

    url: str
    redis: Redis
    service: Program
    worker: Program

    def watch(self, stopping: threading.Event) -> None:
        """Wait until `stopping` is set; `ProgramFailed` if a program ends before."""
        while not stopping.wait(POLL_SECONDS):
            self.service.check()
            self.worker.check()


@contextmanager
def running_stack(
    settings: Settings, stopping: threading.Event, logs: Path | None = None
) -> Iterator[Stack]:
    """Run Redis, a worker and the service for as long as the block lasts.

    Args:
        settings: Host, port and all else; the programs get the same.
        stopping: When set while they start, the start is given up with `KeyboardInterrupt`.
        logs: A folder for the programs' output; to the terminal if not given.

    Raises:
        ProgramFailed: If one of them does not start.
    """
    with ExitStack() as stack:
        redis = stack.enter_context(open_redis(settings))
        worker = stack.enter_context(_running_command("worker", settings, logs))
        service = stack.enter_context(_running_command("serve", settings, logs))
        url = (
            f"http://{'127.0.0.1' if settings.host == '0.0.0.0' else settings.host}:{settings.port}"  # noqa: S104
        )
        wait_until_ready(f"{url}/readyz", service, stopping)
        yield Stack(url, redis, service, worker)


def _running_command(
    command: str, settings: Settings, logs: Path | None
) -> AbstractContextManager[Program]:
    """A `loupe` subcommand with these settings."""
    given = (
        settings.model_dump().items()
    )  # an empty variable is as good as none, and hides one of ours
    return running(
        f"loupe {command}",
        [sys.executable, "-m", "loupe.cli", command],
        environment={
            f"{ENV_PREFIX}{name.upper()}": "" if value is None else str(value)
            for name, value in given
        },
        log=logs / f"{command}.log" if logs else None,
        grace_seconds=settings.shutdown_timeout_seconds + GRACE_SECONDS,
    )
