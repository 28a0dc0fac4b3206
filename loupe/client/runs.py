"""A bulk-scoring job in the hands of whoever submitted it: `ScoringRun` waits, `AsyncScoringRun` is awaited."""

import os
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from loupe.client.jobs import RecordError, ScoringConversation
from loupe.client.predictions import Steps
from loupe.jobs import ScoringJob
from loupe.old_errors.core import JobFailed
from loupe.results import Format

T = TypeVar("T")


class Hold(Protocol):
    """Has a conversation, and waits for its end."""

    def __call__(self, conversation: Steps[T], /) -> T:
        """What it ends with."""


class HoldAsync(Protocol):
    """The same, awaited."""

    def __call__(self, conversation: Steps[T], /) -> Awaitable[T]:
        """What it ends with."""


class ScoringRun:
    """A job, and what can be done with it. Iterating over it follows its progress: it yields the job, whenever it has changed.

    Attributes:
        job: As it was when it was last looked at.
    """

    def __init__(self, job: ScoringJob, conversation: ScoringConversation, hold: Hold) -> None:
        self.job = job
        self._conversation = conversation
        self._hold = hold

    def __iter__(self) -> Iterator[ScoringJob]:
        yield self.job
        while not self.job.ended:
            self.job = self._hold(self._conversation.changed(self.job))
            yield self.job

    def wait(self) -> ScoringJob:
        """The job when it has ended, done or cancelled.

        Raises:
            JobFailed: If it failed.
            LoupeError: If the service cannot be asked, as for `Client.predict`.
        """
        for _ in self:
            pass
        return _unless_failed(self.job)

    def cancel(self) -> ScoringJob:
        """Have no more of it scored; what is finished stays.

        Raises:
            RequestRefused: If it has ended, with the code `job_ended`.
            LoupeError: As for `Client.predict`.
        """
        self.job = self._hold(self._conversation.cancel(self.job.id))
        return self.job

    def results(self, path: str | os.PathLike[str], format: Format | None = None) -> Path:
        """Save all rows as one file, which appears when it is whole.

        Args:
            path: Of the file; one that is there is replaced.
            format: Of the file; that of the job if not given.

        Raises:
            RequestRefused: If the job is not done, with the code `job_not_done`.
            LoupeError: As for `Client.predict`.
            OSError: If the file cannot be written.
        """
        self._hold(self._conversation.results(self.job.id, Path(path), format))
        return Path(path)

    def errors(self) -> list[RecordError]:
        """What is wrong with images that could not be read, so far.

        Raises:
            LoupeError: As for `Client.predict`.
        """
        return self._hold(self._conversation.errors(self.job.id))


class AsyncScoringRun:
    """A job, and what can be done with it; see `ScoringRun`. `async for` follows its progress."""

    def __init__(self, job: ScoringJob, conversation: ScoringConversation, hold: HoldAsync) -> None:
        self.job = job
        self._conversation = conversation
        self._hold = hold

    async def __aiter__(self) -> AsyncIterator[ScoringJob]:
        yield self.job
        while not self.job.ended:
            self.job = await self._hold(self._conversation.changed(self.job))
            yield self.job

    async def wait(self) -> ScoringJob:
        """The job when it has ended; see `ScoringRun.wait`."""
        async for _ in self:
            pass
        return _unless_failed(self.job)

    async def cancel(self) -> ScoringJob:
        """Have no more of it scored; see `ScoringRun.cancel`."""
        self.job = await self._hold(self._conversation.cancel(self.job.id))
        return self.job

    async def results(self, path: str | os.PathLike[str], format: Format | None = None) -> Path:
        """Save all rows as one file; see `ScoringRun.results`."""
        await self._hold(self._conversation.results(self.job.id, Path(path), format))
        return Path(path)

    async def errors(self) -> list[RecordError]:
        """What is wrong with images that could not be read; see `ScoringRun.errors`."""
        return await self._hold(self._conversation.errors(self.job.id))


def _unless_failed(job: ScoringJob) -> ScoringJob:
    if job.state == "failed":
        raise JobFailed(job.id, str(job.error))
    return job
