"""Child processes that run until a signal stops them, and are replaced when they die."""

import logging
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from time import monotonic

from loupe.errors import ProgramFailed
from loupe.runtime.processes import running

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1  # between checks of a process
RESTART_PAUSE_SECONDS = 1.0  # limits the load of programs that die on start
SHORT_LIFE_SECONDS = 30.0  # a program that dies sooner can probably not run at all
CLEAN_EXITS = {0, -signal.SIGTERM}  # of a stopped program; the latter before its handlers are set


@dataclass(frozen=True)
class Child:
    """A program to keep running.

    Attributes:
        name: How messages call it.
        command: The program and its arguments.
        environment: Variables added to those of this process.
        descriptors: Open files that it inherits.
    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    descriptors: Sequence[int] = ()


@dataclass(frozen=True)
class Supervisor:
    """The rules for some children.

    Attributes:
        stopping: Stops all children when it is set.
        grace_seconds: How long a child may take to stop before it is killed.
        burst: Whether a child that ends with exit code 0 has done its work.
        max_short_lives: How many times in a row a child may die soon after its start. Then the
            others stop too. `None` for any number.
        hurry: See `running`.
        on_death: Called with the index of a child that has died.
    """

    stopping: threading.Event
    grace_seconds: float
    burst: bool = False
    max_short_lives: int | None = None
    hurry: threading.Event | None = None
    on_death: Callable[[int], object] = lambda _: None

    def run(self, children: Sequence[Child]) -> None:
        """Keep the children running until `stopping` is set.

        Raises:
            ProgramFailed: If one did not stop in time, or dies whenever it is started.
        """
        with ThreadPoolExecutor(len(children), thread_name_prefix="supervisor") as threads:
            keepers = [
                threads.submit(self._keep_running, index, child)
                for index, child in enumerate(children)
            ]
        for keeper in keepers:
            keeper.result()

    def _keep_running(self, index: int, child: Child) -> None:
        """Run a child, and another one whenever it dies."""
        short_lives = 0
        while not self.stopping.is_set():
            started = monotonic()
            code = self._run(child)
            if code is None or (self.burst and code == 0):
                return
            self.on_death(index)
            short_lives = short_lives + 1 if monotonic() - started < SHORT_LIFE_SECONDS else 0
            if short_lives == self.max_short_lives:
                self.stopping.set()
                raise ProgramFailed(
                    f"{child.name} died {short_lives} times in a row within "
                    f"{SHORT_LIFE_SECONDS:g} s of its start, at last with exit code {code}. "
                    "The log above says why."
                )
            pause = RESTART_PAUSE_SECONDS if short_lives > 1 else 0
            logger.warning("%s died (exit code %d); restarting in %g s", child.name, code, pause)
            self.stopping.wait(pause)

    def _run(self, child: Child) -> int | None:
        """Run a child until it ends, and return its exit code; `None` if it was stopped."""
        with running(
            child.name,
            child.command,
            environment=child.environment,
            descriptors=child.descriptors,
            grace_seconds=self.grace_seconds,
            hurry=self.hurry,
        ) as program:
            while program.process.poll() is None and not self.stopping.wait(POLL_SECONDS):
                pass
            code = program.process.poll()
        if code is None and program.process.returncode not in CLEAN_EXITS:
            raise ProgramFailed(f"{child.name} ended with exit code {program.process.returncode}.")
        return code
