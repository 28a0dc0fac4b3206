"""The step that looks for a bad record: score some records of a shard by themselves."""

from itertools import islice

from worker.metrics import ShardClock
from worker.queue.steps import Probe, Shard
from worker.scoring import bisection
from worker.scoring import task as tasks
from worker.scoring.failures import blame_records
from worker.scoring.task import Task


def probe_records(task: Task, probe: Probe) -> Shard | Probe | None:
    """Return the step that follows if all records are scored; `None` if the lease is lost."""
    model, engine = task.load_model()
    first, stop = bisection.probed(probe)
    with blame_records():
        for batch in islice(task.batches(probe.shard, model, one_by_one=True), first, stop):
            if task.progress.lost:
                return None
            tasks.score_batch(engine, ShardClock(), batch)
    return None if task.progress.lost else bisection.after_success(probe)
