"""Check what a user asks for, and make a job of it; end a job before its time, or let one go on."""

import tempfile
from datetime import datetime
from pathlib import Path

from loupe.errors import InvalidOutput
from loupe.jobs import DEFAULT_OPTIONS, ENDED, Priority, ScoringOptions
from loupe.models.card import FILE_NAME, digest
from loupe.models.store import find_model, verify
from loupe.old_errors.worker import JobNotEnded, NothingToResume, ResultExists
from worker.queue.jobs import Job, JobRequest, Jobs, Submissions
from worker.results import outputs
from worker.results.formats import check_kept_columns
from worker.sources.opening import check_source, open_source
from worker.sources.source import ImageSource
from worker.storage import AnyPath, is_inside, parse_path


def submit(
    jobs: Submissions,
    source: str | Path,
    output: str | Path,
    model: str | None,
    shard_images: int,
    options: ScoringOptions = DEFAULT_OPTIONS,
    *,
    again: bool = False,
    priority: Priority = "normal",
    most_in_flight: int | None = None,
    https_sources: bool = False,
) -> Job:
    """Put a job into the queue; the same request once more is the same job, which goes on where it has not ended well.

    Args:
        jobs: The queue's client side.
        source: What `worker.sources` reads: a folder, a pattern, an archive, a table or an array; by path or by URL.
        output: A new or empty folder, or that of the same job before; by path or by URL.
        model: As `loupe.store.find_model` takes it, or nothing; the job keeps the version found now, wherever labels move.
        shard_images: Most images in one shard.
        options: What the result is to look like.
        again: Whether a result that is there already is to be made anew.
        priority: Jobs of a higher one go first.
        most_in_flight: Most steps in the hands of workers at a time.
        https_sources: Whether the source may be a URL of `https`, or a manifest that names some.

    Raises:
        InvalidUrl: If a URL is none that Loupe reads from or writes to.
        StorageUnavailable: If what is behind a URL does not answer, or not to these credentials.
        InvalidRequest: If the options do not go together, or not with the source.
        InvalidSource: If the source is clearly nothing to score.
        ColumnNotFound: If it does not have a column that the options name.
        ModelNotFound: If there is no such model.
        ModelCorrupted: If its files are not those that were saved.
        InvalidOutput: If the output folder cannot take the results, or lies inside the source.
        ResultExists: If the folder holds the result of the same job on another state of the source.
        JobNotEnded: If a job is to be made anew that has not ended.
    """
    images, results = parse_path(source, https=https_sources), parse_path(output)
    check_source(images, options, https=https_sources)
    found = find_model(model)
    verify(found)
    check_kept_columns(found.card.class_names, options)
    if is_inside(results, images):
        raise InvalidOutput(
            f"The output folder '{results}' is inside the source '{images}', "
            "so the next job would score it."
        )
    card_digest = digest(found.folder / FILE_NAME)
    request = JobRequest(
        source=str(images),
        output=str(results),
        model=found.tag,
        model_digest=card_digest,
        shard_images=shard_images,
        options=options,
    )
    mark = _claimed(results, request)
    if mark is not None and again:
        _clear(jobs, request)
        outputs.claim_folder(results, request)
    elif mark == outputs.SUCCESS:
        return _as_it_was(
            jobs, request, open_source(images, found.card.look, 1, options, https=https_sources)
        )
    elif mark is not None:
        outputs.reclaim_folder(results, request)
    return jobs.submit(request, priority=priority, most_in_flight=most_in_flight)


def resume(jobs: Submissions, output: str | Path) -> Job:
    """Let the job of a folder go on, whatever has become of its record; shards whose parts are whole are not scored again.

    Raises:
        NothingToResume: If the folder holds no job, or one that is done.
    """
    results = parse_path(output)
    held = outputs.read_claim(results)
    if held is None or held.marker == outputs.SUCCESS:
        raise NothingToResume(str(results), "one that is done" if held else "none")
    outputs.reclaim_folder(results, held.request)
    return jobs.submit(held.request)


def retry(jobs: Jobs, job_id: str) -> Job:
    """Let a job that has failed, or was cancelled, go on where it ended.

    Raises:
        JobNotFound: If there is none by that id.
        JobNotEnded: If it goes on anyway, or is done.
    """
    job = jobs.get(job_id)
    if job.state not in {"failed", "cancelled"}:
        raise JobNotEnded(job.id, job.state)
    outputs.reclaim_folder(parse_path(job.output), job.request)
    return jobs.again(job)


def cancel(jobs: Jobs, job_id: str) -> Job:
    """Score no more of a job; the output folder of one that nobody had begun is free again. Raises what `Jobs.cancel` does."""
    job = jobs.cancel(job_id)
    if job.state == "cancelled":
        outputs.release_folder(parse_path(job.output))
    return job


def _claimed(output: AnyPath, request: JobRequest) -> str | None:
    """Make the folder the request's. If it has been before, how that went; see `outputs.Claim`."""
    try:
        outputs.claim_folder(output, request)
    except InvalidOutput:
        held = outputs.read_claim(output)
        if held is None or held.request != request:
            raise
        return held.marker
    return None


def _clear(jobs: Submissions, request: JobRequest) -> None:
    job = jobs.find(request.job_id)
    if job is not None and job.state not in ENDED:
        raise JobNotEnded(job.id, job.state)
    outputs.clear_folder(parse_path(request.output))


def _as_it_was(jobs: Submissions, request: JobRequest, source: ImageSource) -> Job:
    """The job that has made this result, if its source is still what it was."""
    job = jobs.find(request.job_id) or _remembered(request)
    with tempfile.TemporaryDirectory() as notes:
        if source.plan(request.shard_images, Path(notes)).revision != job.revision:
            raise ResultExists(request.output)
    return job


def _remembered(request: JobRequest) -> Job:
    """A job that is done and whose record has expired, from its summary."""
    summary = outputs.read_summary(parse_path(request.output))
    times = {
        name: datetime.fromisoformat(str(summary[name])).timestamp()
        for name in ("started", "finished")
    }
    return Job(
        id=request.job_id,
        state="done",
        model=request.model,
        model_digest=request.model_digest,
        source=request.source,
        output=request.output,
        shard_images=request.shard_images,
        shards=int(str(summary["parts"])),
        total=int(str(summary["total"])),
        done=int(str(summary["done"])),
        failed=int(str(summary["failed"])),
        created=times["started"],
        started=times["started"],
        finished=times["finished"],
        revision=str(summary["revision"]),
        error=None,
        options=request.options,
    )
