"""The client that waits for an answer, and its deadline."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from loupe.errors import CallerGone, DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Caller:
    """A client that waits for an answer.

    Attributes:
        timeout_seconds: How long the request may take in total.
        deadline: When that time ends, on the clock of `time.monotonic`.
        gone: Returns whether the client has disconnected; callable from any thread.
        name: Whose share of scarce resources it takes.
        alone: Returns whether no other request is in flight.
    """

    timeout_seconds: float
    deadline: float
    gone: Callable[[], bool] = lambda: False
    name: str = ""
    alone: Callable[[], bool] = lambda: False

    @classmethod
    def within(
        cls, timeout_seconds: float, gone: Callable[[], bool] = lambda: False, name: str = ""
    ) -> "Caller":
        """Return a caller whose time starts now."""
        return cls(timeout_seconds, time.monotonic() + timeout_seconds, gone, name)

    @property
    def seconds_left(self) -> float:
        """The time until the deadline."""
        return self.deadline - time.monotonic()

    def check(self) -> None:
        """Raise if the client no longer waits for the answer.

        Raises:
            DeadlineExceeded: If the deadline has passed.
            CallerGone: If the client has disconnected.
        """
        if self.seconds_left <= 0:
            raise self.too_late()
        if self.gone():
            raise caller_gone()

    def too_late(self) -> DeadlineExceeded:
        """Return the error for a missed deadline."""
        return DeadlineExceeded(
            f"No answer within {self.timeout_seconds:g} s. The request sets its timeout "
            "(X-Request-Timeout, or a field of its protocol) up to LOUPE_REQUEST_TIMEOUT_SECONDS."
        )


def caller_gone() -> CallerGone:
    """Return the error for a client that has disconnected."""
    return CallerGone("The client has disconnected.")
