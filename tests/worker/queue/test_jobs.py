"""Jobs as they are submitted and looked up."""

import hashlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from redis import Redis

from loupe.errors import InvalidOutput, InvalidSource, ModelCorrupted, ModelNotFound
from loupe.jobs import ScoringOptions
from loupe.models.card import FILE_NAME, digest
from loupe.models.promotion import promote
from loupe.models.store import StoredModel, find_model
from loupe.settings import Settings
from tests.support import pictures
from tests.support.job_requests import new_request, submit
from tests.support.stores import damage, stored
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.keys import job_key
from worker.queue.records import JobRequest
from worker.scoring.consumer import Consumer

REQUEST = JobRequest(
    source="/images", output="/out", model="digits:1", model_digest="abc", shard_images=10
)


@pytest.fixture
def jobs(redis: Redis) -> Jobs:
    return Jobs(redis)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", pictures.digits(3))
    return tmp_path / "images.npy"


def test_record_of_a_job_cancelled_before_it_starts_is_kept_as_long_as_wanted(redis: Redis) -> None:
    jobs = Jobs(redis, keep_seconds=60)
    job = jobs.submit(REQUEST)

    assert jobs.cancel(job.id).state == "cancelled"
    assert 0 < redis.ttl(job_key(job.id)) <= 60


def test_submitted_job_has_absolute_paths_and_the_model_digest(
    jobs: Jobs,
    source: Path,
    tmp_path: Path,
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    job = submit(jobs, Path("images.npy"), Path("out"), "digits", 100)

    assert (job.source, job.output) == (str(source), str(tmp_path / "out"))
    assert (job.model, job.model_digest) == (
        digits_model.tag,
        digest(digits_model.folder / FILE_NAME),
    )
    assert (job.state, job.shard_images, job.eta_seconds) == ("queued", 100, None)
    assert jobs.get(job.id) == job


def test_a_job_without_a_model_takes_the_newest(
    jobs: Jobs, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    assert submit(jobs, source, tmp_path / "out", None, 100).model == find_model().tag


def test_job_keeps_the_production_version_of_its_submission(
    jobs: Jobs, source: Path, tmp_path: Path, store: Path
) -> None:
    old, new = stored(0.8), stored(0.9)
    promote(old.tag)
    job = submit(jobs, source, tmp_path / "out", "letters:production", 100)
    promote(new.tag)

    assert job.model == old.tag
    assert jobs.get(job.id).model == old.tag
    assert submit(jobs, source, tmp_path / "next", "letters", 100).model == new.tag


def test_two_jobs_cannot_have_one_output_folder(
    jobs: Jobs, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    submit(jobs, source, tmp_path / "out", "digits", 100)
    with pytest.raises(InvalidOutput, match="another job"):
        submit(jobs, source, tmp_path / "out", "digits", 99)

    assert len(list(jobs.all())) == 1


def test_the_same_request_again_is_the_same_job(
    jobs: Jobs, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    first = submit(jobs, source, tmp_path / "out", "digits", 100)
    second = submit(jobs, source, tmp_path / "out", digits_model.tag, 100)

    assert second == first
    assert len(list(jobs.all())) == 1


def test_many_who_submit_the_same_at_once_get_one_job(
    jobs: Jobs,
    redis: Redis,
    settings: Settings,
    source: Path,
    tmp_path: Path,
    digits_model: StoredModel,
) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [
            pool.submit(submit, jobs, source, tmp_path / "out", "digits", 100) for _ in range(8)
        ]
    assert {each.result().id for each in made} == {next(jobs.all()).id}

    Consumer(jobs, Claims(redis, "a", lease_seconds=30.0, max_attempts=2), settings).run(burst=True)
    (job,) = jobs.all()
    assert (job.state, job.done, job.failed) == ("done", 3, 0)


def test_request_id_depends_on_everything_that_affects_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = REQUEST
    others = [
        asked.model_copy(update=change)
        for change in (
            {"source": "/others"},
            {"output": "/elsewhere"},
            {"model": "digits:2"},
            {"model_digest": "def"},
            {"shard_images": 11},
            {"options": ScoringOptions(top_k=2)},
        )
    ]

    assert len({each.job_id for each in (asked, *others)}) == 7
    fingerprints = {each.fingerprint("revision") for each in (asked, *others)}
    assert len(fingerprints | {asked.fingerprint("later")}) == 8
    assert JobRequest.model_validate_json(asked.model_dump_json()) == asked

    before = asked.fingerprint("revision")
    monkeypatch.setattr("worker.queue.records.PROTOCOL", "another")
    assert asked.fingerprint("revision") != before  # plans may be cut in another way


def test_the_id_of_a_request_stays_the_same_between_releases() -> None:
    options = ScoringOptions(threshold=0.5, labels="column:x", keep=("a", "b"))

    assert REQUEST.job_id == "f46d772a7ade"
    assert REQUEST.model_copy(update={"options": options}).job_id == "8a35a5f34ee4"


def test_refused_request_leaves_no_job_and_no_folder(
    jobs: Jobs, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    with pytest.raises(InvalidSource):
        submit(jobs, tmp_path / "nowhere", tmp_path / "out", "digits", 100)
    with pytest.raises(ModelNotFound):
        submit(jobs, source, tmp_path / "out", "birds", 100)

    assert not (tmp_path / "out").exists()
    assert list(jobs.all()) == []


def test_a_damaged_model_scores_nothing(
    jobs: Jobs, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    whole = (digits_model.folder / "model.onnx").read_bytes()
    damage(digits_model.folder / "model.onnx")
    try:
        with pytest.raises(ModelCorrupted, match=r"model\.onnx is not the file that was saved"):
            submit(jobs, source, tmp_path / "out", digits_model.tag, 100)
    finally:
        (digits_model.folder / "model.onnx").write_bytes(whole)


def test_a_job_tells_whose_it_is_if_it_is_anybodys(jobs: Jobs) -> None:
    alices = jobs.submit(new_request(), owner="alice")
    nobodys = jobs.submit(new_request())

    assert [jobs.get(job.id).owner for job in (alices, nobodys)] == ["alice", None]


def test_the_time_left_follows_what_has_been_handled(jobs: Jobs, redis: Redis) -> None:
    job = jobs.submit(new_request())
    started = time.time() - 100
    record = {"state": "running", "total": 100, "done": 20, "failed": 5, "started": started}
    redis.hset(job_key(job.id), mapping=record)  # type: ignore[arg-type]

    assert jobs.get(job.id).eta_seconds == pytest.approx(300, rel=0.1)
    redis.hset(job_key(job.id), "state", "done")
    assert jobs.get(job.id).eta_seconds is None


def test_progress_never_shows_more_than_there_is(jobs: Jobs, redis: Redis) -> None:
    job = jobs.submit(new_request())
    redis.hset(job_key(job.id), mapping={"state": "running", "total": 100, "done": 90, "failed": 5})
    redis.hset(job_key(job.id, "progress"), mapping={"shard-8": 10, "shard-9": 10})

    assert (jobs.get(job.id).done, jobs.get(job.id).failed) == (95, 5)


def test_job_keeps_the_folders_that_it_may_read(jobs: Jobs) -> None:
    request = new_request().model_copy(update={"roots": ("/a:b", "/c")})

    job = jobs.get(jobs.submit(request).id)

    assert job.request == request
    assert "roots" not in job.to_json()


def test_id_of_a_job_is_that_of_earlier_versions() -> None:
    request = JobRequest(source="/a", output="/b", model="m:1", model_digest="d", shard_images=10)
    fields = request.model_dump()
    del fields["roots"], fields["not_sent"]
    newer = ("escape_formulas", "image_column", "array", "min_familiarity")
    for name in newer:  # than the first version
        del fields["options"][name]
    text = json.dumps(fields, sort_keys=True)

    assert request.job_id == hashlib.sha256(text.encode()).hexdigest()[:12]
    for changed in (ScoringOptions(escape_formulas=True), ScoringOptions(min_familiarity=0)):
        assert request.model_copy(update={"options": changed}).job_id != request.job_id


def test_jobs_of_a_replica_can_be_listed_although_a_record_has_expired(
    jobs: Jobs, redis: Redis
) -> None:
    expired = jobs.submit(new_request(source="/a"))
    kept = jobs.submit(new_request(source="/b"))
    redis.delete(job_key(expired.id))
    redis.replicaof("127.0.0.1", "1")
    try:
        assert jobs.page().jobs == [kept]
    finally:
        redis.replicaof("NO", "ONE")
    assert jobs.page().jobs == [kept]
