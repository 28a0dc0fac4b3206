"""Records of jobs: the request, the job at one moment, and its dead letters."""

import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from loupe.images.selection import SkippedFiles, count
from loupe.jobs import DEFAULT_OPTIONS, JobState, Priority, ScoringJob, ScoringOptions, folder_of
from worker.queue.steps import Shard

# Changes with the meaning of records and steps; a worker fails jobs of another protocol.
PROTOCOL = "3"


class JobRequest(BaseModel):
    """The identity of a job: submitting the same request again finds the same job.

    Attributes:
        source: Path or URL of the images.
        output: Folder of the results.
        model: Full tag.
        model_digest: SHA-256 of the model's card.
        shard_images: Maximum number of images in one shard.
        options: Options of the result.
        roots: Real paths of the folders that the source's files must be in; all by default.
        not_sent: Files of a folder that the client skipped when it uploaded the others.
    """

    model_config = ConfigDict(frozen=True)

    source: str
    output: str
    model: str
    model_digest: str
    shard_images: int
    options: ScoringOptions = DEFAULT_OPTIONS
    roots: tuple[str, ...] = ()
    not_sent: SkippedFiles = Field(default_factory=dict)

    @property
    def folder(self) -> str:
        """The folder of the job's files."""
        return folder_of(self.output, self.options)

    @property
    def job_id(self) -> str:
        """Twelve hexadecimal digits of the request's digest."""
        return _digest(self._identity())[:12]

    def has_rows_of(self, other: "JobRequest") -> bool:
        """Return whether both have the same rows in the same place, in any format."""
        files = {name: getattr(other.options, name) for name in ("format", "single")}
        options = self.options.model_copy(update=files)
        return self.model_copy(update={"options": options}) == other

    def fingerprint(self, revision: str) -> str:
        """Return a digest of everything that the rows of each part depend on.

        Args:
            revision: Version of the source when the job was planned.
        """
        return _digest([PROTOCOL, self._identity(), revision])

    def _identity(self) -> dict[str, Any]:
        """Return the fields, without those at their defaults that older versions do not have."""
        fields = self.model_dump(exclude={"not_sent"})
        if not self.roots:
            del fields["roots"]
        for name in ("escape_formulas", "image_column", "array", "min_familiarity"):
            if fields["options"][name] == getattr(DEFAULT_OPTIONS, name):
                del fields["options"][name]
        return fields


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


class ErrorLimit(NamedTuple):
    """The maximum number of images of a job that are errors, and why it fails beyond it."""

    images: float
    problem: str


@dataclass(frozen=True)
class JobPlan:
    """The findings of the first step of a job.

    Attributes:
        total: Number of records to score.
        revision: Version of the source.
        shards: All shards of the job.
        kept: Numbers of those whose parts exist already.
        done: Images scored in those parts.
        failed: Images of those parts that could not be read.
        skipped: Files of the source that are not records.
    """

    total: int
    revision: str
    shards: Sequence[Shard]
    kept: Sequence[int] = ()
    done: int = 0
    failed: int = 0
    skipped: SkippedFiles = field(default_factory=dict)

    @property
    def found(self) -> int:
        """Records and skipped files of the source."""
        return self.total + count(self.skipped)


@dataclass(frozen=True)
class DeadLetter:
    """A step that failed for good.

    Attributes:
        step: Name of the step.
        error: Why it failed.
        time: Seconds since the epoch.
    """

    step: str
    error: str
    time: float


@dataclass(frozen=True)
class Job:
    """A job's record at one moment; `ScoringJob` describes the fields that callers see.

    Attributes:
        model_digest: SHA-256 of the model's card when the job was submitted.
        shard_images: Maximum number of images in one shard.
        shards: Number of parts of the result; 0 before the job is planned.
        revision: Version of the source when the job was planned.
        skipped_files: Numbers of files that are not scored, by reason and suffix.
        roots: See `JobRequest`.
        not_sent: See `JobRequest`.
        max_in_flight: Maximum number of its steps that workers process at a time; `None` has no
            limit.
        max_errors: Number of images, or share with a %, that may be errors; `None` has no limit.
        protocol: `PROTOCOL` of the program that submitted it.
        owner: Name of the API key that submitted it over HTTP, if there was one.
    """

    id: str
    state: JobState
    model: str
    model_digest: str
    source: str
    output: str
    shard_images: int
    created: float
    shards: int = 0
    total: int | None = None
    done: int = 0
    failed: int = 0
    skipped_files: SkippedFiles = field(default_factory=dict)
    started: float | None = None
    finished: float | None = None
    revision: str = ""
    error: str | None = None
    options: ScoringOptions = DEFAULT_OPTIONS
    roots: tuple[str, ...] = ()
    not_sent: SkippedFiles = field(default_factory=dict)
    priority: Priority = "normal"
    max_in_flight: int | None = None
    max_errors: str | None = None
    protocol: str = PROTOCOL
    owner: str | None = None

    @property
    def request(self) -> JobRequest:
        """The request that the job was made from."""
        return JobRequest(**{name: getattr(self, name) for name in JobRequest.model_fields})

    @property
    def skipped(self) -> int:
        """Number of files that are not scored."""
        return count(self.skipped_files)

    @property
    def folder(self) -> str:
        """The folder of the job's files."""
        return folder_of(self.output, self.options)

    def to_json(self) -> dict[str, object]:
        """Return the fields that callers see."""
        return {name: getattr(self, name) for name in ScoringJob.model_fields}

    @property
    def error_limit(self) -> ErrorLimit | None:
        """The limit of errors, known once the source is counted."""
        if self.max_errors is None or self.total is None:
            return None
        number, percent, _ = self.max_errors.partition("%")
        images = float(number) / 100 * (self.total - self.skipped) if percent else float(number)
        return ErrorLimit(images, f"More than {self.max_errors} of the images are errors.")

    @property
    def progress(self) -> float | None:
        """Share of the source that is handled, 0..1; `None` before the source is counted."""
        if self.total is None:
            return None
        handled = self.done + self.failed + self.skipped
        return handled / self.total if self.total else 1.0

    @property
    def eta_seconds(self) -> float | None:
        """Estimated time until a running job is done, from its rate so far; else `None`."""
        handled = self.done + self.failed
        if self.state != "running" or self.started is None or self.total is None or not handled:
            return None
        left = self.total - self.skipped - handled
        return (time.time() - self.started) / handled * left


_JOB = TypeAdapter(Job)


def parse_job(job_id: str, record: dict[str, str], in_flight: list[str]) -> Job | None:
    """Return a job from its record and the progress of its shards in flight."""
    if not record:
        return None
    done, failed = int(record.get("done", 0)), int(record.get("failed", 0))
    skipped_files = json.loads(record.get("skipped_files", "{}"))
    total = None
    if "total" in record:  # records to score
        done = min(done + sum(map(int, in_flight)), int(record["total"]) - failed)
        total = int(record["total"]) + count(skipped_files)
    fields = {
        "id": job_id,
        "total": total,
        "done": done,
        "skipped_files": skipped_files,
        "not_sent": json.loads(record.get("not_sent", "{}")),
        "options": ScoringOptions.model_validate_json(record["options"]),
        "roots": json.loads(record.get("roots", "[]")),
        "protocol": record["contract"],
        "max_in_flight": int(record["most_in_flight"]) or None,
    }
    return _JOB.validate_python(record | fields)
