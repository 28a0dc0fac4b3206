"""Webhooks, sent to a server that answers as a test says."""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import httpx
import pytest
from pydantic import SecretStr

from loupe.errors import InvalidSetting
from loupe.settings import Settings
from service.jobs.queue import JobQueue
from service.jobs.webhooks import MAX_AGE_SECONDS, Webhooks, read_secret
from service.metrics import Metrics
from tests.support.job_requests import new_request
from tests.support.servers.redis_servers import RedisServer, redis_server
from tests.support.servers.webhook_receiver import SECRET, Receiver, is_genuine, receiving
from worker.queue.jobs import Jobs
from worker.queue.keys import WEBHOOKS, job_key
from worker.queue.records import Job
from worker.queue.webhooks import job_of, submission_of


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


def ended(server: RedisServer, state: str = "done", seconds: float = 0) -> Job:
    """Return a job that ended some seconds ago."""
    jobs = Jobs(server.client)
    job = jobs.submit(new_request(), owner="alice", webhook=True)
    finished = str(time.time() - seconds)
    server.client.hset(job_key(job.id), mapping={"state": state, "finished": finished})
    return jobs.get(job.id)


def send(
    server: RedisServer, url: str, times: int = 1, metrics: Metrics | None = None
) -> Counter[str]:
    """Look for due webhooks, and for the oldest one; return the attempts by outcome."""
    metrics = metrics or Metrics()
    metrics.webhooks.clear()

    async def run() -> None:
        queue = JobQueue(Settings(redis_url=server.url))
        secret = read_secret(Settings(webhook_secret=SecretStr(SECRET)))
        webhooks = Webhooks(url, secret, queue, metrics)
        async with httpx.AsyncClient() as client:
            for _ in range(times):
                await webhooks.send_due(client)
            await webhooks.measure()
        await queue.close()

    asyncio.run(run())
    return Counter({outcome: count for (outcome,), count in metrics.webhooks.items()})


def waiting(server: RedisServer) -> dict[str, float]:
    """Return the seconds until the next look, by job."""
    found = server.client.zrange(WEBHOOKS, 0, -1, withscores=True)
    pending = cast("list[tuple[str, float]]", found)
    return {job_of(submission): at - time.time() for submission, at in pending}


@pytest.mark.parametrize("state", ["done", "failed", "cancelled"])
def test_end_of_a_job_is_sent_once_with_a_signature(
    server: RedisServer, receiver: Receiver, state: str
) -> None:
    job = ended(server, state)

    assert send(server, receiver.url, times=2) == {"delivered": 1}
    ((headers, body),) = receiver.got
    assert is_genuine(headers, body)
    assert not is_genuine(headers, body + b" ")
    assert not is_genuine(headers, body, SECRET.replace("A", "B"))
    assert not is_genuine(headers | {"webhook-timestamp": str(int(time.time()) - 301)}, body)
    sent = json.loads(body)
    assert sent["type"] == f"job.{state}"
    assert sent["data"] == {**json.loads(json.dumps(job.to_json())), "owner": "alice"}
    assert headers["webhook-id"].startswith(job.id)
    assert headers["content-type"] == "application/json"
    assert waiting(server) == {}


def test_job_that_has_not_ended_is_looked_at_again(server: RedisServer, receiver: Receiver) -> None:
    job = Jobs(server.client).submit(new_request(), webhook=True)
    gone = Jobs(server.client).submit(new_request(), webhook=True)
    server.client.delete(job_key(gone.id))

    assert send(server, receiver.url) == {}
    assert receiver.got == []
    ((job_id, seconds),) = waiting(server).items()
    assert (job_id, 0 < seconds <= 1) == (job.id, True)


@pytest.mark.parametrize("status", [302, 404, 500])
def test_refused_webhook_is_sent_again_later(
    server: RedisServer, receiver: Receiver, status: int
) -> None:
    receiver.statuses = [status]
    job = ended(server, seconds=100)

    assert send(server, receiver.url, times=2) == {"retried": 1}
    assert 95 < waiting(server)[job.id] < 110
    Jobs(server.client).webhooks.postpone({submission_of(job): 0})
    assert send(server, receiver.url) == {"delivered": 1}
    first, second = (headers for headers, _ in receiver.got)
    assert first["webhook-id"] == second["webhook-id"]


def test_receiver_that_does_not_answer_is_tried_for_hours(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    new, old = ended(server), ended(server, seconds=MAX_AGE_SECONDS + 1)

    assert send(server, "http://127.0.0.1:1/?token=secret") == {"retried": 1, "failed": 1}
    assert waiting(server).keys() == {new.id}
    assert old.id in caplog.text
    assert "secret" not in caplog.text


def test_age_of_the_oldest_webhook_is_known_until_it_is_delivered(
    server: RedisServer, receiver: Receiver
) -> None:
    def oldest_seconds() -> float:
        collected = metrics.collected({}, [])
        return next(each for each in collected if "oldest" in each.name).samples[0].value

    metrics = Metrics()
    late = ended(server, seconds=100)
    ended(server, seconds=50)
    Jobs(server.client).submit(new_request(), webhook=True)
    receiver.statuses = [500, 500]

    assert send(server, receiver.url, metrics=metrics) == {"retried": 2}
    assert 100 <= oldest_seconds() < 110
    Jobs(server.client).webhooks.postpone({submission_of(late): 0})
    assert send(server, receiver.url, metrics=metrics) == {"delivered": 1}
    assert 50 <= oldest_seconds() < 60
    Jobs(server.client).webhooks.remove(Jobs(server.client).webhooks.last(9))
    send(server, receiver.url, metrics=metrics)
    assert oldest_seconds() == 0


def test_many_ends_are_sent_in_several_looks(
    server: RedisServer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.jobs.webhooks.MAX_SENT", 2)
    jobs = [ended(server) for _ in range(3)]

    assert send(server, receiver.url) == {"delivered": 2}
    assert send(server, receiver.url) == {"delivered": 1}
    assert {json.loads(body)["data"]["id"] for _, body in receiver.got} == {job.id for job in jobs}


@pytest.mark.parametrize(
    "secret",
    [None, "", "whsec_", "whsec_c2hvcnQ=", f"whsec_{'A' * 100}", "whsec_not base64", SECRET[6:]],
)
def test_missing_or_invalid_secret_is_reported(secret: str | None) -> None:
    given = None if secret is None else SecretStr(secret)
    with pytest.raises(InvalidSetting, match="LOUPE_WEBHOOK_SECRET") as refused:
        read_secret(Settings(webhook_url="https://hooks.example", webhook_secret=given))
    random = (secret or "").removeprefix("whsec_")
    assert not random or random not in refused.value.message
