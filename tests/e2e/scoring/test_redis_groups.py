"""Jobs on a Redis that fails over, and on a cluster."""

import itertools
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import httpx
import numpy as np
import pyarrow.parquet as pq
from redis.exceptions import RedisError

from loupe.models.store import StoredModel
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from tests.support import pictures
from tests.support.job_requests import submit
from tests.support.programs import running, serving, until
from tests.support.servers.redis_groups import cluster_url, node_of, redis_cluster, watched_redis
from worker.queue import submission
from worker.queue.jobs import Jobs
from worker.queue.keys import job_key
from worker.queue.submission import prepare

IMAGES = 12_000
LEASE = {"LOUPE_LEASE_SECONDS": 1}


def images_in(folder: Path) -> Path:
    np.save(folder / "images.npy", np.resize(pictures.digits(100), (IMAGES, 28, 28)))
    return folder / "images.npy"


def rows_of(output: Path) -> list[int]:
    """Return the ids in a result, in order."""
    files = output.glob("predictions-*.parquet")
    return sorted(row for file in files for row in pq.read_table(file)["id"].to_pylist())


def are_done(jobs: Jobs, ids: Iterable[str]) -> bool:
    """Return whether jobs are done; no while Redis does not answer."""
    with suppress(RedisError):
        return {jobs.get(job_id).state for job_id in ids} == {"done"}
    return False


def test_a_failover_loses_and_doubles_no_row(tmp_path: Path, digits_model: StoredModel) -> None:
    log = tmp_path / "log"
    with (
        watched_redis(tmp_path / "redis", sentinels=1) as group,
        open_redis(Settings(redis_url=group.url)) as redis,
        running(log, "worker", LOUPE_REDIS_URL=group.url, **LEASE) as worker,
    ):
        jobs = Jobs(redis)
        job = submit(jobs, images_in(tmp_path), tmp_path / "out", digits_model.tag, 50)
        until(lambda: jobs.get(job.id).done)
        group.fail_over()
        assert jobs.get(job.id).state == "running"
        late = submit(jobs, tmp_path / "images.npy", tmp_path / "late", digits_model.tag, 4000)
        until(lambda: are_done(jobs, (job.id, late.id)))
        assert jobs.get(job.id).done == jobs.get(late.id).done == IMAGES
        worker.terminate()
        assert worker.wait(30) == 0

    for name in ("out", "late"):
        assert rows_of(tmp_path / name) == list(range(IMAGES))
    assert "Traceback" not in log.read_text()


def test_a_service_and_workers_share_a_cluster(tmp_path: Path, digits_model: StoredModel) -> None:
    with redis_cluster(tmp_path / "redis", appendonly="yes") as nodes:
        url = cluster_url(nodes)
        variables = {"LOUPE_REDIS_URL": url, "LOUPE_DATA_DIR": tmp_path / "data", **LEASE}
        with (
            open_redis(Settings(redis_url=url)) as redis,
            running(tmp_path / "worker.log", "worker", **variables) as worker,
            serving(tmp_path / "log", **variables, LOUPE_MODEL=digits_model.tag) as service,
        ):
            jobs = Jobs(redis)
            source = images_in(tmp_path)
            submitted = [
                submit(jobs, source, tmp_path / f"out-{number}", digits_model.tag, 500)
                for number in range(3)
            ]
            sent = httpx.post(
                f"{service.url}/jobs",
                content=source.read_bytes(),
                headers={"Content-Type": "application/octet-stream"},
                timeout=30,
            )
            assert sent.status_code == 202, sent.text
            listed = httpx.get(f"{service.url}/jobs").json()["jobs"]
            ids = {sent.json()["id"], *(job.id for job in submitted)}
            assert {job["id"] for job in listed} == ids
            until(lambda: jobs.get(submitted[0].id).done)
            nodes[0].process.kill()
            nodes[0].process.wait()
            nodes[0].start_again()
            until(lambda: are_done(jobs, ids))
            metrics = httpx.get(f"{service.url}/metrics").text
            assert "loupe_queue_reachable 1" in metrics
            worker.terminate()
            assert worker.wait(30) == 0

    for job in submitted:
        assert rows_of(Path(job.output)) == list(range(IMAGES))
    assert "Traceback" not in (tmp_path / "worker.log").read_text()


def test_a_failover_in_a_cluster_loses_and_doubles_no_row(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    log, source = tmp_path / "log", images_in(tmp_path)
    with redis_cluster(tmp_path / "redis", has_replica=True) as (*nodes, replica):
        url, primary = cluster_url(nodes), nodes[-1]
        with (
            open_redis(Settings(redis_url=url)) as redis,
            running(log, "worker", LOUPE_REDIS_URL=url, **LEASE) as worker,
        ):
            jobs = Jobs(redis)
            outputs = (tmp_path / f"out-{number}" for number in itertools.count())
            prepared = (prepare(jobs.find, source, each, digits_model.tag, 50) for each in outputs)
            on_primary = next(
                each for each in prepared if node_of(nodes, job_key(each.request.job_id)) is primary
            )
            job = submission.submit(jobs, on_primary)
            other = submit(jobs, source, tmp_path / "other", digits_model.tag, 500)
            until(lambda: jobs.get(job.id).done)
            primary.process.kill()
            primary.process.wait()
            until(lambda: replica.client.info("replication")["role"] == "master")
            assert until(lambda: _state(jobs, job.id)) == "running"
            late = submit(jobs, source, tmp_path / "late", digits_model.tag, 4000)
            until(lambda: are_done(jobs, (job.id, other.id, late.id)))
            assert {jobs.get(each.id).done for each in (job, other, late)} == {IMAGES}
            worker.terminate()
            assert worker.wait(30) == 0

    for each in (job, other, late):
        assert rows_of(Path(each.output)) == list(range(IMAGES))
    assert "Traceback" not in log.read_text()


def _state(jobs: Jobs, job_id: str) -> str | None:
    """Return the state of a job, or `None` while Redis does not answer."""
    with suppress(RedisError):
        return jobs.get(job_id).state
    return None
