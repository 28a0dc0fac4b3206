"""Bulk scoring over HTTP: submit a job, look it up, follow it, fetch what came of it, cancel it. Workers do the rest."""

import asyncio
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import orjson
from starlette.responses import Response

from loupe.errors import LoupeError
from loupe.jobs import ENDED, ResultOptions, ScoringOptions, ScoringRequest
from loupe.models.card import FILE_NAME, digest
from loupe.models.store import StoredModel
from loupe.old_errors.service import JobNotDone, ResultsNotFound, UnsupportedMediaType
from loupe.old_errors.worker import JobNotFound
from loupe.results import Format, as_one_file, find_errors, find_predictions, joined
from service.http import replies
from service.jobs.requests import (
    Nothing,
    ResultsWanted,
    find_source,
    read_named,
    read_query,
)
from service.jobs.transfers import Room, streamed
from service.jobs.uploads import check_length, new_folder, save_upload
from service.prediction.inputs import media_type
from service.prediction.predictor import Call, route

if TYPE_CHECKING:
    from worker.queue.jobs import Job, Jobs

PROTOCOL = "loupe"  # in the metrics
JSON = "application/json"
JSON_LINES = "application/jsonl"
EVENTS = "text/event-stream"
UPLOADS = frozenset(
    {
        *(
            "application/octet-stream",
            "application/zip",
            "application/x-zip-compressed",
            "application/x-tar",
        ),
        *(
            "application/gzip",
            "application/x-gzip",
            "application/x-npy",
            "application/vnd.apache.parquet",
        ),
    }
)
MEDIA_TYPES: dict[Format, str] = {
    "parquet": "application/vnd.apache.parquet",
    "csv": "text/csv",
    "jsonl": JSON_LINES,
}
EXPECTED = (
    f'JSON {{"source": "<path>", …}} (Content-Type: {JSON}), '
    f"or an archive, a table or an array as the body (Content-Type: {', '.join(sorted(UPLOADS))})"
)
POLL_SECONDS = 0.2  # between looks at a job that somebody follows
HEARTBEAT_SECONDS = (
    15.0  # without a change, after which a comment keeps proxies from closing the connection
)
MOST_UPLOADS = 8  # at a time
MOST_STREAMS = 100  # followers and downloads at a time

uploads = Room("uploads", MOST_UPLOADS)
streams = Room("downloads and followers of jobs", MOST_STREAMS)


async def submit(call: Call) -> Response:
    """Put a job into the queue, from a source that the caller names or uploads."""
    sent_as = media_type(call.request.headers)
    if sent_as == JSON:
        read_query(call.request, Nothing)
        named = read_named(await call.bodies.read(call.request, "JSON"))
        source = await asyncio.to_thread(find_source, named.source, call.settings)
        return await _submitted(call, source, new_folder(call.settings), named)
    if sent_as not in UPLOADS:
        raise UnsupportedMediaType(EXPECTED, f"Content-Type {sent_as!r}")
    return await _upload(call, read_query(call.request, ScoringRequest))


async def _upload(call: Call, wanted: ScoringRequest) -> Response:
    """Take an upload, after everything that could be wrong without it has been found right."""
    check_length(call.request, call.settings.max_upload_bytes)
    call.models.find(wanted.model)
    with uploads.taken():
        await call.jobs.ask(lambda jobs: jobs.workers())  # whether there is a queue at all
        folder = new_folder(call.settings)
        try:
            source = await save_upload(call.request, folder, call.settings)
            return await _submitted(call, source, folder, wanted)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise


async def _submitted(call: Call, source: Path, folder: Path, wanted: ScoringRequest) -> Response:
    with call.model(wanted.model) as served:
        model = served.stored
        job = await call.jobs.ask(lambda jobs: _submit(jobs, call, source, folder, wanted, model))
    return replies.json(job.to_json(), 202, {"Location": f"/jobs/{job.id}"})


def _submit(
    jobs: "Jobs", call: Call, source: Path, folder: Path, wanted: ScoringRequest, model: StoredModel
) -> "Job":
    from worker.queue.jobs import JobRequest

    request = JobRequest(
        source=str(source),
        output=str(folder / "results"),
        model=model.tag,
        model_digest=digest(model.folder / FILE_NAME),
        shard_images=call.settings.shard_images,
        options=ScoringOptions(**wanted.model_dump(include=set(ResultOptions.model_fields))),
    )
    return jobs.submit(request, owner=call.owner)


async def jobs(call: Call) -> Response:
    """The caller's jobs, newest first."""
    every = await call.jobs.ask(lambda jobs: jobs.all())
    return replies.json({"jobs": [job.to_json() for job in every if _is_seen(job, call.owner)]})


async def show(call: Call) -> Response:
    """One of them."""
    return replies.json((await _job(call)).to_json())


async def cancel(call: Call) -> Response:
    """Score no more of it."""
    job = await _job(call)
    return replies.json((await call.jobs.ask(lambda jobs: jobs.cancel(job.id))).to_json())


async def events(call: Call) -> Response:
    """Follow it, by server-sent events.

    Source: https://html.spec.whatwg.org/multipage/server-sent-events.html
    """
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}  # the latter is for nginx
    return streamed(call.request, _events(call, await _job(call)), streams, EVENTS, headers)


async def results(call: Call) -> Response:
    """Its rows as one file of any format."""
    wanted = read_query(call.request, ResultsWanted).format
    job = await _job(call)
    kind = job.options.format
    if job.state not in ("done", "cancelled"):
        raise JobNotDone(job.id, job.state, job.error)
    found = await asyncio.to_thread(find_predictions, Path(job.output), kind)
    if not found:
        raise ResultsNotFound(job.id, job.state)
    wanted = wanted or kind
    headers = {"Content-Disposition": f'attachment; filename="{job.id}.{wanted}"'}
    return streamed(
        call.request, _pieces(found, kind, wanted), streams, MEDIA_TYPES[wanted], headers
    )


async def errors(call: Call) -> Response:
    """A line for each of its images that could not be read, as far as it has come."""
    found = await asyncio.to_thread(find_errors, Path((await _job(call)).output))
    return streamed(call.request, joined(found), streams, JSON_LINES)


async def _job(call: Call) -> "Job":
    """The job in the path.

    Raises:
        JobNotFound: If there is none by that id, or it is somebody else's; which of them, nobody is told.
    """
    job_id: str = call.request.path_params["id"]
    job = await call.jobs.ask(lambda jobs: jobs.get(job_id))
    if not _is_seen(job, call.owner):
        raise JobNotFound(job_id)
    return job


def _is_seen(job: "Job", owner: str | None) -> bool:
    """Where nobody needs a key, everybody sees all jobs."""
    return owner is None or job.owner == owner


async def _events(call: Call, job: "Job") -> AsyncIterator[bytes]:
    yield _event(job.to_json())
    told_at = time.monotonic()
    while job.state not in ENDED and not call.is_gone() and not call.is_stopping():
        await asyncio.sleep(POLL_SECONDS)
        before = job
        try:
            job = await call.jobs.ask(lambda jobs, job_id=job.id: jobs.get(job_id))  # type: ignore[misc]
        except LoupeError as error:
            yield b"event: error\n" + _event(error.to_json())
            return
        if job != before:
            yield _event(job.to_json())
            told_at = time.monotonic()
        elif time.monotonic() - told_at > HEARTBEAT_SECONDS:
            yield b": still there\n\n"
            told_at = time.monotonic()


def _event(content: object) -> bytes:
    return b"data: " + orjson.dumps(content) + b"\n\n"


def _pieces(found: list[Path], kind: Format, wanted: Format) -> Iterator[bytes]:
    """Opens nothing and imports nothing before the first piece is asked for, which happens in a thread."""
    yield from as_one_file(found, kind, wanted)


ROUTES = [
    route("POST", "/jobs", PROTOCOL, submit),
    route("GET", "/jobs", PROTOCOL, jobs),
    route("GET", "/jobs/{id}", PROTOCOL, show),
    route("DELETE", "/jobs/{id}", PROTOCOL, cancel),
    route("GET", "/jobs/{id}/events", PROTOCOL, events),
    route("GET", "/jobs/{id}/results", PROTOCOL, results),
    route("GET", "/jobs/{id}/errors", PROTOCOL, errors),
]
