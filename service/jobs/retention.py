"""Deletion of jobs, with their uploads and results, some time after they have ended."""

import logging
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from worker.queue.jobs import Jobs

DAY_SECONDS = 86_400

logger = logging.getLogger(__name__)


def has_old_folder(home: Path, days: float) -> bool:
    """Return whether a folder of a job, below the data folder, may be older than that."""
    return bool(_old_folders(home, time.time() - days * DAY_SECONDS))


def delete_old(
    home: Path, days: float, jobs: "Jobs", is_stopping: Callable[[], bool] = lambda: False
) -> int:
    """Delete jobs that ended longer ago, and their folders; return how many.

    A folder whose job has no record left counts from the last change of its files. Jobs that
    have not ended, and sources and results elsewhere, are not touched.

    Args:
        home: The data folder.
        days: How long a job is kept after its end.
        jobs: The queue.
        is_stopping: Returns whether to leave the rest for a later call.
    """
    before = time.time() - days * DAY_SECONDS
    folders = _old_folders(home, before)
    known = {job.folder: job for job in jobs.all()}
    deleted = 0
    for folder in folders:
        if is_stopping():
            break
        job = known.get(str(folder / "results"))
        try:
            if job is None:
                is_due = not any(folder.glob("*.part")) and _last_change(folder) < before
            else:  # its owner may retry it, until it is forgotten
                is_due = job.finished is not None and job.finished < before and jobs.forget(job.id)
            if is_due and _delete(folder):
                name = "without a record" if job is None else job.id
                logger.info("deleted job %s, its upload and its results in %s", name, folder)
                deleted += 1
        except OSError as error:
            logger.warning("the files of a job cannot be deleted: %s", error)
    return deleted


def _old_folders(home: Path, before: float) -> list[Path]:
    """Return the folders of jobs that have not changed since; their files may have."""
    try:
        with os.scandir(home / "jobs") as entries:
            return [
                Path(entry.path)
                for entry in entries
                if entry.is_dir(follow_symlinks=False) and entry.stat().st_mtime < before
            ]
    except FileNotFoundError:
        return []


def _last_change(folder: Path) -> float:
    """Return when a folder, or anything in it, was changed."""
    return max(path.lstat().st_mtime for path in (folder, *folder.rglob("*")))


def _delete(folder: Path) -> bool:
    """Delete a folder, and return whether no other process did. A later call deletes what stays."""
    leaving = folder.with_name(f".{folder.name}")
    try:
        folder.rename(leaving)  # only one process succeeds
    except FileNotFoundError:
        return False
    shutil.rmtree(leaving)
    return True
