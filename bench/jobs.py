"""What people wait for: the start of a job, a small job behind a big one, and a shard whose worker was killed."""

import random
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from statistics import median

import numpy as np

from bench.pictures import find_images
from bench.report import Row, at_most, median_ratio
from bench.turns import in_turns, seconds
from bench.workers import Workers, until, working
from loupe.store import StoredModel
from worker.submission import cancel

SHARD_IMAGES = 1024
STARTS = 20
START_TARGET = at_most(0.2)  # seconds
IDLE_SECONDS = 0.3  # at most, before a submission: workers are not always at the same point of their waiting
SMALL_SHARDS, BIG_SHARDS = 20, 200
SHARE_ROUNDS = 3
SHARE_TARGET = at_most(2.5)
KILLS = 3
LONG_SHARD_SECONDS = 10  # at the speed of a hurried worker; the shard must outlive the lease
HURRY = 30_000  # images per second that no worker of one thread reaches
KILL_TARGET = at_most(5)  # seconds
ALONE, BEHIND = "alone", "behind the big one"


def measure(model: StoredModel) -> Iterator[Row]:
    """Seconds, with workers that wait for jobs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with working(model, folder) as worker:
            yield _start(worker, _array(model, folder, 4 * SHARD_IMAGES))
            yield _share(worker, *(_array(model, folder, n * SHARD_IMAGES) for n in (SMALL_SHARDS, BIG_SHARDS)))
        yield _kill(model, folder, _array(model, folder, HURRY * LONG_SHARD_SECONDS))


def _array(model: StoredModel, folder: Path, images: int) -> Path:
    path = folder / f"{images}.npy"
    np.save(path, find_images(model, images))
    return path


def _start(worker: Workers, source: Path) -> Row:
    """From the call of `submit`, which looks at the source and the model, to the claim of the first shard."""
    worker.score(source)  # loads the model
    times = []
    for _ in range(STARTS):
        time.sleep(random.uniform(0, IDLE_SECONDS))
        begun = time.perf_counter()
        job = worker.submit(source, SHARD_IMAGES)
        until(lambda job=job: worker.holder(job))  # type: ignore[misc]
        times.append(time.perf_counter() - begun)
        worker.finish(job)
    what = "from submit to the first shard, idle worker: seconds"
    return Row(what, f"{median(times):.3f} s, at most {max(times):.3f} s", ratio=median(times), target=START_TARGET)


def _share(worker: Workers, small: Path, big: Path) -> Row:
    """Seconds of a small job alone, and submitted while a big one runs, which is not finished."""

    def score() -> float:
        return seconds(lambda: worker.finish(worker.submit(small, SHARD_IMAGES)))

    def score_behind() -> float:
        before = worker.submit(big, SHARD_IMAGES)
        until(lambda: worker.holder(before))
        taken = score()
        cancel(worker.jobs, before.id)
        worker.finish(before)
        return taken

    times = in_turns({ALONE: score, BEHIND: score_behind}, SHARE_ROUNDS)
    return Row(
        f"{SMALL_SHARDS} shards behind {BIG_SHARDS}, one worker",
        f"{median(times[BEHIND]):.2f} s",
        f"{ALONE}\n{median(times[ALONE]):.2f} s",
        median_ratio(times[BEHIND], times[ALONE]),
        SHARE_TARGET,
    )


def _kill(model: StoredModel, folder: Path, source: Path) -> Row:
    times = [_seconds_to_next_worker(model, folder, source) for _ in range(KILLS)]
    what = "kill -9 of a worker, another one idle: seconds until its shard runs again"
    return Row(what, f"{median(times):.2f} s, at most {max(times):.2f} s", ratio=max(times), target=KILL_TARGET)


def _seconds_to_next_worker(model: StoredModel, folder: Path, source: Path) -> float:
    with working(model, folder, count=2, LOUPE_THREADS="1") as workers:
        job = workers.submit(source, shard_images=HURRY * LONG_SHARD_SECONDS)  # one shard
        until(lambda: workers.holder(job))
        first = str(workers.holder(job))
        time.sleep(random.uniform(0, 1))  # the lease was renewed a while ago, or just now
        workers.kill(first)
        taken = seconds(partial(until, lambda: workers.holder(job) not in {None, first}))
        cancel(workers.jobs, job.id)
        workers.finish(job)
        return taken
