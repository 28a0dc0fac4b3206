"""Checks of Redis at the start of a program: the user's rights, eviction and persistence."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from loupe.runtime.redis_risks import find_risks
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from tests.support.job_requests import new_request
from tests.support.programs import run
from tests.support.servers.redis_groups import cluster_url, redis_cluster
from tests.support.servers.redis_servers import RedisServer, redis_server
from worker.queue.checks import check_redis
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.keys import SCRIPTS
from worker.queue.records import JobPlan
from worker.queue.steps import Finish, Plan, Shard

RULE = re.compile(r"ACL SETUSER loupe on >PASSWORD (.*)")


def documented_rule() -> list[str]:
    """Return the rights in the documentation."""
    found = RULE.search(Path("docs/scaling.md").read_text())
    assert found is not None
    return found[1].split()


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path, appendonly="yes") as server:
        yield server


def user_of(server: RedisServer, *more: str) -> str:
    """Create the documented user with other rights, and return its address."""
    rights = [*documented_rule(), *more]
    server.client.execute_command("ACL", "SETUSER", "loupe", "on", ">secret", *rights)  # type: ignore[no-untyped-call]
    return server.url.replace("://", "://loupe:secret@")


def finish_a_job(redis: Redis) -> None:
    jobs, claims = Jobs(redis), Claims(redis, "worker", lease_seconds=1, max_attempts=2)
    jobs.cancel(jobs.submit(new_request(output="/other")).id)
    jobs.submit(new_request())
    claims.send_heartbeat()
    assert jobs.workers() == ["worker"]
    assert jobs.depth().jobs["queued"] == 1
    kinds = []
    while delivery := claims.claim():
        kinds.append(type(delivery.step))
        assert claims.renew(delivery, 0)
        if isinstance(delivery.step, Plan):
            assert claims.commit_plan(delivery, JobPlan(10, "revision", [Shard(0, 0, 10)]))
        elif isinstance(delivery.step, Shard) and delivery.attempt == 1:
            assert claims.release(delivery)
            kinds.pop()
            delivery = claims.claim()
            assert delivery is not None
            assert claims.commit_shard(delivery, 10, 0)
            kinds.append(Shard)
        else:
            assert claims.commit_finish(delivery)
    claims.wait(0.01)
    claims.leave()
    assert kinds == [Plan, Shard, Finish]
    assert {each.state for each in jobs.all()} == {"cancelled", "done"}


def test_the_documented_rights_are_enough(server: RedisServer) -> None:
    with open_redis(Settings(redis_url=user_of(server))) as redis:
        check_redis(redis)
        finish_a_job(redis)


def test_the_documented_rights_are_enough_for_a_cluster(tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as nodes:
        for node in nodes:
            user_of(node)
        url = cluster_url(nodes).replace("://", "://loupe:secret@")
        with open_redis(Settings(redis_url=url)) as redis:
            check_redis(redis)
            finish_a_job(redis)


def test_a_user_may_change_nothing_but_the_queue(server: RedisServer) -> None:
    with Redis.from_url(user_of(server)) as redis:
        for command in (["SET", "other", "1"], ["FLUSHALL"], ["CONFIG", "GET", "*"]):
            with pytest.raises(NoPermissionError):
                redis.execute_command(*command)


def test_missing_rights_are_one_clear_error_of_a_worker(server: RedisServer) -> None:
    ended = run("worker", LOUPE_REDIS_URL=user_of(server, "-xautoclaim", "-xack"))

    assert ended.returncode == 1
    words = " ".join(ended.stderr.split())
    assert words.startswith("error: redis_unavailable: ")
    assert "XAUTOCLAIM, XACK" in words
    assert "Traceback" not in words
    assert server.client.dbsize() == 0


@pytest.mark.parametrize(
    "denied", ["-evalsha", "-xgroup", "-xadd", "-hset", "-unlink", "-rpush", "resetkeys"]
)
def test_a_submission_without_a_right_leaves_no_broken_job(
    server: RedisServer, denied: str
) -> None:
    with open_redis(Settings(redis_url=user_of(server, denied))) as redis:
        with pytest.raises(RedisError):
            Jobs(redis).submit(new_request())
        user_of(server)
        assert Jobs(redis).submit(new_request()).state == "queued"
        claims = Claims(redis, "worker", lease_seconds=1, max_attempts=2)
        delivery = claims.claim()
        assert delivery is not None
        assert delivery.step == Plan()


def test_the_check_knows_all_commands_of_scripts() -> None:
    scripts = {path.name: path.read_text() for path in SCRIPTS.glob("*.lua")}
    checked = set(re.findall(r"\{'([A-Z]+)'", scripts.pop("check_rights.lua")))
    used = {name for text in scripts.values() for name in re.findall(r"call\(\s*'([A-Z]+)'", text)}
    assert used <= checked


@pytest.mark.parametrize(
    ("configuration", "words"),
    [
        ({"appendonly": "yes"}, []),
        ({"appendonly": "no"}, ["append-only"]),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, ["allkeys-lru", "append"]),
        ({"appendonly": "yes", "maxmemory": "100mb", "maxmemory-policy": "noeviction"}, []),
        ({"appendonly": "yes", "maxmemory": "0", "maxmemory-policy": "allkeys-lru"}, []),
    ],
)
def test_risks_of_a_configuration_are_named(
    tmp_path: Path, configuration: dict[str, str], words: list[str]
) -> None:
    with redis_server(tmp_path, **configuration) as server:
        risks = find_risks(server.client)
    assert len(risks) == len(words)
    assert all(word in risk for word, risk in zip(words, risks, strict=True))


def test_risks_are_logged_as_warnings(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with redis_server(tmp_path) as server:
        check_redis(server.client)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "appendonly" in caplog.text
