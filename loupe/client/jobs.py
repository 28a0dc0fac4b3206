"""What is asked of a service about jobs: what `loupe.exchange` is for predictions. Files are sent and saved in pieces."""

import asyncio
import json
import os
import tempfile
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
from pydantic import BaseModel, ValidationError

from loupe.client.predictions import DEFAULT_TIMEOUT_SECONDS, Conversation, Pause, Steps
from loupe.client.uploads import OCTETS
from loupe.images.decode import SUFFIXES
from loupe.jobs import ScoringJob, ScoringRequest
from loupe.old_errors.core import UnexpectedAnswer
from loupe.old_errors.worker import InvalidSource
from loupe.results import Format

PIECE_BYTES = 2**18  # of a file, read at a time
FIRST_LOOK_SECONDS = (
    0.1  # after which a job is looked at again; the pauses grow while nothing changes
)
LONGEST_LOOK_SECONDS = 1.0
NO_SUCH = "nothing; no such file or folder"


@dataclass(frozen=True)
class RecordError:
    """What is wrong with one image of a job.

    Attributes:
        id: Of the image in its source.
        code: For programs, as `PredictionError` has it.
        message: For people.
    """

    id: str
    code: str
    message: str


class ScoringConversation(Conversation):
    """Everything that is said to one service, about jobs too."""

    def submit_named(self, source: str, options: ScoringRequest) -> Steps[ScoringJob]:
        """Have a source scored that the service's workers can read.

        Raises:
            LoupeError: As for one picture.
        """
        content = json.dumps(
            {"source": source, **options.model_dump(exclude_defaults=True)}
        ).encode()
        request = self._request("POST", "/jobs", DEFAULT_TIMEOUT_SECONDS, content=content)
        request.headers["Content-Type"] = "application/json"
        return self._read(ScoringJob, (yield from self._ask(request, once=True)))

    def submit_file(self, path: Path, options: ScoringRequest) -> Steps[ScoringJob]:
        """Have a file scored, which is sent in pieces.

        Raises:
            LoupeError: As for one picture.
        """
        params = {
            name: _as_text(value)
            for name, value in options.model_dump(exclude_defaults=True).items()
        }
        request = self._request("POST", "/jobs", DEFAULT_TIMEOUT_SECONDS, params)
        request.stream = FileStream(path)
        request.headers["Content-Type"] = OCTETS
        request.headers["Content-Length"] = str(path.stat().st_size)
        return self._read(ScoringJob, (yield from self._ask(request, once=True)))

    def job(self, job_id: str) -> Steps[ScoringJob]:
        """A job as it stands.

        Raises:
            LoupeError: As for one picture.
        """
        request = self._request("GET", f"/jobs/{job_id}", DEFAULT_TIMEOUT_SECONDS)
        return self._read(ScoringJob, (yield from self._ask(request)))

    def changed(self, before: ScoringJob) -> Steps[ScoringJob]:
        """A job, as soon as it is another than before.

        Raises:
            LoupeError: As for one picture.
        """
        seconds = FIRST_LOOK_SECONDS
        while True:
            job = yield from self.job(before.id)
            if job.model_copy(update={"eta_seconds": before.eta_seconds}) != before:
                return job
            yield Pause(seconds)
            seconds = min(1.5 * seconds, LONGEST_LOOK_SECONDS)

    def cancel(self, job_id: str) -> Steps[ScoringJob]:
        """Have no more of a job scored.

        Raises:
            LoupeError: As for one picture.
        """
        request = self._request("DELETE", f"/jobs/{job_id}", DEFAULT_TIMEOUT_SECONDS)
        return self._read(ScoringJob, (yield from self._ask(request, once=True)))

    def results(self, job_id: str, path: Path, wanted: Format | None) -> Steps[None]:
        """Save all rows of a job's result.

        Raises:
            LoupeError: As for one picture.
        """
        params = {"format": wanted} if wanted else None
        yield from self._ask(
            self._request("GET", f"/jobs/{job_id}/results", DEFAULT_TIMEOUT_SECONDS, params),
            into=path,
        )

    def errors(self, job_id: str) -> Steps[list[RecordError]]:
        """What is wrong with images of a job.

        Raises:
            LoupeError: As for one picture.
        """
        response = yield from self._ask(
            self._request("GET", f"/jobs/{job_id}/errors", DEFAULT_TIMEOUT_SECONDS)
        )
        try:
            lines = [_Line.model_validate_json(line) for line in response.content.splitlines()]
        except ValidationError as error:
            raise UnexpectedAnswer(self.url, "a line that is no error of an image") from error
        return [RecordError(line.id, line.code, line.error) for line in lines]


class FileStream(httpx.SyncByteStream, httpx.AsyncByteStream):
    """The bytes of a file, as often as they are wanted."""

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


@contextmanager
def uploadable(source: str | os.PathLike[str]) -> Iterator[Path]:
    """A file that can be sent: the source itself or, of a folder, an archive that is gone when the block ends.

    Raises:
        InvalidSource: If there is nothing at the path, or no picture in the folder.
    """
    path = Path(source)
    if not path.is_dir():
        if not path.is_file():
            raise InvalidSource(str(source), NO_SUCH)
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="loupe-") as place:
        archive = Path(place) / "images.zip"
        _zip_pictures(path, archive)
        yield archive


def _zip_pictures(folder: Path, archive: Path) -> None:
    """Those that `loupe score` would take, in its order; pictures are compressed already."""
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED, strict_timestamps=False) as zipped:
        for root, folders, files in os.walk(folder):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            for name in sorted(files):
                if Path(name).suffix.lower() in SUFFIXES and not name.startswith("."):
                    path = Path(root, name)
                    printable = (
                        str(path.relative_to(folder)).encode("utf-8", "backslashreplace").decode()
                    )
                    zipped.write(path, printable)
        if not zipped.namelist():
            raise InvalidSource(
                str(folder), f"a folder without {', '.join(sorted(SUFFIXES))} files"
            )


def _as_text(value: str | float) -> str:
    """As a query has it."""
    return value if isinstance(value, str) else json.dumps(value)


class _Line(BaseModel):
    id: str
    code: str
    error: str
