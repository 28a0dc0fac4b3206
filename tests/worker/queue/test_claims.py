"""The queue on a real Redis: claims, commits, fences, retries and dead letters."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import replace
from typing import TypeAlias

import pytest
from redis import Redis

from loupe.errors import Conflict, InvalidRequest, JobNotFound, TooManyRequests
from tests.support.job_requests import new_request
from tests.support.programs import until
from worker.queue import claims, keys
from worker.queue import jobs as module
from worker.queue.claims import MAX_STARTED, SLICE, START_EVERY, Claims, Delivery
from worker.queue.jobs import Jobs
from worker.queue.records import Job, JobPlan
from worker.queue.steps import Finish, Plan, Probe, Shard

NewQueue: TypeAlias = Callable[..., Claims]


@pytest.fixture
def jobs(redis: Redis) -> Jobs:
    return Jobs(redis)


@pytest.fixture
def new_queue(redis: Redis) -> NewQueue:
    """Return a factory of queues whose leases outlast the test by default."""

    def make(worker: str = "a", lease_seconds: float = 300.0, max_attempts: int = 3) -> Claims:
        return Claims(redis, worker, lease_seconds=lease_seconds, max_attempts=max_attempts)

    return make


def submitted(jobs: Jobs, source: str = "/images") -> Job:
    return jobs.submit(new_request(source))


def claimed(queue: Claims) -> Delivery:
    delivery = queue.claim()
    assert delivery is not None
    return delivery


def shards(count: int) -> list[Shard]:
    return [Shard(index, 10 * index, 10 * index + 10) for index in range(count)]


def planned(jobs: Jobs, queue: Claims, count: int) -> Job:
    """Submit and plan a job with `count` shards of ten images."""
    job = submitted(jobs)
    delivery = claimed(queue)
    assert delivery.job_id == job.id
    assert queue.commit_plan(delivery, JobPlan(10 * count, "revision", shards(count)))
    return jobs.get(job.id)


# The life of a job


def test_a_new_job_waits_with_one_step_to_plan_it(jobs: Jobs, new_queue: NewQueue) -> None:
    job = submitted(jobs)

    assert (job.state, job.total, job.done, job.failed, job.error) == ("queued", None, 0, 0, None)
    delivery = claimed(new_queue())
    assert delivery == Delivery(job.id, Plan(), delivery.message, 1)
    assert jobs.get(job.id).state == "planning"


def test_a_job_goes_from_plan_to_shards_to_the_final_step(jobs: Jobs, new_queue: NewQueue) -> None:
    queue = new_queue()
    job = planned(jobs, queue, 2)
    assert (job.state, job.total, job.shards, job.revision) == ("running", 20, 2, "revision")

    for index, (done, failed) in enumerate([(10, 0), (7, 3)]):
        delivery = claimed(queue)
        assert delivery.step == shards(2)[index]
        assert queue.commit_shard(delivery, done, failed)
    job = jobs.get(job.id)
    assert (job.state, job.done, job.failed) == ("finishing", 17, 3)

    finish = claimed(queue)
    assert finish.step == Finish()
    assert queue.commit_finish(finish)
    job = jobs.get(job.id)
    assert job.state == "done"
    assert job.started is not None
    assert job.finished is not None
    assert queue.claim() is None


def test_a_job_that_is_done_leaves_only_its_record(
    jobs: Jobs, new_queue: NewQueue, redis: Redis
) -> None:
    queue = new_queue()
    job = planned(jobs, queue, 1)
    queue.commit_shard(claimed(queue), 10, 0)
    queue.commit_finish(claimed(queue))

    assert queue.claim() is None
    queue.wait(0.01)
    assert sorted(redis.keys("*")) == sorted([keys.JOBS, keys.job_key(job.id)])


def test_an_empty_queue_gives_nothing(new_queue: NewQueue) -> None:
    assert new_queue().claim() is None


def test_an_unknown_job_is_named(jobs: Jobs) -> None:
    with pytest.raises(JobNotFound, match="'nothing'"):
        jobs.get("nothing")


def test_jobs_are_listed_newest_first(jobs: Jobs) -> None:
    made = [submitted(jobs, f"/{place}") for place in range(3)]

    assert [job.source for job in jobs.all()] == [job.source for job in reversed(made)]


def test_jobs_are_listed_in_pages(jobs: Jobs) -> None:
    made = [submitted(jobs).id for _ in range(5)]
    first = jobs.page(limit=2)
    second = jobs.page(first.next, limit=2)
    third = jobs.page(second.next, limit=2)

    pages = [[job.id for job in page.jobs] for page in (first, second, third)]
    assert pages == [made[:2:-1], made[2:0:-1], made[:1]]
    assert third.next is None
    assert [job.id for job in jobs.all()] == made[::-1]


def test_page_survives_the_end_of_the_job_that_it_starts_after(jobs: Jobs, redis: Redis) -> None:
    made = [submitted(jobs).id for _ in range(3)]
    first = jobs.page(limit=1)
    redis.delete(keys.job_key(made[2]))
    assert jobs.page(limit=1).jobs == []  # its record has expired

    assert [job.id for job in jobs.page(first.next).jobs] == [made[1], made[0]]


def test_pages_of_an_owner_contain_no_jobs_of_others(jobs: Jobs) -> None:
    mine = [jobs.submit(new_request(), owner="ann").id for _ in range(2)]
    theirs = jobs.submit(new_request(), owner="bob").id
    submitted(jobs)

    assert [job.id for job in jobs.page(owner="ann").jobs] == mine[::-1]
    assert [job.id for job in jobs.page(owner="bob").jobs] == [theirs]
    assert len(jobs.page().jobs) == 4


@pytest.mark.parametrize("cursor", ["", "inf", "nan", "-1.0", "1.0 2", "(1.0", "x"])
def test_cursor_of_another_list_is_refused(jobs: Jobs, cursor: str) -> None:
    with pytest.raises(InvalidRequest):
        jobs.page(cursor)


def test_full_queue_forgets_the_oldest_jobs_that_ended_and_keeps_the_others(
    jobs: Jobs, new_queue: NewQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_JOBS", 3)
    waiting, ended, other = (submitted(jobs) for _ in range(3))
    jobs.cancel(ended.id)
    newest = submitted(jobs)

    assert [job.id for job in jobs.all()] == [newest.id, other.id, waiting.id]
    assert jobs.find(ended.id) is None
    with pytest.raises(TooManyRequests) as raised:
        submitted(jobs)
    assert raised.value.code == "queue_full"


def test_one_owner_cannot_fill_the_queue(jobs: Jobs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_OWNED", 2)
    for _ in range(2):
        jobs.submit(new_request(), owner="ann")
    with pytest.raises(TooManyRequests) as raised:
        jobs.submit(new_request(), owner="ann")

    assert raised.value.code == "queue_full"
    assert jobs.submit(new_request(), owner="bob").state == "queued"


def test_workers_are_listed_from_their_first_heartbeat_until_they_leave(
    jobs: Jobs, new_queue: NewQueue
) -> None:
    first, second = new_queue("first"), new_queue("second")
    first.send_heartbeat()
    second.send_heartbeat()
    assert jobs.workers() == ["first", "second"]

    first.leave()
    assert jobs.workers() == ["second"]


def test_killed_workers_are_forgotten(new_queue: NewQueue, redis: Redis) -> None:
    redis.zadd(keys.WORKERS, {"killed": 1.0})
    new_queue("first").send_heartbeat()

    assert redis.zrange(keys.WORKERS, 0, -1) == ["first"]


# One step, one worker


def test_a_step_is_delivered_once(jobs: Jobs, new_queue: NewQueue) -> None:
    submitted(jobs)

    assert new_queue("a").claim() is not None
    assert new_queue("b").claim() is None
    assert new_queue("a").claim() is None


def test_every_step_goes_to_exactly_one_of_many_workers_at_once(
    jobs: Jobs, new_queue: NewQueue
) -> None:
    planned(jobs, new_queue(), 60)
    names: list[str] = []

    def work(queue: Claims) -> None:
        while (delivery := queue.claim()) is not None:
            names.append(delivery.step.name)

    threads = [
        threading.Thread(target=work, args=[new_queue(f"worker-{place}")]) for place in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(names) == sorted(shard.name for shard in shards(60))


def test_many_workers_at_once_queue_the_final_step_exactly_once(
    jobs: Jobs, new_queue: NewQueue
) -> None:
    job = planned(jobs, new_queue(), 40)
    finals: list[Delivery] = []

    def work(queue: Claims) -> None:
        while (delivery := queue.claim()) is not None:
            if delivery.step.kind == "finish":
                finals.append(delivery)
            else:
                assert queue.commit_shard(delivery, 9, 1)

    threads = [
        threading.Thread(target=work, args=[new_queue(f"worker-{place}")]) for place in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(finals) == 1
    ended = jobs.get(job.id)
    assert (ended.state, ended.done, ended.failed) == ("finishing", 360, 40)


def test_two_jobs_take_turns(jobs: Jobs, new_queue: NewQueue) -> None:
    queue = new_queue()
    large = planned(jobs, queue, 6)
    small = submitted(jobs)
    seen = []
    while (delivery := queue.claim()) is not None:
        seen.append(delivery.job_id)
        if delivery.step.kind == "plan":
            queue.commit_plan(delivery, JobPlan(20, "revision", shards(2)))

    assert seen.count(large.id) == 6
    assert seen.count(small.id) == 3
    last_of_small = max(place for place, job_id in enumerate(seen) if job_id == small.id)
    assert last_of_small <= 6  # the small job did not wait for the large one to end


def test_short_job_does_not_wait_for_a_long_one_of_the_same_priority(
    jobs: Jobs, new_queue: NewQueue
) -> None:
    queue = new_queue()
    planned(jobs, queue, 500)
    short = submitted(jobs)
    seen = [claimed(queue) for _ in range(START_EVERY)]

    assert short.id in {delivery.job_id for delivery in seen}


def test_started_jobs_end_before_many_others_start(jobs: Jobs, new_queue: NewQueue) -> None:
    queue = new_queue()
    for _ in range(200):
        submitted(jobs)
    planned_before_an_end, finished = [], 0
    while finished < 200:
        delivery = claimed(queue)
        if delivery.step.kind == "plan":
            assert queue.commit_plan(delivery, JobPlan(20, "revision", shards(2)))
            planned_before_an_end.append(delivery.job_id)
        elif delivery.step.kind == "shard":
            assert queue.commit_shard(delivery, 10, 0)
        else:
            assert queue.commit_finish(delivery)
            planned_before_an_end.remove(delivery.job_id)
            finished += 1
        assert len(planned_before_an_end) <= MAX_STARTED
    assert queue.claim() is None


def test_final_step_goes_before_shards_of_other_jobs(jobs: Jobs, new_queue: NewQueue) -> None:
    queue = new_queue()
    planned(jobs, queue, 50)
    short = submitted(jobs)
    while (delivery := claimed(queue)).job_id != short.id:
        pass
    queue.commit_plan(delivery, JobPlan(10, "revision", shards(1)))
    while (delivery := claimed(queue)).job_id != short.id:
        pass
    queue.commit_shard(delivery, 10, 0)

    assert claimed(queue).step.kind == "finish"


# Large jobs


def test_plan_is_queued_in_slices_and_visible_as_a_whole(
    jobs: Jobs, new_queue: NewQueue, redis: Redis
) -> None:
    queue = new_queue()
    count = 3 * SLICE + 1
    job = submitted(jobs)
    kept = list(range(SLICE + 1))
    assert queue.commit_plan(
        claimed(queue), JobPlan(10, "revision", shards(count)[SLICE + 1 :], kept)
    )

    assert (jobs.get(job.id).shards, jobs.get(job.id).state) == (count, "running")
    assert redis.xlen(keys.job_key(job.id, "steps")) == count - len(kept)
    assert queue.committed_shards(job.id) == kept
    assert not redis.exists(keys.job_key(job.id, "staged"), keys.job_key(job.id, "kept"))


def test_plan_of_a_worker_that_died_while_queueing_is_replaced(
    jobs: Jobs, new_queue: NewQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submitted(jobs)
    dying, queue = new_queue("a"), new_queue("b", lease_seconds=0.05)
    delivery = claimed(dying)
    run = Claims._run

    def dead(self: Claims, script: str, *args: object) -> int:
        if script == "commit_plan":
            raise SystemExit
        return run(self, script, *args)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(Claims, "_run", dead)
        with pytest.raises(SystemExit):
            dying.commit_plan(delivery, JobPlan(90, "old", shards(9)[3:], [0, 1, 2]))
    assert jobs.get(job.id).state == "planning"

    assert queue.commit_plan(until(queue.claim), JobPlan(20, "new", shards(2)))
    names = [claimed(queue).step.name for _ in range(2)]
    assert names == ["shard-0", "shard-1"]
    assert queue.committed_shards(job.id) == []
    assert not dying.commit_plan(delivery, JobPlan(90, "old", shards(9)))


def test_scripts_do_not_grow_with_the_job(jobs: Jobs, new_queue: NewQueue, redis: Redis) -> None:
    """Count commands instead of time: each script runs few, however many shards a job has."""
    queue = new_queue()
    job = submitted(jobs)
    queue.commit_plan(claimed(queue), JobPlan(10, "revision", shards(10 * SLICE)))
    redis.config_resetstat()
    kept = claimed(queue)
    jobs.cancel(job.id)
    assert queue.drop(kept)
    finish = claimed(queue)
    assert finish.step.kind == "finish"
    assert queue.commit_finish(finish)

    stats = redis.info("commandstats")
    assert sum(command["calls"] for command in stats.values()) < 200


# Leases and fences


def test_step_with_an_expired_lease_is_claimed_as_the_next_attempt(
    jobs: Jobs, new_queue: NewQueue
) -> None:
    submitted(jobs)
    first = claimed(new_queue("a"))
    second = until(new_queue("b", lease_seconds=0.05).claim)

    assert (first.attempt, second.attempt) == (1, 2)
    assert second.step == first.step


def test_a_lease_that_is_renewed_does_not_end(jobs: Jobs, new_queue: NewQueue) -> None:
    submitted(jobs)
    patient, impatient = new_queue("a"), new_queue("b", lease_seconds=1.0)
    delivery = claimed(patient)
    for _ in range(8):  # two leases long
        time.sleep(0.25)
        assert patient.renew(delivery, 0)
        assert impatient.claim() is None


def test_progress_of_uncommitted_shards_is_shown_and_counted_once(
    jobs: Jobs, new_queue: NewQueue
) -> None:
    queue = new_queue()
    job = planned(jobs, queue, 2)
    delivery = claimed(queue)
    assert queue.renew(delivery, 6)
    assert jobs.get(job.id).done == 6

    queue.commit_shard(delivery, 9, 1)
    assert (jobs.get(job.id).done, jobs.get(job.id).failed) == (9, 1)


def test_a_stale_worker_cannot_renew(jobs: Jobs, new_queue: NewQueue) -> None:
    submitted(jobs)
    first = claimed(new_queue("a"))
    second = until(new_queue("b", lease_seconds=0.05).claim)

    assert not new_queue("a").renew(first, 0)
    assert new_queue("b").renew(second, 0)


def test_a_stale_worker_cannot_commit_a_plan(jobs: Jobs, new_queue: NewQueue) -> None:
    job = submitted(jobs)
    stale = claimed(new_queue("a"))
    live = until(new_queue("b", lease_seconds=0.05).claim)

    assert not new_queue("a").commit_plan(stale, JobPlan(99, "stale", shards(9)))
    unchanged = jobs.get(job.id)
    assert (unchanged.state, unchanged.total, unchanged.shards) == ("planning", None, 0)
    assert new_queue("b").commit_plan(live, JobPlan(20, "live", shards(2)))
    assert not new_queue("a").commit_plan(stale, JobPlan(99, "stale", shards(9)))
    assert jobs.get(job.id).revision == "live"


@pytest.mark.parametrize("who_commits_first", ["stale", "live"])
def test_a_stale_worker_changes_no_count(
    jobs: Jobs, new_queue: NewQueue, who_commits_first: str
) -> None:
    job = planned(jobs, new_queue("a"), 2)
    stale = claimed(new_queue("a"))
    live = until(new_queue("b", lease_seconds=0.05).claim)
    while live.step != stale.step:  # the other shard may be claimed first
        live = until(new_queue("b", lease_seconds=0.05).claim)

    if who_commits_first == "stale":
        assert not new_queue("a").commit_shard(stale, 10, 0)
        assert jobs.get(job.id).done == 0
    assert new_queue("b").commit_shard(live, 8, 2)
    assert not new_queue("a").commit_shard(stale, 10, 0)
    assert not new_queue("b").commit_shard(live, 8, 2)  # nor does a commit count twice
    ended = jobs.get(job.id)
    assert (ended.state, ended.done, ended.failed) == ("running", 8, 2)


def test_a_stale_worker_cannot_fail_a_step(jobs: Jobs, new_queue: NewQueue) -> None:
    job = submitted(jobs)
    stale = claimed(new_queue("a"))
    live = until(new_queue("b", lease_seconds=0.05).claim)

    new_queue("a").fail(stale, "it is all wrong", final=True)
    new_queue("a").fail(stale, "it is all wrong")
    assert jobs.get(job.id).state == "planning"
    assert new_queue("b").commit_plan(live, JobPlan(20, "revision", shards(2)))


# Failures


def test_released_step_is_claimed_again_with_the_same_attempt(
    jobs: Jobs, new_queue: NewQueue
) -> None:
    first = new_queue("a")
    job = planned(jobs, first, 1)
    delivery = claimed(first)
    first.renew(delivery, 4)
    assert first.release(delivery)

    assert jobs.get(job.id).done == 0
    assert not first.commit_shard(delivery, 10, 0)
    again = claimed(new_queue("b"))
    assert (again.step, again.attempt) == (delivery.step, delivery.attempt)
    assert new_queue("b").commit_shard(again, 10, 0)
    assert not first.release(delivery)


def test_only_steps_of_cancelled_jobs_can_be_given_up(jobs: Jobs, new_queue: NewQueue) -> None:
    queue = new_queue()
    job = planned(jobs, queue, 1)
    delivery = claimed(queue)

    assert not queue.drop(delivery)
    assert queue.commit_shard(delivery, 10, 0)
    assert jobs.get(job.id).done == 10


def test_step_of_another_worker_cannot_be_released(jobs: Jobs, new_queue: NewQueue) -> None:
    planned(jobs, new_queue(), 1)
    stale = claimed(new_queue("a"))
    fresh = claimed(new_queue("b", lease_seconds=0))

    assert not new_queue("a").release(stale)
    assert new_queue("b").commit_shard(fresh, 10, 0)


def test_a_worker_that_waits_is_woken_by_a_job(jobs: Jobs, new_queue: NewQueue) -> None:
    new_queue().wait(0.01)
    submitter = threading.Timer(0.1, submitted, [jobs])
    submitter.start()
    new_queue().wait(100)

    assert new_queue().claim()


def test_workers_that_wait_are_woken_when_a_job_is_planned(jobs: Jobs, new_queue: NewQueue) -> None:
    planner = new_queue()
    with ThreadPoolExecutor(2) as pool:
        submitted(jobs)
        plan = claimed(planner)
        planner.wait(0.01)
        waiting = [pool.submit(new_queue(name).wait, 20) for name in "ab"]
        planner.commit_plan(plan, JobPlan(30, "revision", shards(3)))

        assert not wait(waiting, 10).not_done


def test_a_failed_step_is_tried_again_by_anybody(jobs: Jobs, new_queue: NewQueue) -> None:
    job = submitted(jobs)
    queue = new_queue("a")
    queue.fail(claimed(queue), "the disk is full")

    assert jobs.get(job.id).state == "planning"
    again = until(new_queue("b").claim)
    assert again.attempt == 2
    assert again.step.name == "plan"
    assert new_queue("b").commit_plan(again, JobPlan(10, "revision", shards(1)))


def test_last_failed_attempt_fails_the_job_and_keeps_a_dead_letter(
    jobs: Jobs, new_queue: NewQueue, redis: Redis
) -> None:
    job = submitted(jobs)
    queue = new_queue("a", max_attempts=2)
    queue.fail(claimed(queue), "the disk is full")
    queue.fail(until(queue.claim), "the disk is still full")

    failed = jobs.get(job.id)
    assert (failed.state, failed.error) == ("failed", "the disk is still full")
    assert failed.finished is not None
    assert queue.claim() is None
    ((_, letter),) = redis.xrange(keys.job_key(job.id, "dead"))  # type: ignore[misc]
    assert letter == {"step": '{"name": "plan", "kind": "plan"}', "error": "the disk is still full"}


def test_an_error_that_no_try_can_mend_fails_the_job_at_once(
    jobs: Jobs, new_queue: NewQueue
) -> None:
    job = planned(jobs, new_queue(), 3)
    queue, other = new_queue("a"), new_queue("b")
    mine, theirs = claimed(queue), claimed(other)
    queue.fail(mine, "the model is gone", final=True)

    assert (jobs.get(job.id).state, jobs.get(job.id).error) == ("failed", "the model is gone")
    assert other.claim() is None
    assert not other.renew(theirs, 5)
    assert not other.commit_shard(theirs, 10, 0)
    assert jobs.get(job.id).done == 0


def test_a_failed_job_is_no_hindrance_to_the_next(jobs: Jobs, new_queue: NewQueue) -> None:
    queue = new_queue()
    submitted(jobs)
    queue.fail(claimed(queue), "no", final=True)
    healthy = submitted(jobs)

    assert claimed(queue).job_id == healthy.id


# Cancelling


def test_a_job_that_nobody_has_begun_is_cancelled_at_once(
    jobs: Jobs, new_queue: NewQueue, redis: Redis
) -> None:
    job = submitted(jobs)
    cancelled = jobs.cancel(job.id)

    assert cancelled.state == "cancelled"
    assert cancelled.finished is not None
    assert new_queue().claim() is None
    new_queue().wait(0.01)
    assert sorted(redis.keys("*")) == sorted([keys.JOBS, keys.job_key(job.id)])


def test_steps_in_flight_of_a_cancelled_job_are_committed_or_dropped_before_it_ends(
    jobs: Jobs, new_queue: NewQueue
) -> None:
    queue, other = new_queue("a"), new_queue("b")
    job = planned(jobs, queue, 5)
    committed, kept, given_up = claimed(queue), claimed(queue), claimed(other)
    assert queue.commit_shard(committed, 10, 0)
    assert jobs.cancel(job.id).state == "cancelling"

    assert other.claim() is None
    assert not other.renew(given_up, 3)
    assert other.drop(given_up)
    assert not other.drop(replace(committed, attempt=9))
    assert other.claim() is None
    assert queue.commit_shard(kept, 9, 1)
    assert queue.committed_shards(job.id) == [0, 1]

    finish = claimed(other)
    assert finish.step == Finish()
    assert queue.claim() is None
    assert other.renew(finish, 0)
    assert other.commit_finish(finish)
    ended = jobs.get(job.id)
    assert (ended.state, ended.done, ended.failed, ended.total) == ("cancelled", 19, 1, 50)


def test_failed_step_of_a_cancelled_job_is_not_tried_again(
    jobs: Jobs, new_queue: NewQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "backoff_seconds", lambda _: 0.0)
    queue = new_queue()
    job = planned(jobs, queue, 2)
    mine = claimed(queue)
    jobs.cancel(job.id)
    queue.fail(mine, "disk full")
    finish = claimed(queue)

    assert finish.step.kind == "finish"
    assert queue.claim() is None
    assert queue.commit_finish(finish)
    assert queue.claim() is None


def test_job_cancelled_while_planning_gets_no_shards(jobs: Jobs, new_queue: NewQueue) -> None:
    queue = new_queue()
    job = submitted(jobs)
    plan = claimed(queue)
    jobs.cancel(job.id)

    assert queue.commit_plan(plan, JobPlan(50, "revision", shards(5)))
    finish = claimed(queue)
    assert finish.step.kind == "finish"
    assert queue.committed_shards(job.id) == []


def test_step_of_a_dead_worker_does_not_block_cancellation(jobs: Jobs, new_queue: NewQueue) -> None:
    dead, queue = new_queue("dead", lease_seconds=0.05), new_queue("b", lease_seconds=0.05)
    job = planned(jobs, queue, 2)
    claimed(dead)
    jobs.cancel(job.id)
    finish = until(queue.claim)

    assert finish.step.kind == "finish"


def test_the_last_step_of_a_cancelled_job_is_tried_again(jobs: Jobs, new_queue: NewQueue) -> None:
    queue = new_queue()
    job = planned(jobs, queue, 2)
    jobs.cancel(job.id)
    first = claimed(queue)
    queue.fail(first, "disk full")
    second = until(queue.claim)

    assert (second.step, second.attempt) == (first.step, 2)
    assert queue.commit_finish(second)
    assert jobs.get(job.id).state == "cancelled"


@pytest.mark.parametrize("end", ["done", "failed", "cancelled", "finishing"])
def test_a_job_that_has_ended_cannot_be_cancelled(jobs: Jobs, redis: Redis, end: str) -> None:
    job = submitted(jobs)
    redis.hset(keys.job_key(job.id), "state", end)

    with pytest.raises(Conflict, match=rf"{job.id}.* {end}") as raised:
        jobs.cancel(job.id)
    assert (raised.value.code, raised.value.status) == ("job_ended", 409)


def test_an_unknown_job_cannot_be_cancelled(jobs: Jobs) -> None:
    with pytest.raises(JobNotFound):
        jobs.cancel("nothing")


# Priorities, limits, expiry


def test_higher_priorities_go_first_and_equal_ones_take_turns(
    jobs: Jobs, new_queue: NewQueue
) -> None:
    made = [
        (priority, jobs.submit(new_request(), priority=priority).id)
        for priority in ("low", "normal", "high", "low")
    ]
    claimed_in_turn = [claimed(new_queue()).job_id for _ in made]

    assert claimed_in_turn == [made[2][1], made[1][1], made[0][1], made[3][1]]


@pytest.mark.parametrize(
    ("limit", "failed", "state"),
    [
        ("4", [2, 2], "running"),
        ("4", [2, 3], "failed"),
        ("0", [0, 1], "failed"),
        ("10%", [2, 2], "running"),
        ("10%", [2, 3], "failed"),
        ("100%", [10, 10, 10, 10], "finishing"),
        ("0%", [0, 0, 0, 1], "failed"),
        (None, [10, 10], "running"),
    ],
)
def test_a_job_with_too_many_errors_ends_early(
    jobs: Jobs, new_queue: NewQueue, limit: str | None, failed: list[int], state: str
) -> None:
    job_id = jobs.submit(new_request(), max_errors=limit).id
    queue = new_queue()
    queue.commit_plan(
        claimed(queue), JobPlan(40, "revision", shards(4), skipped={"hidden": {"": 100}})
    )
    other = claimed(new_queue("b"))
    for number, errors in enumerate(failed):
        delivery = other if number == 3 else claimed(queue)
        error_limit = jobs.get(job_id).error_limit
        assert queue.commit_shard(delivery, 10 - errors, errors, error_limit)

    job = jobs.get(job_id)
    assert (job.state, job.failed, job.max_errors) == (state, sum(failed), limit)
    assert (job.error is not None) == (state == "failed")
    if state == "failed":
        assert str(limit) in str(job.error)
        assert not new_queue("b").renew(other, 1)
        assert queue.claim() is None
        again = jobs.submit(new_request())
        assert (again.state, again.max_errors, again.error) == ("queued", None, None)


@pytest.mark.parametrize("left", [0, 1])
@pytest.mark.parametrize(("limit", "state"), [("4", "failed"), ("10%", "failed"), ("5", None)])
def test_job_fails_if_its_kept_parts_have_too_many_errors(
    jobs: Jobs, new_queue: NewQueue, limit: str, state: str | None, left: int
) -> None:
    job = jobs.submit(new_request(), max_errors=limit)
    plan = JobPlan(40, "revision", shards(4), kept=range(4 - left), done=35 - 10 * left, failed=5)
    error_limit = replace(job, total=plan.found).error_limit
    queue = new_queue()
    assert queue.commit_plan(claimed(queue), plan, error_limit)

    found = jobs.get(job.id)
    assert found.state == (state or ("running" if left else "finishing"))
    assert (found.failed, found.total, found.shards) == (5, 40, 4)
    assert (found.error is not None) == (state == "failed")
    assert (queue.claim() is None) == (state == "failed")


def test_max_in_flight_limits_the_claimed_steps_of_a_job(jobs: Jobs, new_queue: NewQueue) -> None:
    job = jobs.submit(new_request(), max_in_flight=2)
    queue = new_queue()
    queue.commit_plan(claimed(queue), JobPlan(50, "revision", shards(5)))
    first = claimed(queue)
    claimed(new_queue("b"))
    other = submitted(jobs)

    assert claimed(new_queue("c")).job_id == other.id
    assert new_queue("d").claim() is None
    queue.commit_shard(first, 10, 0)
    assert claimed(new_queue("d")).job_id == job.id


def test_limit_of_steps_in_flight_does_not_block_expired_leases(
    jobs: Jobs, new_queue: NewQueue
) -> None:
    jobs.submit(new_request(), max_in_flight=1)
    claimed(new_queue("dead", lease_seconds=0.01))

    assert until(new_queue("b", lease_seconds=0.01).claim).attempt == 2


@pytest.mark.parametrize("end", ["done", "failed", "cancelled"])
def test_the_record_of_a_job_that_has_ended_expires(
    jobs: Jobs, redis: Redis, new_queue: NewQueue, end: str
) -> None:
    queue = new_queue()
    if end == "cancelled":
        job = submitted(jobs)
        jobs.cancel(job.id)
    else:
        job = planned(jobs, queue, 1)
        assert redis.ttl(keys.job_key(job.id)) == -1
        if end == "failed":
            queue.fail(claimed(queue), "no", final=True)
            assert 0 < redis.ttl(keys.job_key(job.id, "dead")) <= module.KEEP_SECONDS
        else:
            queue.commit_shard(claimed(queue), 10, 0)
            queue.commit_finish(claimed(queue))

    assert 0 < redis.ttl(keys.job_key(job.id)) <= module.KEEP_SECONDS
    redis.delete(keys.job_key(job.id))
    assert list(jobs.all()) == []
    assert redis.zcard(keys.JOBS) == 0


def test_job_whose_end_redis_has_lost_is_claimed_again(
    jobs: Jobs, new_queue: NewQueue, redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue = new_queue()
    job = planned(jobs, queue, 1)
    with monkeypatch.context() as before_the_restart:
        before_the_restart.setattr(queue, "_claim", lambda **_: "gone")
        assert queue.claim() is None

    assert redis.lrange(keys.active_key("normal"), 0, -1) == [job.id]
    assert claimed(queue).step.name == "shard-0"


# The same job again


def test_submitting_a_running_job_again_changes_nothing(
    jobs: Jobs, new_queue: NewQueue, redis: Redis
) -> None:
    queue = new_queue()
    job = planned(jobs, queue, 2)
    queue.commit_shard(claimed(queue), 10, 0)
    again = jobs.submit(job.request)

    assert again == jobs.get(job.id)
    assert (again.state, again.done) == ("running", 10)
    assert redis.lrange(keys.active_key("normal"), 0, -1) == [job.id]


def test_worker_that_slept_through_the_end_of_a_job_cannot_commit_after_a_retry(
    jobs: Jobs, new_queue: NewQueue
) -> None:
    queue = new_queue()
    job = planned(jobs, queue, 2)
    stale, doomed = claimed(queue), claimed(queue)
    queue.fail(doomed, "no", final=True)
    jobs.submit(job.request)
    queue.commit_plan(claimed(queue), JobPlan(20, "revision", shards(2)))
    live = claimed(queue)

    assert (stale.step.name, stale.attempt) == (live.step.name, live.attempt)
    assert not queue.commit_shard(stale, 10, 0)
    assert queue.commit_shard(live, 9, 1)
    assert (jobs.get(job.id).done, jobs.get(job.id).failed) == (9, 1)


def test_existing_parts_are_counted_from_the_start(jobs: Jobs, new_queue: NewQueue) -> None:
    job = submitted(jobs)
    queue = new_queue()
    queue.commit_plan(
        claimed(queue), JobPlan(30, "revision", shards(3)[2:], [0, 1], done=18, failed=2)
    )
    planned_job = jobs.get(job.id)
    assert (planned_job.shards, planned_job.total, planned_job.done, planned_job.failed) == (
        3,
        30,
        18,
        2,
    )
    assert queue.committed_shards(job.id) == [0, 1]

    assert claimed_and_committed(queue) == "shard-2"
    assert claimed(queue).step.name == "finish"


def test_job_with_all_parts_only_needs_to_finish(jobs: Jobs, new_queue: NewQueue) -> None:
    job = submitted(jobs)
    queue = new_queue()
    queue.commit_plan(claimed(queue), JobPlan(10, "revision", [], [0], done=10))

    assert jobs.get(job.id).state == "finishing"
    assert claimed(queue).step.name == "finish"


def claimed_and_committed(queue: Claims) -> str:
    delivery = claimed(queue)
    assert queue.commit_shard(delivery, 10, 0)
    return delivery.step.name


def test_replacement_step_starts_with_its_first_attempt(jobs: Jobs, new_queue: NewQueue) -> None:
    queue = new_queue()
    planned(jobs, queue, 1)
    shard = claimed(queue)
    probe = Probe(Shard(0, 0, 10), (0, 10))
    assert queue.replace(shard, probe)

    assert not queue.replace(shard, probe)
    assert not queue.commit_shard(shard, 10, 0)
    delivery = claimed(queue)
    assert (delivery.step, delivery.attempt) == (probe, 1)
    assert queue.replace(delivery, Shard(0, 0, 10, generation=1))
    again = claimed(queue)
    assert queue.commit_shard(again, 9, 1)
    assert queue.committed_shards(again.job_id) == [0]
