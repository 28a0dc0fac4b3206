"""Slices of a job without Redis: each is scored by its own process, and one process finishes.

They share nothing but the output folder. The first slice that has planned the job writes the plan,
which the others read.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from pydantic import BaseModel, ConfigDict, ValidationError

from loupe.errors import Conflict, InvalidUsage, SourceChanged
from loupe.images.selection import SkippedFiles
from worker.queue.claims import Delivery
from worker.queue.local import LocalQueue
from worker.queue.records import ErrorLimit, Job, JobPlan, JobRequest
from worker.queue.steps import Shard
from worker.results import claims, outputs, receipts
from worker.sources.source import MAX_SHARDS
from worker.storage import parse_path, read_text, write_file

PLAN = "_part-slices.json"  # removed with the receipts
MAX_LISTED = 10  # slices in an error


@dataclass(frozen=True)
class Slice:
    """Every `of`-th shard of a job, beginning with shard `index`."""

    index: int
    of: int

    def __str__(self) -> str:
        return f"{self.index}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> "Slice":
        """Return the slice of a text such as `0/8`.

        Raises:
            InvalidUsage: If it has another form, or is out of range.
        """
        found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text, re.ASCII)
        if found is None:
            raise InvalidUsage(f"--slice is I/N, such as 0/8, not {text!r}.")
        index, of = int(found[1]), int(found[2])
        if not 1 <= of <= MAX_SHARDS:
            raise InvalidUsage(f"A job has 1 to {MAX_SHARDS:,} slices, not {of:,}.")
        if index >= of:
            raise InvalidUsage(
                f"There is no slice {text}: they are counted from 0, so the last is {of - 1}/{of}."
            )
        return cls(index, of)

    def of_shards(self, shards: Sequence[Shard]) -> list[Shard]:
        """Return the shards of this slice."""
        return [shard for shard in shards if shard.index % self.of == self.index]


class SlicePlan(BaseModel):
    """The plan of a job that is scored in slices.

    Attributes:
        job: Id of the job.
        slices: Their number.
        total: Records and skipped files of the source.
        revision: Version of the source.
        skipped_files: As in `Job`.
        started: Seconds since the epoch.
        shards: Start, stop and offset of each.
    """

    model_config = ConfigDict(frozen=True)

    job: str
    slices: int
    total: int
    revision: str
    skipped_files: SkippedFiles
    started: float
    shards: list[tuple[int, int, int]]

    @classmethod
    def made(cls, job: Job, slices: int, plan: JobPlan) -> "SlicePlan":
        """Return the plan of a job in so many slices."""
        return cls(
            job=job.id,
            slices=slices,
            total=plan.found,
            revision=plan.revision,
            skipped_files=plan.skipped,
            started=job.created,
            shards=[(shard.start, shard.stop, shard.offset) for shard in plan.shards],
        )

    def steps(self) -> list[Shard]:
        """Return the shards."""
        return [Shard(index, *shard) for index, shard in enumerate(self.shards)]

    def planned(self, request: JobRequest) -> Job:
        """Return the job, of which nothing is scored."""
        return Job(
            id=request.job_id,
            state="running",
            created=self.started,
            started=self.started,
            total=self.total,
            revision=self.revision,
            skipped_files=self.skipped_files,
            shards=len(self.shards),
            **dict(request),
        )

    def written(
        self, request: JobRequest, shards: Sequence[int] | None = None
    ) -> dict[int, receipts.Receipt]:
        """Return the receipts of those shards whose parts are written; by default of all."""
        count = len(self.shards)
        return dict(
            receipts.valid_receipts(
                parse_path(request.folder),
                range(count) if shards is None else shards,
                count,
                request.fingerprint(self.revision),
            )
        )


def read_plan(request: JobRequest) -> SlicePlan | None:
    """Return the plan of a job, if a slice has written it."""
    with suppress(FileNotFoundError, ValidationError):
        plan = SlicePlan.model_validate_json(read_text(parse_path(request.folder) / PLAN))
        if plan.job == request.job_id:
            return plan
    return None


def write_plan(request: JobRequest, plan: SlicePlan, *, new: bool = False) -> None:
    """Write a plan.

    Raises:
        FileExistsError: If it has to be new, and there is one.
    """
    write_file(parse_path(request.folder) / PLAN, plan.model_dump_json() + "\n", new=new)


def check_slices(plan: SlicePlan, of: int) -> None:
    """Raise `Conflict` unless a plan has this number of slices."""
    if plan.slices != of:
        raise Conflict(
            f"Job '{plan.job}' is planned for {plan.slices:,} slices, not {of:,}. "
            f"Use --slice I/{plan.slices}.",
            code="slices_differ",
        )


def _publish(request: JobRequest, made: SlicePlan) -> SlicePlan:
    """Write a plan, unless another slice was faster; return the plan that counts."""
    try:
        write_plan(request, made, new=True)
    except FileExistsError:
        found = read_plan(request)
        if found is None:  # damaged, or of a job that was replaced
            write_plan(request, made)
            return made
        check_slices(found, made.slices)
        if found.revision != made.revision:
            claims.remove(outputs.index_path(parse_path(request.folder), made.revision))
            raise SourceChanged(
                f"'{request.source}' has changed since another slice planned the job. "
                "Choose another output folder."
            ) from None
        return found
    return made


def is_summarized(request: JobRequest) -> bool:
    """Return whether a job is summarized, and so needs no slice any more."""
    folder = parse_path(request.folder)
    with suppress(FileNotFoundError, ValueError):
        summary = outputs.read_summary(folder)
        if summary["job"] == request.job_id and summary["state"] == "done":
            return not request.options.single or claims.merged_file(folder, request).exists()
    return False


class SliceQueue(LocalQueue):
    """The shards of one slice. When they are committed, the queue ends without a final step."""

    def __init__(
        self, request: JobRequest, max_attempts: int, part: Slice, plan: SlicePlan | None
    ) -> None:
        super().__init__(request, max_attempts)
        self.worker = f"slice {part}"
        self._part = part
        self._request = request
        if plan is not None:
            self._waiting.clear()
            self._take(plan)
            if not self._left:
                self._close()

    def commit_plan(
        self, delivery: Delivery, plan: JobPlan, limit: ErrorLimit | None = None
    ) -> bool:
        """Write the plan, and begin with the shards of the slice; see `Claims.commit_plan`."""
        published = _publish(self._request, SlicePlan.made(self._job, self._part.of, plan))
        with self._changing:
            self._take(published)
            return self._complete(delivery)

    def commit_shard(
        self, delivery: Delivery, done: int, failed: int, limit: ErrorLimit | None = None
    ) -> bool:
        """See `Claims.commit_shard`; `False` if the job has ended, too."""
        super().commit_shard(delivery, done, failed, limit)
        if not is_summarized(self._request):
            return True
        # The plan's index was made again for this shard.
        claims.remove(outputs.index_path(parse_path(self._job.folder), self._job.revision))
        return False

    def _take(self, plan: SlicePlan) -> None:
        """Start to score the shards of the slice; the job's counts are those of the slice."""
        shards = self._part.of_shards(plan.steps())
        kept = plan.written(self._request, [shard.index for shard in shards])
        total = sum(shard.stop - shard.start for shard in shards)
        self._job = replace(plan.planned(self._request), total=total, skipped_files={})
        done = sum(receipt.done for receipt in kept.values())
        self._start(shards, [*kept], done, sum(receipt.failed for receipt in kept.values()))

    def _close(self) -> None:
        self._end(state="cancelled" if self._job.state == "cancelling" else "done")


def finishing_queue(request: JobRequest, max_attempts: int) -> LocalQueue:
    """Return a queue with the final step of a job whose slices are all written.

    Raises:
        Conflict: If no slice has planned the job, or parts are missing (code `slices_missing`).
    """
    plan = read_plan(request)
    if plan is None:
        raise Conflict(
            f"No slice of this job has written a plan to '{request.output}'. Score its slices "
            "with the same options, and --slice I/N instead of --finish.",
            code="slices_missing",
        )
    written = plan.written(request)
    if missing := sorted(
        {index % plan.slices for index in range(len(plan.shards)) if index not in written}
    ):
        raise _missing(plan, missing)
    done = sum(receipt.done for receipt in written.values())
    failed = sum(receipt.failed for receipt in written.values())
    job = replace(plan.planned(request), state="finishing", done=done, failed=failed)
    return LocalQueue(request, max_attempts, job)


def _missing(plan: SlicePlan, slices: Sequence[int]) -> Conflict:
    names = ", ".join(f"{index}/{plan.slices}" for index in slices[:MAX_LISTED])
    more = f" and {len(slices) - MAX_LISTED:,} more" if len(slices) > MAX_LISTED else ""
    return Conflict(
        f"{len(slices):,} of {plan.slices:,} slices are not done: {names}{more}. "
        "Run them with --slice, then --finish again.",
        code="slices_missing",
    )
