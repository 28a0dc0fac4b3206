"""A submitted job: `ScoringRun` blocks, `AsyncScoringRun` is awaited."""

import os
from collections.abc import AsyncIterator, Awaitable, Iterator
from pathlib import Path
from typing import Protocol, TypeVar

from loupe.client.flows import Flow
from loupe.client.jobs import JobFlows, RecordError
from loupe.errors import JobFailed
from loupe.jobs import ScoringJob
from loupe.results import Format

T = TypeVar("T")


class Run(Protocol):
    """Runs a flow and returns its result."""

    def __call__(self, flow: Flow[T], /) -> T:
        """Return the flow's result."""


class RunAsync(Protocol):
    """Runs a flow and returns an awaitable of its result."""

    def __call__(self, flow: Flow[T], /) -> Awaitable[T]:
        """Return an awaitable of the flow's result."""


class ScoringRun:
    """A job. Iterate over it to follow its progress: it yields the job after each change.

    Attributes:
        job: Its last known state.
    """

    def __init__(self, job: ScoringJob, flows: JobFlows, run: Run) -> None:
        self.job = job
        self._flows = flows
        self._run = run

    def __iter__(self) -> Iterator[ScoringJob]:
        yield self.job
        while not self.job.ended:
            self.job = self._run(self._flows.wait_for_change(self.job))
            yield self.job

    def wait(self) -> ScoringJob:
        """Wait until the job is done or cancelled.

        Raises:
            JobFailed: If it failed.
            LoupeError: If the service cannot be reached, as for `Client.predict`.
        """
        for _ in self:
            pass
        return _check(self.job)

    def cancel(self) -> ScoringJob:
        """Stop scoring; finished parts stay.

        Raises:
            RequestRefused: If it has ended, with the code `job_ended`.
            LoupeError: As for `Client.predict`.
        """
        self.job = self._run(self._flows.cancel(self.job.id))
        return self.job

    def results(self, path: str | os.PathLike[str], format: Format | None = None) -> Path:
        """Save all rows as one file, which appears when it is complete.

        Args:
            path: An existing file is replaced.
            format: The job's format by default.

        Raises:
            RequestRefused: If the job is not done, with the code `job_not_done`.
            LoupeError: As for `Client.predict`.
            OSError: If the file cannot be written.
        """
        self._run(self._flows.results(self.job.id, Path(path), format))
        return Path(path)

    def errors(self) -> list[RecordError]:
        """List the images that could not be read so far.

        Raises:
            LoupeError: As for `Client.predict`.
        """
        return self._run(self._flows.errors(self.job.id))


class AsyncScoringRun:
    """A job; see `ScoringRun`. Follow its progress with `async for`."""

    def __init__(self, job: ScoringJob, flows: JobFlows, run: RunAsync) -> None:
        self.job = job
        self._flows = flows
        self._run = run

    async def __aiter__(self) -> AsyncIterator[ScoringJob]:
        yield self.job
        while not self.job.ended:
            self.job = await self._run(self._flows.wait_for_change(self.job))
            yield self.job

    async def wait(self) -> ScoringJob:
        """Wait for the end; see `ScoringRun.wait`."""
        async for _ in self:
            pass
        return _check(self.job)

    async def cancel(self) -> ScoringJob:
        """Stop scoring; see `ScoringRun.cancel`."""
        self.job = await self._run(self._flows.cancel(self.job.id))
        return self.job

    async def results(self, path: str | os.PathLike[str], format: Format | None = None) -> Path:
        """Save all rows as one file; see `ScoringRun.results`."""
        await self._run(self._flows.results(self.job.id, Path(path), format))
        return Path(path)

    async def errors(self) -> list[RecordError]:
        """List the images that could not be read; see `ScoringRun.errors`."""
        return await self._run(self._flows.errors(self.job.id))


def _check(job: ScoringJob) -> ScoringJob:
    if job.state == "failed":
        raise JobFailed(f"Job {job.id} failed: {job.error}")
    return job
