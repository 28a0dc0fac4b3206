"""Decide what follows a failed attempt: a retry, a search for the bad record, or the end."""

from collections.abc import Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass

from redis.exceptions import RedisError

from loupe.errors import LoupeError, StorageUnavailable
from worker.queue.steps import Probe, Shard, Step
from worker.scoring import bisection


class RecordsFailed(Exception):
    """Reading or scoring records failed, so one of them may be the cause."""


@contextmanager
def blame_records() -> Iterator[None]:
    """Raise `RecordsFailed` for every error that no other cause is known for."""
    try:
        yield
    except (LoupeError, RedisError, OSError, CancelledError):
        raise
    except Exception as error:
        raise RecordsFailed(str(error)) from error


@dataclass(frozen=True)
class Failure:
    """The consequence of a failed attempt.

    Attributes:
        message: Why it failed.
        final: Whether the job fails.
        successor: Step that takes the place of the failed one.
    """

    message: str
    final: bool
    successor: Shard | Probe | None = None


def max_attempts(step: Step, limit: int) -> int:
    """Return how often a step may be tried, if jobs allow `limit` attempts."""
    return bisection.PROBE_ATTEMPTS if isinstance(step, Probe) else limit


def judge(step: Step, attempt: int, error: Exception, limit: int) -> Failure:
    """Return what follows the failure of an attempt.

    Args:
        step: The step that failed.
        attempt: Its number, from 1.
        error: What the handler raised.
        limit: Attempts that jobs allow.
    """
    is_last = attempt >= max_attempts(step, limit)
    if isinstance(error, LoupeError):  # only storage may answer a later attempt
        return Failure(error.message, not isinstance(error, StorageUnavailable) or is_last)
    message = f"{step.name}: {error}"
    if not isinstance(error, RecordsFailed):
        return Failure(message, attempt >= limit)
    if is_last and isinstance(step, Shard | Probe):
        successor = bisection.after_failure(step, str(error))
        return Failure(message, successor is None, successor)
    return Failure(message, is_last)
