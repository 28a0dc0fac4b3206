"""The queue without scoring: memory of jobs in Redis, and shards per second from one Redis."""

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

from redis import Redis

from bench.bulk.workers import redis_over_tcp
from bench.harness import Row, at_least, at_most, in_turns
from loupe.models.store import StoredModel
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.records import JobPlan, JobRequest
from worker.queue.steps import Shard
from worker.sources.opening import open_source
from worker.sources.source import ShardPlan, cut

IMAGES = 1_000_000
MEMORY_TARGET = at_most(5)  # MB
WORKERS = 8
JOBS = 4  # in the queue
SHARDS = 20_000  # per job: more than the workers finish in a round
ROUNDS = 3
ROUND_SECONDS = 5
RATE_TARGET = at_least(1500)  # shards per second
CARD_DIGEST = "0" * 64  # not checked, since nothing is scored


def measure(model: StoredModel) -> Iterator[Row]:
    """Measure megabytes in Redis and shards per second."""
    with tempfile.TemporaryDirectory() as name:
        yield _measure_memory(model, Path(name))
        yield _measure_rate(model, Path(name))


def _measure_memory(model: StoredModel, folder: Path) -> Row:
    """Sum the memory of all keys after the planning of a job, and after its last shard."""
    listing = folder / "listing.csv"
    paths = (f"pictures/{number:07d}.png\n" for number in range(IMAGES))
    listing.write_text("path\n" + "".join(paths))
    settings = Settings(data_dir=folder / "data")
    source = open_source(listing, model.card.input, settings.max_image_pixels)
    plan = source.plan(settings.shard_images, folder)
    with open_redis(settings) as redis:
        queue = _open_queue(redis)
        _submit_planned(redis, queue, model, plan, 1)
        queued = _used_megabytes(redis)
        while _process_shard(queue):
            pass
        scored = _used_megabytes(redis)
    what = f"Redis memory of {IMAGES:,} queued images, {len(plan.shards)} shards: MB"
    figures = f"{queued:.3f} MB, {scored:.3f} MB when all are scored"
    return Row(what, figures, ratio=max(queued, scored), target=MEMORY_TARGET)


def _used_megabytes(redis: Redis) -> float:
    return sum(redis.memory_usage(key, samples=0) or 0 for key in redis.scan_iter()) / 1e6


def _measure_rate(model: StoredModel, folder: Path) -> Row:
    """Measure the shards that all worker processes together claim and commit."""
    context = get_context("spawn")
    barrier = context.Barrier(WORKERS)  # no process works before all have started
    with (
        redis_over_tcp(folder) as url,
        ProcessPoolExecutor(WORKERS, context, initializer=barrier.wait) as processes,
    ):
        run = partial(_shards_per_second, model, url, processes)
        rates = in_turns({"": run}, ROUNDS)[""]
    what = f"shards that {WORKERS} workers claim and commit, one Redis over TCP: per second"
    rate = median(rates)
    return Row(what, f"{rate:,.0f} shards/s", ratio=rate, target=RATE_TARGET)


def _shards_per_second(model: StoredModel, url: str, processes: Executor) -> float:
    shard_images = Settings().shard_images
    total = SHARDS * shard_images
    plan = ShardPlan(total, "revision", cut(total, shard_images))
    with open_redis(Settings(redis_url=url)) as redis:
        redis.flushdb()
        _submit_planned(redis, _open_queue(redis), model, plan, JOBS)
    return sum(processes.map(_work, [url] * WORKERS))


def _work(url: str) -> float:
    """Return the shards per second of one worker process."""
    with open_redis(Settings(redis_url=url)) as redis:
        queue = _open_queue(redis)
        started, shards = time.perf_counter(), 0
        while (duration := time.perf_counter() - started) < ROUND_SECONDS:
            if not _process_shard(queue):
                raise RuntimeError(f"{JOBS * SHARDS:,} shards are too few for {ROUND_SECONDS} s.")
            shards += 1
    return shards / duration


def _open_queue(redis: Redis) -> Claims:
    settings = Settings()
    return Claims(
        redis,
        f"bench-{os.getpid()}-0",
        lease_seconds=settings.lease_seconds,
        max_attempts=settings.max_attempts,
    )


def _submit_planned(
    redis: Redis, queue: Claims, model: StoredModel, plan: ShardPlan, jobs: int
) -> None:
    """Put jobs with the same plan into an empty queue."""
    for number in range(jobs):
        output = f"/output-{number}"
        shard_images = Settings().shard_images
        request = JobRequest(
            source="/source",
            output=output,
            model=model.tag,
            model_digest=CARD_DIGEST,
            shard_images=shard_images,
        )
        Jobs(redis).submit(request)
    for delivery in [queue.claim() for _ in range(jobs)]:
        assert delivery is not None
        assert queue.commit_plan(delivery, JobPlan(plan.total, plan.revision, plan.shards))


def _process_shard(queue: Claims) -> bool:
    """Claim a shard and commit it as if it had been scored. Return False if there is none."""
    delivery = queue.claim()
    if delivery is None or not isinstance(delivery.step, Shard):
        return False
    return queue.commit_shard(delivery, delivery.step.stop - delivery.step.start, 0)
