"""The first and the last step: cut the source into shards, and summarize their results."""

import logging
from collections.abc import Sequence

from loupe.errors import LoupeError
from loupe.images.selection import Skipped
from loupe.images.spec import UInt8Array
from loupe.models.certainty import LEVEL
from worker.metrics import ShardClock
from worker.queue.records import JobPlan
from worker.results import claims, outputs, receipts
from worker.results.formats import check_kept_columns, column_names
from worker.results.statistics import StepStatistics
from worker.scoring.task import Task

logger = logging.getLogger(__name__)


def plan_job(task: Task) -> JobPlan:
    """Plan the job, write the plan index, and find parts that an earlier run has finished."""
    job, output, clock = task.job, task.output, ShardClock()
    model = task.find_model()
    check_kept_columns(model.card.class_names, job.options)
    source = task.open_source(model)
    output.mkdir(mode=0o700, parents=True, exist_ok=True)
    claims.remove_replaced(output, job.request)
    with outputs.temporary_index(output) as index:
        with clock.phase("plan"):
            plan = source.plan(job.shard_images, index)
        columns = column_names(model.card.class_names, job.options, source.column_types(index))
        outputs.publish_index(output, index, plan.revision)
    outputs.write_columns(output, columns)
    statistics = StepStatistics([task.resources.worker], dict(clock.seconds))
    receipts.write_plan_statistics(output, statistics)
    fingerprint = job.request.fingerprint(plan.revision)
    skipped = Skipped()
    skipped.update(plan.skipped)
    skipped.update(job.not_sent)
    count = len(plan.shards)
    kept = dict(receipts.valid_receipts(output, range(count), count, fingerprint))
    return JobPlan(
        plan.total,
        plan.revision,
        shards=plan.shards,
        kept=list(kept),
        done=sum(receipt.done for receipt in kept.values()),
        failed=sum(receipt.failed for receipt in kept.values()),
        skipped=skipped.files,
    )


def finish_job(task: Task, shards: Sequence[int]) -> None:
    """Write the summary of these shards, and remove what only the running job needed."""
    job, output = task.job, task.output
    card = task.find_model().card
    level = card.familiarity.level if card.familiarity else LEVEL
    statistics = receipts.total_statistics(output, shards, job.shards)
    originals = _originals(task, statistics)
    outputs.write_summary(output, job, card.class_names, shards, statistics, originals, level=level)


def _originals(task: Task, statistics: StepStatistics) -> dict[str, UInt8Array]:
    """Return the original pictures of the images on the contact sheets, as far as they exist."""
    ids = {image.id for image in (*statistics.sample, *statistics.least_confident)}
    if not ids:
        return {}
    try:
        source = task.open_source(task.find_model())
        return source.previews(ids, task.find_index(source))
    except (LoupeError, OSError) as error:
        logger.warning("The contact sheets of job %s lack the originals: %s", task.job.id, error)
        return {}
