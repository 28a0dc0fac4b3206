"""Bulk-scoring jobs: submit, look up, cancel, and download results in pieces."""

import asyncio
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, TypedDict
from urllib.parse import quote

import httpx
from pydantic import Field, TypeAdapter, ValidationError

from loupe.client.flows import Flow, Pause
from loupe.client.predictions import PredictionFlows
from loupe.client.uploads import OCTETS
from loupe.errors import InvalidSource, JobFailed
from loupe.files import atomic_path, open_regular, printable
from loupe.images.folder import files, pictures
from loupe.images.selection import Skipped, SkippedFiles, describe
from loupe.jobs import ScoringJob, ScoringRequest
from loupe.results import Format

PIECE_BYTES = 2**18  # of a file, read at a time
FIRST_POLL_SECONDS = 0.1  # grows by half while the job does not change
MAX_POLL_SECONDS = 1.0


@dataclass(frozen=True)
class RecordError:
    """The error of one image of a job.

    Attributes:
        id: The image's id in its source.
        code: Stable name of the condition.
        message: Text for people.
    """

    id: str
    code: str
    message: Annotated[str, Field(validation_alias="error")]


class ScoreOptions(TypedDict, total=False):
    """Options of a bulk-scoring job."""

    model: str | None
    """As for a prediction; the version found now scores the whole set."""
    format: Format
    """File format of the results; `parquet` by default."""
    top_k: int
    """Labels in a row, most probable first; 1 by default."""
    probabilities: bool
    """Write the probabilities of all classes; true by default."""
    threshold: float | None
    """Minimum confidence, 0..1, for a label."""
    min_familiarity: float | None
    """Minimum familiarity, 0..1, for a label."""
    single: bool
    """Merge the parts into one file at the end; false by default."""
    escape_formulas: bool
    """Begin texts that a spreadsheet takes for formulas with `'`; false by default."""
    labels: str | None
    """True labels: `folder`, or `column:NAME` of the source."""
    keep: Sequence[str]
    """Columns of the source to copy to the rows."""
    id: str | None
    """Column of the source with the ids; `id` by default."""
    image_column: str | None
    """Column with the pictures or their paths; `image`, `path` or `file_name` by default."""
    array: str | None
    """Array of an `.npz` to score; the only one that holds images by default."""
    max_errors: int | str | None
    """End the job early as failed if more images are errors: a number, or a share such as `5%`."""


class JobFlows(PredictionFlows):
    """Flows about jobs. All of them raise the errors of `Client.predict`."""

    def submit_path(self, source: str, options: ScoringRequest) -> Flow[ScoringJob]:
        """Submit a source that the service's workers can read."""
        request = self._request(
            "POST",
            "/jobs",
            json={"source": source, **options.model_dump(exclude_defaults=True, mode="json")},
        )
        return self._read(ScoringJob, (yield from self._ask(request, once=True)))

    def submit_file(self, upload: "JobUpload", options: ScoringRequest) -> Flow[ScoringJob]:
        """Upload a file in pieces and submit it."""
        path = upload.file
        params = options.model_dump(exclude_defaults=True)
        if options.keep:
            params["keep"] = ",".join(options.keep)
        if upload.skipped:
            params["skipped"] = json.dumps(upload.skipped)
        request = self._request("POST", "/jobs", params=params)
        request.stream = FileStream(path)
        request.headers["Content-Type"] = OCTETS
        request.headers["Content-Length"] = str(path.stat().st_size)
        return self._read(ScoringJob, (yield from self._ask(request, once=True)))

    def job(self, job_id: str) -> Flow[ScoringJob]:
        """Look up a job."""
        response = yield from self._ask(self._of_job("GET", job_id))
        return self._read(ScoringJob, response)

    def wait_for_change(self, before: ScoringJob) -> Flow[ScoringJob]:
        """Poll until the job differs from `before` in more than its estimate."""
        seconds = FIRST_POLL_SECONDS
        while True:
            job = yield from self.job(before.id)
            if job.model_copy(update={"eta_seconds": before.eta_seconds}) != before:
                return job
            yield Pause(seconds)
            seconds = min(1.5 * seconds, MAX_POLL_SECONDS)

    def cancel(self, job_id: str) -> Flow[ScoringJob]:
        """Cancel a job."""
        request = self._of_job("DELETE", job_id)
        return self._read(ScoringJob, (yield from self._ask(request, once=True)))

    def results(self, job_id: str, path: Path, format: Format | None) -> Flow[Path]:
        """Download all rows to a file, and return its path."""
        params = {"format": format} if format else None
        request = self._of_job("GET", job_id, "/results", params=params)
        with atomic_path(path) as part:
            yield from self._ask(request, path=part)
        return path

    def errors(self, job_id: str) -> Flow[list[RecordError]]:
        """List the images that could not be read."""
        response = yield from self._ask(self._of_job("GET", job_id, "/errors"))
        row = TypeAdapter(RecordError)
        try:
            return [row.validate_json(line) for line in response.content.splitlines()]
        except ValidationError as error:
            raise self._unexpected("a line that is not an error row") from error

    def _of_job(
        self, method: str, job_id: str, part: str = "", params: Mapping[str, str] | None = None
    ) -> httpx.Request:
        return self._request(method, f"/jobs/{quote(job_id, safe='')}{part}", params=params)


def check_done(job: ScoringJob) -> ScoringJob:
    """Return a job that has ended, or raise `JobFailed`."""
    if job.state == "failed":
        raise JobFailed(f"Job {job.id} failed: {job.error}")
    return job


class FileStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The bytes of a file; a retry reads them again."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __iter__(self) -> Iterator[bytes]:
        with self._path.open("rb") as file:
            while piece := file.read(PIECE_BYTES):
                yield piece

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with self._path.open("rb") as file:
            while piece := await asyncio.to_thread(file.read, PIECE_BYTES):
                yield piece


@dataclass(frozen=True)
class JobUpload:
    """A file to send, and the files of its folder that are not in it, by reason and suffix."""

    file: Path
    skipped: SkippedFiles = field(default_factory=dict)


@contextmanager
def uploadable(source: str | os.PathLike[str]) -> Iterator[JobUpload]:
    """Yield what to send: the source, or a temporary archive of a folder's pictures.

    Of a folder without pictures, send its Parquet file if it has only one.

    Raises:
        InvalidSource: If the path does not exist, or the folder contains nothing to send.
    """
    path = Path(source)
    if not path.is_dir():
        if not path.is_file():
            raise InvalidSource(f"There is no file or folder at '{path}'.")
        yield JobUpload(path)
        return
    with tempfile.TemporaryDirectory(prefix="loupe-") as folder:
        archive, skipped = Path(folder) / "images.zip", Skipped()
        has_pictures = _zip_pictures(path, archive, skipped)
        yield JobUpload(archive, skipped.files) if has_pictures else _only_table(path, skipped)


def _zip_pictures(folder: Path, archive: Path, skipped: Skipped) -> bool:
    """Archive the pictures that `loupe score` would read, without compressing them again.

    Count the files that are left out, and return whether there are pictures.
    """
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as zipped:
        for name, _ in pictures(folder, skipped):
            path = folder / name
            try:
                file = open_regular(path)
            except OSError:
                skipped.add("unreadable", name)
                continue
            member = zipfile.ZipInfo.from_file(path, printable(name), strict_timestamps=False)
            with file, zipped.open(member, "w") as to:
                shutil.copyfileobj(file, to, PIECE_BYTES)
        return bool(zipped.namelist())


def _only_table(folder: Path, skipped: Skipped) -> JobUpload:
    """Return the only Parquet file of a folder without pictures, whose other files are counted."""
    others, tables = Skipped(), []
    for name in files(folder, others):
        if name.lower().endswith(".parquet"):
            tables.append(name)
        else:
            others.add("not_a_table", name)
    if len(tables) == 1:
        return JobUpload(folder / tables[0], others.files)
    problem = f"The folder '{folder}' contains no pictures"
    if tables:
        example = folder / tables[0]
        raise InvalidSource(
            f"{problem}, but {len(tables):,} Parquet files. Upload them one by one, for example "
            f"'{example}', or name the folder as the workers see it."
        )
    counted = describe(skipped.files)
    raise InvalidSource(f"{problem}." + (f" Skipped: {counted}." if counted else ""))
