"""Check a request and submit it as a job; resume, retry or cancel a job."""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path

from redis.exceptions import ResponseError

from loupe.errors import Conflict, InvalidOutput, LoupeError
from loupe.jobs import DEFAULT_OPTIONS, ENDED, Priority, ScoringOptions
from loupe.models.answers import familiarity_unknown
from loupe.models.card import FILE_NAME, digest
from loupe.models.store import find_model, verify
from loupe.results import SUCCESS
from loupe.settings import HttpsAccess
from worker.queue.jobs import Jobs
from worker.queue.records import Job, JobRequest
from worker.results import claims, conversion, outputs
from worker.results.formats import check_kept_columns
from worker.sources.opening import check_source, open_source
from worker.sources.source import ImageSource
from worker.storage import AnyPath, is_inside, parse_path

FindJob = Callable[[str], Job | None]


@dataclass(frozen=True)
class Prepared:
    """A request whose output folder is claimed.

    Attributes:
        request: The request.
        finished: The job that has made this result already, if it exists.
        release: Undoes the claim, if it is new.
    """

    request: JobRequest
    finished: Job | None = None
    release: Callable[[], object] = lambda: None


def prepare(
    find: FindJob,
    source: str | Path,
    output: str | Path,
    model: str | None,
    shard_images: int,
    options: ScoringOptions = DEFAULT_OPTIONS,
    *,
    again: bool = False,
    can_replace: bool = True,
    https: HttpsAccess = "none",
) -> Prepared:
    """Check a request and claim its output folder.

    Args:
        find: Looks up a job by id.
        source: Folder, pattern, archive, table or array; by path or URL.
        output: New or empty folder, or that of the same job; by path or URL.
        model: Tag, or `None` for the default model. The job keeps the version that it finds now.
        shard_images: Maximum number of images in one shard.
        options: Options of the result.
        again: Whether to overwrite an existing result.
        can_replace: Whether the caller could set `again`; errors do not advise it otherwise.
        https: Which addresses `https` URLs of the source may lead to.

    Raises:
        InvalidUrl: If Loupe cannot read or write a URL.
        StorageUnavailable: If the storage does not answer or rejects the credentials.
        InvalidRequest: If options contradict each other or the source.
        InvalidSource: If the source is clearly not readable, or lacks a column.
        ModelNotFound: If there is no such model.
        ModelCorrupted: If the files of the model have changed.
        InvalidOutput: If the output folder cannot take the results.
        Conflict: If the folder contains the result of an earlier version of the source, or the job
            has not ended and `again` is set.
    """
    images, results = parse_path(source, https=https), parse_path(output)
    found = find_model(model)
    spec = found.card.input
    check_source(images, spec, options, https=https)
    verify(found)
    if options.min_familiarity is not None and found.card.familiarity is None:
        raise familiarity_unknown()
    check_kept_columns(found.card.class_names, options)
    if is_inside(results, images):
        raise InvalidOutput(
            f"The output folder '{results}' is inside the source '{images}'. Choose another."
        )
    request = JobRequest(
        source=str(images),
        output=str(results),
        model=found.tag,
        model_digest=digest(found.folder / FILE_NAME),
        shard_images=shard_images,
        options=options,
    )
    reopen = partial(open_source, images, spec, max_pixels=1, options=options, https=https)
    advice = "overwrite it with --again" if can_replace else "remove it"
    return _take_output(find, request, reopen, again=again, advice=advice)


def submit(
    jobs: Jobs,
    prepared: Prepared,
    *,
    priority: Priority = "normal",
    max_in_flight: int | None = None,
    max_errors: str | None = None,
) -> Job:
    """Enqueue a prepared job, unless it is finished. If it is refused, release its folder.

    Arguments and errors are those of `Jobs.submit`.
    """
    if prepared.finished is not None:
        return prepared.finished
    try:
        return jobs.submit(
            prepared.request,
            priority=priority,
            max_in_flight=max_in_flight,
            max_errors=max_errors,
        )
    except (LoupeError, ResponseError):  # after any other error, the job may be in the queue
        prepared.release()
        raise


def prepare_resume(output: str | Path) -> JobRequest:
    """Return the request of an unfinished job, and claim its folder. Finished parts stay.

    Raises:
        Conflict: If the folder contains no job, or one that is done.
    """
    results = parse_path(output)
    claim = claims.read_claim(results) or claims.read_claim(parse_path(f"{output}.job"))
    if claim is None or claim.marker == SUCCESS:
        problem = "contains no job" if claim is None else "contains a job that is done"
        raise Conflict(f"Nothing to resume: '{results}' {problem}.", code="nothing_to_resume")
    claims.reclaim_folder(parse_path(claim.request.folder), claim.request)
    return claim.request


def retry(jobs: Jobs, job_id: str) -> Job:
    """Enqueue a failed or cancelled job again. Finished parts stay.

    Raises:
        JobNotFound: If no job has that id.
        Conflict: If the job is in any other state.
    """
    job = jobs.get(job_id)
    if job.state not in {"failed", "cancelled"}:
        raise Conflict(
            f"Job '{job.id}' is {job.state}. Only failed and cancelled jobs can be retried.",
            code="job_not_ended",
        )
    claims.reclaim_folder(parse_path(job.folder), job.request)
    return jobs.submit(
        job.request,
        priority=job.priority,
        max_in_flight=job.max_in_flight,
        max_errors=job.max_errors,
        owner=job.owner,
    )


def cancel(jobs: Jobs, job_id: str) -> Job:
    """Cancel a job, and free its output folder if it had not started; see `Jobs.cancel`."""
    job = jobs.cancel(job_id)
    if job.state == "cancelled":
        claims.release_folder(parse_path(job.folder))
    return job


def _take_output(
    find: FindJob,
    request: JobRequest,
    open_images: Callable[[], ImageSource],
    *,
    again: bool,
    advice: str,
) -> Prepared:
    """Claim the output of a request, or find or convert the result that is there."""
    folder, results = parse_path(request.folder), parse_path(request.output)
    is_new = not folder.exists()
    try:
        claims.claim_folder(folder, request)
    except InvalidOutput:
        claim = claims.read_claim(folder)
        if claim is None:
            raise
    else:
        release = partial(claims.release_folder, folder, remove=is_new)
        if folder != results:
            _check_file(results, release, again=again, advice=advice)
        return Prepared(request, release=release)
    is_done = claim.marker == SUCCESS
    if again or (is_done and folder != results and not results.exists()):
        _check_ended(find, claim.request)
        claims.replace_claim(folder, claim, request)
        return Prepared(request, release=partial(claims.release_folder, folder))
    if claim.request != request and not (is_done and claim.request.has_rows_of(request)):
        raise InvalidOutput(
            f"'{request.output}' belongs to another job: {claim.request.source} with "
            f"{claim.request.model} and its options. Choose another output, or {advice}."
        )
    if is_done:
        finished = _finished(find, claim.request, open_images(), advice)
        if claim.request != request:
            conversion.convert(claim.request, request)
            finished = from_summary(request)
        else:
            conversion.remove_other_rows(request)
        return Prepared(request, finished)
    claims.reclaim_folder(folder, request)
    return Prepared(request)


def _check_file(file: AnyPath, release: Callable[[], object], *, again: bool, advice: str) -> None:
    """Refuse a file that a result may not replace, and release its folder."""
    if file.is_dir():
        release()
        raise InvalidOutput(f"'{file}' is a folder, but ends as a file does. Choose another name.")
    if file.exists() and not again:
        release()
        raise InvalidOutput(f"'{file}' exists. Choose another, or {advice}.")


def _check_ended(find: FindJob, request: JobRequest) -> None:
    job = find(request.job_id)
    if job is not None and job.state not in ENDED:
        raise Conflict(
            f"Job '{job.id}' is {job.state}. To overwrite its result, wait until it ends, "
            f"or cancel it: loupe jobs cancel {job.id}",
            code="job_not_ended",
        )


def _finished(find: FindJob, request: JobRequest, source: ImageSource, advice: str) -> Job:
    """Return the job that has made this result, unless its source has changed since."""
    job = find(request.job_id) or from_summary(request)
    with tempfile.TemporaryDirectory() as index:
        if source.plan(request.shard_images, Path(index)).revision != job.revision:
            raise Conflict(
                f"'{request.output}' contains the result of an earlier version of the source. "
                f"Choose another folder, or {advice}.",
                code="result_exists",
            )
    return job


def from_summary(request: JobRequest) -> Job:
    """Rebuild a job that is done from its summary, after its record has expired."""
    summary = outputs.read_summary(parse_path(request.folder))
    started, finished = (
        datetime.fromisoformat(str(summary[name])).timestamp() for name in ("started", "finished")
    )
    return Job(
        id=request.job_id,
        state="done",
        created=started,
        started=started,
        finished=finished,
        shards=int(str(summary["parts"])),
        revision=str(summary["revision"]),
        total=int(str(summary["total"])),
        done=int(str(summary["done"])),
        failed=int(str(summary["failed"])),
        skipped_files=summary.get("skipped_files", {}),
        **dict(request),
    )
