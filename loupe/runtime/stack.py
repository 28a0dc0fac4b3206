"""Redis, a worker and the service, run together."""

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from loupe.runtime.processes import GRACE_SECONDS, POLL_SECONDS, Program, running, wait_until_ready
from loupe.runtime.redis_server import open_redis
from loupe.settings import ENV_PREFIX, Settings


@dataclass(frozen=True)
class Stack:
    """The running programs, and the URL of the service."""

    url: str
    redis: Redis
    service: Program
    worker: Program

    def watch(self, stopping: threading.Event) -> None:
        """Wait until `stopping` is set; raise `ProgramFailed` if a program ends first."""
        while not stopping.wait(POLL_SECONDS):
            self.service.check()
            self.worker.check()


@contextmanager
def running_stack(
    settings: Settings,
    stopping: threading.Event,
    logs: Path | None = None,
    hurry: threading.Event | None = None,
) -> Iterator[Stack]:
    """Run Redis, a worker and the service while the block runs.

    Args:
        settings: Passed on to both programs.
        stopping: Setting it during the start raises `KeyboardInterrupt`.
        logs: Folder for the programs' output; by default they write to the terminal.
        hurry: Setting it at the end skips the draining of the service.

    Raises:
        ProgramFailed: If one of them does not start.
    """
    # An empty variable counts as unset, and hides one of this process.
    environment = {
        f"{ENV_PREFIX}{name.upper()}": "" if value is None else str(value)
        for name, value in settings.model_dump().items()
    }
    host = "127.0.0.1" if settings.host == "0.0.0.0" else settings.host  # noqa: S104
    url = f"http://{host}:{settings.port}"
    with ExitStack() as stack:
        redis = stack.enter_context(open_redis(settings))
        worker, service = [
            stack.enter_context(
                running(
                    f"loupe {command}",
                    [sys.executable, "-m", "loupe", command],
                    environment=environment,
                    log=logs / f"{command}.log" if logs else None,
                    grace_seconds=drain_seconds + settings.shutdown_timeout_seconds + GRACE_SECONDS,
                    hurry=hurry,
                )
            )
            for command, drain_seconds in (("worker", 0), ("serve", settings.drain_seconds))
        ]
        wait_until_ready(f"{url}/readyz", service, stopping)
        yield Stack(url, redis, service, worker)
