"""The metrics of a worker: jobs on a real Redis, read over real HTTP."""

import signal
import socket
from pathlib import Path

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families
from redis import Redis

from loupe.errors import ProgramFailed
from loupe.models.store import StoredModel
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from tests.support import pictures
from tests.support.job_requests import new_request, submit
from tests.support.programs import free_port
from tests.support.servers.redis_servers import redis_server
from worker.metrics import PROMPT, Metrics, serve_metrics
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.records import JobPlan
from worker.queue.steps import Shard
from worker.scoring.consumer import Consumer


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", worker_metrics_port=free_port())


@pytest.fixture
def claims(redis: Redis) -> Claims:
    return Claims(redis, "a", lease_seconds=300, max_attempts=2)


def scraped(settings: Settings, patience_seconds: float = 5) -> dict[str, float]:
    """All samples, as `name{value of each label}`."""
    url = f"http://127.0.0.1:{settings.worker_metrics_port}/metrics"
    text = httpx.get(url, timeout=patience_seconds).raise_for_status().text
    samples = [
        sample for family in text_string_to_metric_families(text) for sample in family.samples
    ]
    return {
        f"{sample.name}{{{','.join(sample.labels.values())}}}": sample.value for sample in samples
    }


def submitted(jobs: Jobs) -> str:
    return jobs.submit(new_request()).id


def test_images_and_steps_are_counted_and_shards_are_timed(
    redis: Redis, claims: Claims, settings: Settings, tmp_path: Path, digits_model: StoredModel
) -> None:
    (tmp_path / "images").mkdir()
    for place, image in enumerate(pictures.digits(7)):
        (tmp_path / "images" / f"{place}.png").write_bytes(pictures.png(image))
    (tmp_path / "images" / "broken.png").write_bytes(b"text")
    submit(Jobs(redis), tmp_path / "images", tmp_path / "out", digits_model.tag, 4)
    consumer = Consumer(Jobs(redis), claims, settings)
    consumer.run(burst=True)

    with serve_metrics(consumer.metrics, redis, settings):
        found = scraped(settings)
    assert (
        found["loupe_worker_images_total{scored}"],
        found["loupe_worker_images_total{failed}"],
    ) == (7, 1)
    assert found["loupe_worker_errors_total{invalid_image}"] == 1
    for kind, count in {"plan": 1, "shard": 2, "finish": 1}.items():
        assert found[f"loupe_worker_steps_total{{{kind},done}}"] == count
    for phase in ("read", "score", "write"):
        assert found[f"loupe_worker_shard_seconds_count{{{phase}}}"] == 2
        assert found[f"loupe_worker_shard_seconds_sum{{{phase}}}"] > 0
    assert found["process_resident_memory_bytes{}"] > 0


def test_failed_steps_are_counted_as_retried_and_claimed_again(
    redis: Redis, claims: Claims, settings: Settings, tmp_path: Path, digits_model: StoredModel
) -> None:
    np.save(tmp_path / "images.npy", pictures.digits(5))
    submit(Jobs(redis), tmp_path / "images.npy", tmp_path / "out", digits_model.tag, 4)
    assert claims.claim()  # by a worker that dies
    consumer = Consumer(
        Jobs(redis), Claims(redis, "b", lease_seconds=0.2, max_attempts=1), settings
    )
    delivery = None
    while delivery is None:
        delivery = consumer.claims.claim()
    consumer._process(delivery)

    with serve_metrics(consumer.metrics, redis, settings):
        found = scraped(settings)
    assert found["loupe_worker_steps_claimed_again_total{}"] == 1
    assert found["loupe_worker_steps_total{plan,failed}"] == 1


def test_the_depth_of_the_queue_is_that_of_all_jobs(
    redis: Redis, claims: Claims, settings: Settings
) -> None:
    jobs = Jobs(redis)
    submitted(jobs)
    plan = claims.claim()
    assert plan is not None
    shards = [Shard(index, index, index + 1) for index in range(5)]
    claims.commit_plan(plan, JobPlan(5, "revision", shards))
    submitted(jobs)
    first, second, planned = claims.claim(), claims.claim(), claims.claim()
    assert first is not None
    assert second is not None
    assert planned is not None
    assert planned.step.kind == "plan"
    claims.fail(second, "no luck")
    submitted(jobs)

    with serve_metrics(Metrics(), redis, settings):
        found = scraped(settings)
        places = {
            place: found[f"loupe_queue_steps{{{place}}}"]
            for place in ("waiting", "in_hand", "delayed")
        }
        assert places == {"waiting": 4, "in_hand": 2, "delayed": 1}
        assert found["loupe_queue_jobs{queued}"] == 1
        assert found["loupe_queue_jobs{running}"] == 1
        assert found["loupe_queue_jobs{planning}"] == 1
        age = found["loupe_queue_oldest_seconds{}"]
        assert 0 < age < scraped(settings)["loupe_queue_oldest_seconds{}"]


def test_series_for_alerts_start_at_zero(redis: Redis, settings: Settings) -> None:
    with serve_metrics(Metrics(), redis, settings):
        found = scraped(settings)

    assert found["loupe_worker_images_total{failed}"] == 0
    for kind in ("plan", "shard", "probe", "finish"):
        assert found[f"loupe_worker_steps_total{{{kind},failed}}"] == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "paused"])
def test_silent_redis_is_reported_before_prometheus_times_out(
    tmp_path: Path, settings: Settings, number: signal.Signals
) -> None:
    with (
        redis_server(tmp_path) as server,
        open_redis(Settings(redis_url=server.url), PROMPT) as prompt,
        serve_metrics(Metrics(), prompt, settings),
    ):
        assert scraped(settings)["loupe_queue_reachable{}"] == 1
        server.process.send_signal(number)
        found = scraped(settings, patience_seconds=10)

    assert found["loupe_queue_reachable{}"] == 0
    assert "loupe_queue_oldest_seconds{}" not in found
    assert found["loupe_worker_images_total{scored}"] == 0


def test_an_empty_queue_has_no_depth(redis: Redis, settings: Settings) -> None:
    with serve_metrics(Metrics(), redis, settings):
        found = scraped(settings)

    assert found["loupe_queue_steps{waiting}"] == found["loupe_queue_oldest_seconds{}"] == 0


def test_taken_port_is_reported_with_its_setting(redis: Redis, settings: Settings) -> None:
    address = ("127.0.0.1", settings.worker_metrics_port)
    with (
        socket.create_server(address),
        pytest.raises(ProgramFailed, match="LOUPE_WORKER_METRICS_PORT"),
        serve_metrics(Metrics(), redis, settings),
    ):
        pass


def test_without_a_port_nothing_listens(redis: Redis, tmp_path: Path) -> None:
    metrics = Metrics()
    with serve_metrics(metrics, redis, Settings(data_dir=tmp_path)):
        assert metrics.registry.get_sample_value("loupe_queue_oldest_seconds") is None
