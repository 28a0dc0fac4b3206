"""Who waits for an answer, and for how long."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from loupe.old_errors.service import CallerGone, DeadlineExceeded


def _stays() -> bool:
    return False


@dataclass(frozen=True, slots=True)
class Caller:
    """Who waits for an answer.

    Attributes:
        timeout_seconds: From its beginning on, how long the request may take.
        deadline: When that is over, on the clock of `time.monotonic`.
        gone: Tells, in any thread, whether nobody waits any more.
    """

    timeout_seconds: float
    deadline: float
    gone: Callable[[], bool] = _stays

    @classmethod
    def within(cls, timeout_seconds: float, gone: Callable[[], bool] = _stays) -> "Caller":
        """A caller whose time begins now."""
        return cls(timeout_seconds, time.monotonic() + timeout_seconds, gone)

    @property
    def seconds_left(self) -> float:
        """Until the deadline."""
        return self.deadline - time.monotonic()

    def check(self) -> None:
        """See that somebody waits still.

        Raises:
            DeadlineExceeded: If the caller's time is over.
            CallerGone: If nobody waits any more.
        """
        if self.seconds_left <= 0:
            raise DeadlineExceeded(self.timeout_seconds)
        if self.gone():
            raise CallerGone
