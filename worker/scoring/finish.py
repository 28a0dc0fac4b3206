"""The last step: write the summary."""

from collections.abc import Sequence

from worker.results import outputs, receipts
from worker.scoring.task import Task


def finish_job(task: Task, shards: Sequence[int]) -> None:
    """Write the summary of these shards, and remove what only the running job needed."""
    job, output = task.job, task.output
    class_names = task.find_model().card.class_names
    statistics = receipts.total_statistics(output, shards, job.shards)
    outputs.write_summary(output, job, class_names, shards, statistics)
