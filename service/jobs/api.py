"""Bulk scoring over HTTP: submit, show, follow and cancel jobs, and download their results."""

import asyncio
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from functools import partial
from operator import methodcaller
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from starlette.responses import Response

from loupe.errors import Conflict, JobNotFound, LoupeError, NotFound, UnsupportedMediaType
from loupe.images.selection import SkippedFiles
from loupe.jobs import ENDED, ScoringOptions, ScoringRequest
from loupe.models.card import FILE_NAME, digest
from loupe.results import (
    Format,
    can_join,
    join_files,
    merge_files,
    read_columns,
)
from service.http import replies
from service.http.context import caller_of
from service.http.options import media_type
from service.http.validation import parse_json, read_query, shown, validate
from service.jobs.pictures import read_picture
from service.jobs.requests import (
    BacklogRequest,
    NoParameters,
    PageRequest,
    PictureRequest,
    ResultsRequest,
    SourceRequest,
    UploadRequest,
    find_source,
)
from service.jobs.rows import ErrorsRequest, Page, RowsRequest, read_errors, read_page
from service.jobs.transfers import downloaded, streamed
from service.jobs.uploads import (
    check_length,
    prepare,
    save_upload,
    submitting,
)
from service.prediction.caller import caller_gone
from service.prediction.predictor import Call, route

if TYPE_CHECKING:
    from worker.queue.jobs import Jobs
    from worker.queue.records import Job

PROTOCOL = "loupe"  # label in the metrics
JSON = "application/json"
JSON_LINES = "application/jsonl"
EVENTS = "text/event-stream"
UPLOAD_TYPES = (
    "application/gzip",
    "application/octet-stream",
    "application/vnd.apache.parquet",
    "application/x-gzip",
    "application/x-npy",
    "application/x-tar",
    "application/x-zip-compressed",
    "application/zip",
    "text/csv",
)
RESULT_TYPES: dict[Format, str] = {
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv",
    "jsonl": JSON_LINES,
}
POLL_SECONDS = 0.2  # between two reads of a followed job
HEARTBEAT_SECONDS = 15.0  # without a change; then a comment keeps proxies from disconnecting
# A file of the job's source is foreign: the browser must only draw it.
PICTURE_POLICY = "default-src 'none'; sandbox"


async def submit(call: Call) -> Response:
    """Enqueue a job for a source that the caller names or uploads."""
    # Browsers let foreign pages send bodies without a type.
    sent_as = "" if call.content_type is None else media_type(call.content_type)
    if sent_as == JSON:
        read_query(call.request, NoParameters)
        body = await call.bodies.read(call.request, "JSON")
        request = validate(SourceRequest, await parse_json(body, call.settings))
        source, roots = await asyncio.to_thread(find_source, request.source, call.settings)
        return await _enqueue(call, source, await _folder(call, request), request, roots)
    if sent_as not in UPLOAD_TYPES:
        raise UnsupportedMediaType(
            f"Content-Type {shown(sent_as)} is not supported. "
            f'Send JSON {{"source": "<path>", …}} as {JSON}, '
            f"or an archive, a table or an array as one of {', '.join(UPLOAD_TYPES)}."
        )
    return await _upload(call, read_query(call.request, UploadRequest))


async def _upload(call: Call, request: UploadRequest) -> Response:
    """Receive an upload, once everything else about the request has been checked."""
    check_length(call.request, call.settings.max_upload_bytes)
    with call.jobs.limits.uploads.slot(caller_of(call.request.scope)):
        folder = await _folder(call, request)
        try:
            source = await save_upload(call.request, folder, call.settings)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return await _enqueue(call, source, folder, request, not_sent=request.skipped)


async def _folder(call: Call, request: ScoringRequest) -> Path:
    """Return a folder for the job, if its model is served and the queue answers."""
    call.models.find(request.model)
    folder = call.settings.home / "jobs" / uuid.uuid4().hex
    await call.jobs.ask(partial(prepare, folder))
    return folder


async def _enqueue(
    call: Call,
    source: Path,
    folder: Path,
    request: ScoringRequest,
    roots: tuple[str, ...] = (),
    not_sent: SkippedFiles | None = None,
) -> Response:
    options = ScoringOptions(**request.model_dump(include=set(ScoringOptions.model_fields)))
    with call.model(request.model) as served:
        model = served.stored

        def submit_job(jobs: "Jobs") -> "Job":
            from worker.queue.records import JobRequest

            job = JobRequest(
                source=str(source),
                output=str(folder / "results"),
                model=model.tag,
                model_digest=digest(model.folder / FILE_NAME),
                shard_images=call.settings.shard_images,
                options=options,
                roots=roots,
                not_sent=not_sent or {},
            )
            with submitting(folder, job.job_id):
                return jobs.submit(
                    job,
                    max_errors=request.max_errors,
                    owner=call.owner,
                    webhook=call.settings.webhook_url is not None,
                )

        job = await call.jobs.ask(submit_job)
    return replies.json(job.to_json(), 202, {"Location": f"{call.prefix}/jobs/{job.id}"})


async def jobs(call: Call) -> Response:
    """List a page of the caller's jobs, newest first."""
    asked = read_query(call.request, PageRequest)
    page = await call.jobs.ask(
        methodcaller("page", asked.after, limit=asked.limit, owner=call.owner)
    )
    return replies.json({"jobs": [job.to_json() for job in page.jobs], "next": page.next})


async def backlog(call: Call) -> Response:
    """Return how much work is in the queue, and for how many workers that is enough."""
    asked = read_query(call.request, BacklogRequest)
    depth = await call.jobs.ask(lambda jobs: jobs.depth())
    steps = sum(depth.steps.values())
    return replies.json({"steps": steps, "workers_wanted": -(-steps // asked.steps_per_worker)})


async def show(call: Call) -> Response:
    """Return a job."""
    return replies.json((await _job(call)).to_json())


async def cancel(call: Call) -> Response:
    """Cancel a job."""
    job = await _job(call)
    return replies.json((await call.jobs.ask(lambda jobs: jobs.cancel(job.id))).to_json())


async def retry(call: Call) -> Response:
    """Enqueue a failed or cancelled job again; the finished parts of a failed one stay.

    Raises:
        Conflict: If it has not ended or is done, or its results are not the service's.
    """
    job = await _job(call)
    is_own = Path(job.folder).is_relative_to(call.settings.home / "jobs")
    if job.state not in ("failed", "cancelled") or not is_own:
        problem = (
            f"It is {job.state}, and only failed and cancelled jobs can be."
            if is_own
            else f"It was submitted elsewhere: loupe jobs retry {job.id}"
        )
        raise Conflict(f"Job '{job.id}' cannot be retried. {problem}", code="job_not_retried")
    again = await call.jobs.ask(
        lambda jobs: jobs.submit(
            job.request,
            priority=job.priority,
            max_in_flight=job.max_in_flight,
            max_errors=job.max_errors,
            owner=job.owner,
            webhook=call.settings.webhook_url is not None,
        )
    )
    return replies.json(again.to_json(), 202)


async def events(call: Call) -> Response:
    """Send a job's progress as server-sent events.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    # Without X-Accel-Buffering, nginx would hold events back.
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return streamed(
        call.request, _events(call, await _job(call)), call.jobs.limits.streams, EVENTS, headers
    )


async def results(call: Call) -> Response:
    """Return the rows of a job as one file of any format; those of finished parts if not done."""
    asked = read_query(call.request, ResultsRequest).format
    job = await _job(call)
    stored, found = await asyncio.to_thread(_find_rows, job)
    sent = asked or stored
    name = job.id if job.state == "done" else f"{job.id}-{job.state}"
    headers = {
        "Content-Disposition": f'attachment; filename="{name}.{sent}"',
        "X-Loupe-State": job.state,
    }
    if can_join(found, stored, sent):
        joined = await asyncio.to_thread(join_files, found, sent)
        return downloaded(
            call.request, joined, call.jobs.limits.streams, RESULT_TYPES[sent], headers
        )
    content = _converted(Path(job.folder), found, stored, sent)
    return streamed(call.request, content, call.jobs.limits.streams, RESULT_TYPES[sent], headers)


def _find_rows(job: "Job") -> tuple[Format, list[Path]]:
    from worker.queue.results import find_rows

    files, output = _local_folder(job).glob("*"), Path(job.output)
    return find_rows(job, output if output.is_file() else None, files)


def _local_folder(job: "Job") -> Path:
    """Return the folder of a job's files.

    Raises:
        NotFound: If it is not on this machine.
    """
    if "://" in job.output:
        raise NotFound(
            f"The results of job '{job.id}' are not on this machine but at {job.output}.",
            code="results_not_found",
        )
    return Path(job.folder)


async def rows(call: Call) -> Response:
    """Return a page of the rows of a job."""
    asked = read_query(call.request, RowsRequest)
    job = await _job(call)

    def check() -> None:
        if call.is_gone() or call.is_stopping():
            raise caller_gone()

    def read() -> Page:
        stored, found = _find_rows(job)
        columns = read_columns(Path(job.folder))
        return read_page(found, stored, columns, asked, check, job.options.keep)

    with call.jobs.limits.pages.slot(caller_of(call.request.scope)):
        return replies.json(await asyncio.to_thread(read))


async def error_rows(call: Call) -> Response:
    """Return a page of the errors of a job so far."""
    asked = read_query(call.request, ErrorsRequest)
    job = await _job(call)
    with call.jobs.limits.pages.slot(caller_of(call.request.scope)):
        return replies.json(await asyncio.to_thread(lambda: read_errors(_find_errors(job), asked)))


async def picture(call: Call) -> Response:
    """Return the picture of a row."""
    job = await _job(call)
    row = read_query(call.request, PictureRequest).row
    content, media_type = await asyncio.to_thread(read_picture, job.source, row, call.settings)
    headers = {"Content-Security-Policy": PICTURE_POLICY, "Cache-Control": "private, max-age=3600"}
    return Response(content, headers=headers, media_type=media_type)


async def errors(call: Call) -> Response:
    """Return a line of JSON for each image that could not be read so far."""
    job = await _job(call)
    joined = await asyncio.to_thread(lambda: join_files(_find_errors(job), "jsonl"))
    return downloaded(call.request, joined, call.jobs.limits.streams, JSON_LINES)


def _find_errors(job: "Job") -> list[Path]:
    from worker.queue.results import find_errors

    return find_errors(job, _local_folder(job).glob("_*"))


async def _job(call: Call) -> "Job":
    """Return the job in the path.

    Raises:
        JobNotFound: If it does not exist, or has another owner; the error does not say which.
    """
    job_id: str = call.request.path_params["id"]
    try:
        job = await call.jobs.ask(lambda jobs: jobs.get(job_id))
    except JobNotFound:
        job = None
    if job is None or not _is_visible(job, call):
        raise JobNotFound(f"There is no job {shown(job_id)}. List yours: GET /jobs")
    return job


def _is_visible(job: "Job", call: Call) -> bool:
    """Return whether the caller may see a job; without API keys, all jobs are visible."""
    return call.owner is None or job.owner == call.owner


async def _events(call: Call, job: "Job") -> AsyncIterator[bytes]:
    yield _event(job.to_json())
    sent_at = time.monotonic()
    while job.state not in ENDED and not call.is_gone() and not call.is_stopping():
        await asyncio.sleep(POLL_SECONDS)
        before = job
        try:
            job = await call.jobs.ask(methodcaller("get", job.id))
        except LoupeError as error:
            yield b"event: error\n" + _event(error.to_json())
            return
        if job != before:
            yield _event(job.to_json())
            sent_at = time.monotonic()
        elif time.monotonic() - sent_at > HEARTBEAT_SECONDS:
            yield b": no change\n\n"
            sent_at = time.monotonic()


def _event(content: object) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _converted(folder: Path, found: list[Path], stored: Format, sent: Format) -> Iterator[bytes]:
    """Delay opening files and importing PyArrow to the first chunk, which a thread asks for."""
    yield from merge_files(found, stored, sent, read_columns(folder))


ROUTES = [
    route("POST", "/jobs", PROTOCOL, submit, "jobs"),
    route("GET", "/jobs", PROTOCOL, jobs, "jobs"),
    route("GET", "/jobs/backlog", PROTOCOL, backlog),
    route("GET", "/jobs/{id}", PROTOCOL, show, "jobs"),
    route("DELETE", "/jobs/{id}", PROTOCOL, cancel, "jobs"),
    route("POST", "/jobs/{id}/retry", PROTOCOL, retry, "jobs"),
    route("GET", "/jobs/{id}/events", PROTOCOL, events, "jobs"),
    route("GET", "/jobs/{id}/rows", PROTOCOL, rows, "jobs"),
    route("GET", "/jobs/{id}/picture", PROTOCOL, picture, "jobs"),
    route("GET", "/jobs/{id}/errors/rows", PROTOCOL, error_rows, "jobs"),
    route("GET", "/jobs/{id}/results", PROTOCOL, results, "jobs"),
    route("GET", "/jobs/{id}/errors", PROTOCOL, errors, "jobs"),
]
