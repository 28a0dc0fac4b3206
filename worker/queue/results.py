"""The files with the rows and the errors of a job, however it ended."""

from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Final

from loupe.errors import Conflict, NotFound
from loupe.jobs import ENDED
from loupe.results import CANCELLED, RUNNING, SUCCESS, F, Format, find_finished, find_result
from worker.queue.records import Job, JobRequest

ERRORS: Final = "_errors-*.jsonl"


def check_owner(job: Job, files: Iterable[F]) -> None:
    """Raise `NotFound` if another job has overwritten the result of this one.

    Args:
        job: The job.
        files: The files of its folder.
    """
    markers = [file for file in files if file.name in (RUNNING, SUCCESS, CANCELLED)]
    other = None
    for marker in markers:
        try:
            request = JobRequest.model_validate_json(marker.read_bytes())
        except (OSError, ValueError):  # it has just ended, or is of an older version
            return
        if request.has_rows_of(job.request):
            return
        other = request.job_id
    if other is not None:
        raise NotFound(
            f"Job '{other}' has overwritten the result of job '{job.id}'.",
            code="results_not_found",
        )


def find_rows(job: Job, output: F | None, files: Iterable[F]) -> tuple[Format, list[F]]:
    """Return the format and the files of a job's rows: of its finished parts, if it is not done.

    Args:
        job: The job.
        output: The file of its merged rows, if that exists.
        files: The files of its folder.

    Raises:
        Conflict: If it has not ended, or failed without a finished part (code `job_not_done`).
        NotFound: If its folder was deleted or overwritten, or it was cancelled without a finished
            part (code `results_not_found`).
    """
    kind, found, names = job.options.format, list[F](), {file.name: file for file in files}
    check_owner(job, names.values())
    if job.state == "failed":
        found = find_finished(names, job.shards, job.request.fingerprint(job.revision), kind)
    # A job whose parts are all finished fails if its summary cannot be written.
    if not found and job.state in ENDED and (job.state != "failed" or job.progress == 1):
        kind, found = (kind, [output]) if output is not None else find_result(names, kind)
    if found:
        return kind, found
    if job.state in ("done", "cancelled"):
        raise NotFound(
            f"Job '{job.id}' is {job.state}, but its folder has no results. "
            "Submit its source again.",
            code="results_not_found",
        )
    reason = f": {job.error}" if job.error else "."
    problem = "has no finished rows, and is" if job.state == "failed" else "is not done but"
    raise Conflict(f"Job '{job.id}' {problem} {job.state}{reason}", code="job_not_done")


def find_errors(job: Job, files: Iterable[F]) -> list[F]:
    """Return the files with the errors of a job so far, in their order.

    Args:
        job: The job.
        files: The files of its folder.

    Raises:
        NotFound: If its folder was deleted or overwritten (code `results_not_found`).
    """
    names = {file.name: file for file in files}
    check_owner(job, names.values())
    if job.state in ("queued", "planning") and not names.keys().isdisjoint((SUCCESS, CANCELLED)):
        return []  # they are those of the result that the job will replace
    found = [names[name] for name in sorted(names) if fnmatchcase(name, ERRORS)]
    if not found and (job.failed or (job.state == "done" and not names)):
        raise NotFound(
            f"The folder of job '{job.id}' no longer has its files. Submit its source again.",
            code="results_not_found",
        )
    return found
