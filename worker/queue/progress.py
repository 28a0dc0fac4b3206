"""Follow a job on a terminal."""

import time

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from loupe.jobs import ENDED
from worker.queue.jobs import Job, Submissions

POLL_SECONDS = 0.1


def follow(jobs: Submissions, job_id: str, console: Console) -> Job:
    """Draw a bar until the job has ended, and return how it ended."""
    columns = (
        TextColumn("{task.description:>9}"),
        BarColumn(bar_width=32),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TextColumn("{task.fields[about]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task("queued", total=None, rate="", about="")
        while True:
            job = jobs.get(job_id)
            handled = job.done + job.failed
            rate = (
                f"{handled / (time.time() - job.started):,.0f}/s" if job.started and handled else ""
            )
            about = f"errors: {job.failed:,}, workers: {len(jobs.workers())}"
            progress.update(
                task,
                description=job.state,
                total=job.total,
                completed=handled,
                rate=rate,
                about=about,
            )
            if job.state in ENDED:
                return job
            time.sleep(POLL_SECONDS)
