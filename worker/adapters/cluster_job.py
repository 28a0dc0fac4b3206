"""A job whose slices are tasks of a cluster: `loupe score --on ray`, or `--on spark`."""

import logging
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing
from dataclasses import dataclass

from loupe.errors import Conflict, LoupeError, NotFound
from loupe.runtime.processes import stop_on_signals
from loupe.settings import Settings
from loupe.terminal import console
from worker import jobs_cli
from worker.adapters.clusters import Cluster, Outcome
from worker.process import running_queue
from worker.queue.claims import Delivery
from worker.queue.local import LocalQueue
from worker.queue.records import PROTOCOL, ErrorLimit, JobPlan, JobRequest
from worker.queue.submission import Prepared
from worker.scoring.slices import Slice, SlicePlan, SliceQueue, read_plan, write_plan
from worker.slices import leaving

logger = logging.getLogger(__name__)

# Slices of a job: each loads the model, in 50 ms, and is a step of the progress.
MIN_SLICES, SLICES_PER_CORE = 64, 8
PATIENCE_SECONDS = 60.0  # for the first slice, before a warning
NOTHING_ENDED = "No slice has ended in %g s. Does the cluster have free cores?"
# Settings of the command that decide on rows; all others are those of the node.
SETTINGS = (
    "engine",
    "max_image_pixels",
    "decode_seconds",
    "https_sources",
    "https_private_addresses",
    "max_attempts",
)


def score_on(
    open_cluster: Callable[[], AbstractContextManager[Cluster]],
    settings: Settings,
    prepared: Prepared,
    max_errors: str | None,
) -> None:
    """Score a job on a cluster, with a progress bar; then show its summary.

    Raises:
        JobFailed: If it failed; finished parts stay.
        Interrupted: After SIGINT or SIGTERM; finished parts stay.
        LoupeError: See `clusters.connect`.
    """
    if prepared.finished is not None:
        jobs_cli.show_ended(prepared.finished)
        return
    with ExitStack() as stack:
        try:
            cluster = stack.enter_context(open_cluster())
        except BaseException:
            prepared.release()
            raise
        queue = ClusterQueue(prepared.request, settings, cluster, max_errors)
        with running_queue(settings, queue), stop_on_signals(queue.interrupted):
            ended = jobs_cli.watch(queue, queue.job_id, console)
    with leaving(queue):
        jobs_cli.show_ended(ended)


class ClusterQueue(LocalQueue):
    """The queue of a job of which this process takes the first and the last step.

    Between them it follows the slices on a cluster.
    """

    def __init__(
        self,
        request: JobRequest,
        settings: Settings,
        cluster: Cluster,
        max_errors: str | None = None,
    ) -> None:
        super().__init__(request, settings.max_attempts, max_errors=max_errors)
        self._request = request
        self._settings = {name: getattr(settings, name) for name in SETTINGS}
        self._cluster = cluster

    def workers(self) -> Sequence[str]:
        """Return a name for each core of the cluster."""
        return [f"core {number}" for number in range(self._cluster.cores)]

    def claim(self) -> Delivery | None:
        """Wait for the slices if they are next; see `Claims.claim`."""
        if self._job.state == "running":
            try:
                self._follow_slices()
            except LoupeError as error:
                self._end(state="failed", error=error.message)
            except Exception as error:  # the job ends in any case
                logger.exception("job %s failed", self.job_id)
                self._end(state="failed", error=f"{type(error).__name__}: {error}")
        return super().claim()

    def commit_plan(
        self, delivery: Delivery, plan: JobPlan, limit: ErrorLimit | None = None
    ) -> bool:
        """Write the plan for the slices; see `Claims.commit_plan`."""
        enough = max(MIN_SLICES, SLICES_PER_CORE * self._cluster.cores)
        count = max(1, min(len(plan.shards), enough))
        write_plan(self._request, SlicePlan.made(self._job, count, plan))
        with self._changing:
            self._slices = count
            super().commit_plan(delivery, plan, limit)
            if self._left:
                self._waiting.clear()
        return True

    def _follow_slices(self) -> None:
        """Run the slices, and add what they have scored; those without missing parts only count."""
        task = SliceTask(self._request, self._slices, self._settings)
        kept, done, failed = self._job, 0, 0
        patience = time.monotonic() + PATIENCE_SECONDS
        with closing(self._cluster.run(task, self._slices)) as outcomes:
            for outcome in outcomes:
                if self.interrupted.is_set():
                    self._end(state="cancelled")
                    return
                if outcome is None:
                    if time.monotonic() > patience and not done + failed:
                        logger.warning(NOTHING_ENDED, PATIENCE_SECONDS)
                        patience = float("inf")
                    continue
                done, failed = done + outcome.done, failed + outcome.failed
                self._update(done=max(done, kept.done), failed=max(failed, kept.failed))
                limit = self._job.error_limit
                too_many = limit.problem if limit and failed > limit.images else None
                if error := outcome.error or too_many:
                    self._end(state="failed", error=error)
                    return
        self._left.clear()
        self._close()

    def _close(self) -> None:
        if self._job.state == "cancelling":
            self._end(state="cancelled")  # without a summary: the slices may still write parts
        else:
            super()._close()


@dataclass(frozen=True)
class SliceTask:
    """Scores any slice of a planned job, in one core of any node.

    Attributes:
        request: The request of the job.
        slices: Number of its slices.
        settings: Settings that replace those of the node.
        protocol: `PROTOCOL` of the command.
    """

    request: JobRequest
    slices: int
    settings: Mapping[str, object]
    protocol: str = PROTOCOL

    def __call__(self, number: int) -> Outcome:
        """Return the counts of a whole slice, of which earlier attempts may have written parts."""
        try:
            return self._score(Slice(number, self.slices))
        except LoupeError as error:
            return Outcome(0, 0, f"Node {socket.gethostname()}: {error.message}")

    def _score(self, part: Slice) -> Outcome:
        if self.protocol != PROTOCOL:
            raise Conflict(
                f"it supports protocol {PROTOCOL}, the command {self.protocol}. "
                "Install the same version of Loupe."
            )
        plan = read_plan(self.request)
        if plan is None:
            raise NotFound(f"it does not see the files in '{self.request.folder}'.")
        settings = Settings.model_validate({**self.settings, "threads": 1})
        queue = SliceQueue(self.request, settings.max_attempts, part, plan)
        queue.worker = f"{socket.gethostname()}-{os.getpid()}"
        with running_queue(settings, queue):
            pass
        ended = queue.get(queue.job_id)
        return Outcome(ended.done, ended.failed, ended.error)
