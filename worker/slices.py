"""Run one slice of a job, or finish a job whose slices are done: `loupe score --slice`."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from loupe.errors import Interrupted, JobFailed, LoupeError
from loupe.runtime.processes import stop_on_signals
from loupe.settings import Settings
from loupe.terminal import console, print_error
from worker import jobs_cli
from worker.process import running_queue
from worker.queue.local import LocalQueue
from worker.queue.records import Job
from worker.queue.submission import Prepared, from_summary
from worker.scoring.slices import (
    Slice,
    SliceQueue,
    check_slices,
    finishing_queue,
    is_summarized,
    read_plan,
)

FINISH = "When all slices are done: the same command with --finish instead of --slice"


def score_slice(settings: Settings, prepared: Prepared, part: Slice) -> None:
    """Score one slice of a job, without the parts that are written already.

    Raises:
        Conflict: If the job is planned for another number of slices (code `slices_differ`).
        JobFailed: If the slice failed; finished parts stay.
        Interrupted: After SIGINT or SIGTERM; finished parts stay.
    """
    request = prepared.request
    if prepared.finished is not None or is_summarized(request):
        console.print(f"slice {part}: nothing is left to score → {request.output}")
        return
    plan = read_plan(request)
    if plan is not None:
        check_slices(plan, part.of)
    queue = SliceQueue(request, settings.max_attempts, part, plan)
    ended = _run(settings, queue)
    with leaving(queue):
        _show_slice(part, ended)


def finish(settings: Settings, prepared: Prepared) -> None:
    """Write the summary and merged rows of a job whose slices are all written.

    Raises:
        Conflict: See `finishing_queue`.
        JobFailed: If the summary cannot be written.
    """
    if prepared.finished is not None:
        jobs_cli.show_ended(prepared.finished)
        return
    request = prepared.request
    try:
        if is_summarized(request):  # an earlier attempt may have removed receipts
            job = replace(from_summary(request), state="finishing", finished=None)
            queue = LocalQueue(request, settings.max_attempts, job)
        else:
            queue = finishing_queue(request, settings.max_attempts)
    except LoupeError:
        prepared.release()
        raise
    ended = _run(settings, queue)
    with leaving(queue):
        jobs_cli.show_ended(ended)


def _run(settings: Settings, queue: LocalQueue) -> Job:
    """Run a queue to its end, with a progress bar."""
    with running_queue(settings, queue), stop_on_signals(queue.interrupted):
        return jobs_cli.watch(queue, queue.job_id, console)


def _show_slice(part: Slice, ended: Job) -> None:
    if ended.state == "failed":
        raise JobFailed(f"Slice {part} failed: {ended.error} Finished parts stay; run it again.")
    if ended.state == "cancelled":
        raise Interrupted(
            f"Slice {part} was stopped after {ended.done:,} images. Run it again to continue.",
            code="interrupted",
        )
    console.print(
        f"slice {part}: {ended.done:,} scored, errors: {ended.failed:,} → {ended.output}. {FINISH}"
    )


@contextmanager
def leaving(queue: LocalQueue) -> Iterator[None]:
    """End the process after the block if a thread of the queue does not end."""
    try:
        yield
        code = 0
    except LoupeError as error:
        if not queue.abandoned:
            raise
        print_error(error)
        code = error.exit_code
    if queue.abandoned:
        sys.stdout.flush()
        os._exit(code)  # without waiting for the threads
