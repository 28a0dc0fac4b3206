"""The queue as the service shows it, to Prometheus and to what starts workers."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette

from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.app import create_app
from tests.support.job_requests import new_request
from tests.support.servers.redis_servers import RedisServer, redis_server
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.records import JobPlan
from worker.queue.steps import Shard


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


@pytest.fixture
def app(server: RedisServer, tmp_path: Path, digits_model: StoredModel) -> Starlette:
    settings = Settings(model=digits_model.tag, redis_url=server.url, data_dir=tmp_path / "data")
    app = create_app(settings)
    app.state.predictor.models.load()
    return app


def answers(app: Starlette, *paths: str) -> list[httpx.Response]:
    async def ask() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://loupe") as client:
            found = [await client.get(path) for path in paths]
        await app.state.predictor.close()
        return found

    return asyncio.run(ask())


def queue_of(metrics: str) -> list[str]:
    return [line for line in metrics.splitlines() if line.startswith("loupe_queue_")]


def test_backlog_counts_the_steps_of_all_jobs_wherever_they_are(
    app: Starlette, server: RedisServer
) -> None:
    jobs, claims = (
        Jobs(server.client),
        Claims(server.client, "a", lease_seconds=300, max_attempts=2),
    )
    jobs.submit(new_request())
    plan = claims.claim()
    assert plan is not None
    claims.commit_plan(plan, JobPlan(9, "revision", [Shard(at, at, at + 1) for at in range(9)]))
    assert claims.claim()  # a worker has it
    jobs.submit(new_request())

    few, many = answers(app, "/jobs/backlog", "/jobs/backlog?steps_per_worker=2")

    assert few.json() == {"steps": 10, "workers_wanted": 2}
    assert many.json() == {"steps": 10, "workers_wanted": 5}


def test_empty_queue_wants_no_worker(app: Starlette) -> None:
    [empty] = answers(app, "/jobs/backlog")

    assert empty.json() == {"steps": 0, "workers_wanted": 0}


def test_metrics_describe_the_queue_when_no_worker_runs(
    app: Starlette, server: RedisServer
) -> None:
    Jobs(server.client).submit(new_request())

    [metrics] = answers(app, "/metrics")

    assert 'loupe_queue_steps{place="waiting"} 1.0' in queue_of(metrics.text)
    assert 'loupe_queue_jobs{state="queued"} 1.0' in queue_of(metrics.text)
    assert "loupe_queue_reachable 1.0" in queue_of(metrics.text)


def test_metrics_say_that_redis_does_not_answer(app: Starlette, server: RedisServer) -> None:
    server.process.kill()
    server.process.wait()

    [metrics] = answers(app, "/metrics")

    assert queue_of(metrics.text) == ["loupe_queue_reachable 0.0"]
    assert "loupe_requests_total" in metrics.text


def test_scrape_starts_no_embedded_redis(tmp_path: Path, digits_model: StoredModel) -> None:
    app = create_app(Settings(model=digits_model.tag, data_dir=tmp_path / "data"))
    app.state.predictor.models.load()

    [metrics] = answers(app, "/metrics")

    assert queue_of(metrics.text) == []
    assert not (tmp_path / "data").exists()
