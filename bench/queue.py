"""The queue alone, with nothing to score: the memory that jobs take in Redis, and the shards that one Redis hands out."""

import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from redis import Redis

from bench.redis import redis_over_tcp
from bench.report import Row, at_least, at_most
from bench.turns import in_turns
from loupe.card import FILE_NAME, digest
from loupe.redis_server import open_redis
from loupe.settings import Settings
from loupe.store import StoredModel
from worker.consumer import worker_name
from worker.jobs import Jobs, Options, Request
from worker.queue import Queue
from worker.sources import Plan, open_source
from worker.sources.source import cut

IMAGES = 1_000_000
MEMORY_TARGET = at_most(5)  # MB
WORKERS = 8
JOBS = 4  # at a time
SHARDS = 20_000  # of each job: more than the workers get through
ROUNDS = 3
ROUND_SECONDS = 5
RATE_TARGET = at_least(1500)  # shards per second
LOUPE = "Loupe"


def measure(model: StoredModel) -> Iterator[Row]:
    """Megabytes, and shards per second."""
    with tempfile.TemporaryDirectory() as name:
        yield _memory(model, Path(name))
        yield _rate(model, Path(name))


def _memory(model: StoredModel, folder: Path) -> Row:
    """What all keys take when a job of a listing is planned, and when all its shards are scored."""
    listing = folder / "listing.csv"
    listing.write_text("path\n" + "".join(f"pictures/{number:07d}.png\n" for number in range(IMAGES)))
    plan = open_source(listing, model.card.look, Settings().max_image_pixels).plan(Settings().shard_images, folder)
    with open_redis(Settings(data_dir=folder / "data")) as redis:
        queue = _queue(redis)
        _put(redis, queue, model, plan)
        queued = _megabytes(redis)
        while _commit_shard(queue):
            pass
        scored = _megabytes(redis)
    what = f"Redis memory of {IMAGES:,} queued images, {len(plan.shards)} shards: MB"
    return Row(
        what,
        f"{queued:.3f} MB, {scored:.3f} MB when all are scored",
        ratio=max(queued, scored),
        target=MEMORY_TARGET,
    )


def _megabytes(redis: Redis) -> float:
    return sum(redis.memory_usage(key, samples=0) or 0 for key in redis.scan_iter()) / 1e6


def _rate(model: StoredModel, folder: Path) -> Row:
    """Shards that worker processes claim and commit, all of them together, in jobs that take turns."""
    context = get_context("spawn")
    everybody = context.Barrier(WORKERS)  # no process works before all have started
    with (
        redis_over_tcp(folder) as url,
        ProcessPoolExecutor(WORKERS, context, initializer=everybody.wait) as processes,
    ):
        rates = in_turns({LOUPE: partial(_shards_per_second, model, url, processes)}, ROUNDS)[LOUPE]
    what = f"shards that {WORKERS} workers claim and commit, one Redis over TCP: per second"
    return Row(what, f"{median(rates):,.0f} shards/s", ratio=median(rates), target=RATE_TARGET)


def _shards_per_second(model: StoredModel, url: str, processes: Executor) -> float:
    total = SHARDS * Settings().shard_images
    plan = Plan(total, "made up", cut(total, Settings().shard_images))
    with open_redis(Settings(redis_url=url)) as redis:
        redis.flushdb()
        _put(redis, _queue(redis), model, plan, JOBS)
    return sum(processes.map(_work, [url] * WORKERS))


def _work(url: str) -> float:
    """Shards per second of one worker."""
    with open_redis(Settings(redis_url=url)) as redis:
        queue = _queue(redis)
        begun = time.perf_counter()
        committed = 0
        while (seconds := time.perf_counter() - begun) < ROUND_SECONDS:
            if not _commit_shard(queue):
                raise RuntimeError(f"Expected work for {ROUND_SECONDS:g} s. Received: {JOBS * SHARDS:,} shards.")
            committed += 1
    return committed / seconds


def _queue(redis: Redis) -> Queue:
    settings = Settings()
    return Queue(redis, worker_name(), lease_seconds=settings.lease_seconds, max_attempts=settings.max_attempts)


def _put(redis: Redis, queue: Queue, model: StoredModel, plan: Plan, jobs: int = 1) -> None:
    """Put jobs with this plan into an empty queue."""
    shard_images, card = Settings().shard_images, digest(model.folder / FILE_NAME)
    for number in range(jobs):
        Jobs(redis).submit(Request("/source", f"/output-{number}", model.tag, card, shard_images, Options()))
    for delivery in [queue.claim() for _ in range(jobs)]:
        if delivery is None or not queue.commit_plan(delivery, plan.total, plan.revision, plan.shards):
            raise RuntimeError(f"Expected {jobs} jobs to plan. Received: {delivery}.")


def _commit_shard(queue: Queue) -> bool:
    """Claim a shard and commit it, as if it had been scored; False if there is none."""
    delivery = queue.claim()
    if delivery is None or delivery.step["kind"] != "shard":
        return False
    return queue.commit_shard(delivery, delivery.step["stop"] - delivery.step["start"], 0)
