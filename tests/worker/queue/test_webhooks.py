"""Submissions whose webhooks are to be sent."""

from collections.abc import Iterator

import pytest

from tests.support.job_requests import new_request
from tests.support.programs import until
from tests.support.servers.redis_servers import redis_server
from worker.queue.jobs import Jobs
from worker.queue.webhooks import job_of, submission_of


@pytest.fixture(scope="module")
def server_jobs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Jobs]:
    with redis_server(tmp_path_factory.mktemp("webhooks")) as server:
        yield Jobs(server.client)


@pytest.fixture
def jobs(server_jobs: Jobs) -> Jobs:
    server_jobs.webhooks.remove(server_jobs.webhooks.take(1000, 0))
    return server_jobs


def test_submission_is_due_at_once_and_leased_to_one_taker(jobs: Jobs) -> None:
    job = jobs.submit(new_request(), webhook=True)
    jobs.submit(new_request())

    assert jobs.webhooks.take(10, 0.05) == [submission_of(job)]
    assert jobs.webhooks.take(10, 0.05) == []
    assert until(lambda: jobs.webhooks.take(10, 60)) == [submission_of(job)]


def test_submissions_are_postponed_and_removed(jobs: Jobs) -> None:
    first, second = (submission_of(jobs.submit(new_request(), webhook=True)) for _ in range(2))
    assert {*jobs.webhooks.take(10, 60)} == {first, second}

    jobs.webhooks.postpone({first: 0, second: 60})
    assert jobs.webhooks.take(10, 60) == [first]
    jobs.webhooks.postpone({first: 0})
    jobs.webhooks.remove([first])
    jobs.webhooks.postpone({first: 0})
    assert jobs.webhooks.take(10, 60) == []


def test_retry_is_another_submission_of_the_same_job(jobs: Jobs) -> None:
    request = new_request()
    before = jobs.submit(request, webhook=True)
    jobs.cancel(before.id)
    again = jobs.submit(request, webhook=True)

    taken = jobs.webhooks.take(10, 60)
    assert {*taken} == {submission_of(before), submission_of(again)}
    assert len(taken) == 2
    assert {*map(job_of, taken)} == {before.id}
