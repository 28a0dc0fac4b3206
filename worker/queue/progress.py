"""Follow a job on a terminal."""

import time
from typing import TYPE_CHECKING

from rich.console import Console

from loupe.jobs import ENDED
from loupe.terminal import progress_bar
from worker.queue.jobs import Job, Jobs

if TYPE_CHECKING:
    from worker.scoring.local import LocalRun

POLL_SECONDS = 0.1


def follow(jobs: "Jobs | LocalRun", job_id: str, console: Console) -> Job:
    """Draw a progress bar until the job has ended, and return the ended job."""
    with progress_bar("rate", "details", console=console) as progress:
        task = progress.add_task("queued", total=None, rate="", details="")
        while True:
            job = jobs.get(job_id)
            handled = job.done + job.failed
            seconds = time.time() - job.started if job.started else 0.0
            progress.update(
                task,
                description=f"{job.state:>9}",
                total=job.total,
                completed=handled,
                rate=f"{handled / seconds:,.0f}/s" if seconds and handled else "",
                details=f"errors: {job.failed:,}, workers: {len(jobs.workers())}",
            )
            if job.state in ENDED:
                return job
            time.sleep(POLL_SECONDS)
