"""Faults during a job, one at a time: the result is that of an undisturbed worker."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeAlias

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from redis import Redis

from loupe.errors import Conflict
from loupe.jobs import ENDED, ScoringOptions
from loupe.models.store import StoredModel
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from tests.stress.chaos import Result, read_result
from tests.support import pictures
from tests.support.faulty_worker import POISON
from tests.support.job_requests import submit
from tests.support.programs import descendants, environment, run, running, until
from tests.support.servers.redis_servers import RedisServer, redis_server
from tests.support.stores import copied, damage
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.records import Job
from worker.queue.submission import cancel, prepare_resume, retry
from worker.results.outputs import read_errors
from worker.scoring.consumer import Consumer

IMAGES, SHARD = 50, 10
PLAIN = ScoringOptions()
SINGLE = ScoringOptions(single=True)
FAST = {"LOUPE_LEASE_SECONDS": 0.5, "LOUPE_THREADS": 1}
SLEEPER = {**FAST, "LOUPE_LEASE_SECONDS": 600}  # one that is stopped keeps what it has
DAY = 24 * 3600
Start: TypeAlias = Callable[..., tuple[Job, Result]]
Undisturbed: TypeAlias = Callable[..., Path]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 50 pictures, two of them broken, and the same images as an array."""
    place = tmp_path_factory.mktemp("sources")
    images = pictures.digits(IMAGES, seed=3)
    np.save(place / "images.npy", images)
    (place / "images").mkdir()
    for number, image in enumerate(images):
        (place / "images" / f"{number:02d}.png").write_bytes(
            pictures.png(image) if number not in {4, 31} else b"no picture"
        )
    return place


@pytest.fixture
def source(place: Path) -> Path:
    return place / "images"


@pytest.fixture
def array(place: Path) -> Path:
    return place / "images.npy"


@pytest.fixture
def fragile_source(source: Path, tmp_path: Path) -> Path:
    """Return a copy of the pictures, which a test may damage."""
    return Path(shutil.copytree(source, tmp_path / "images"))


@pytest.fixture
def fragile_array(array: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(array, tmp_path / "images.npy"))


@pytest.fixture(scope="module")
def undisturbed(
    digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Undisturbed]:
    """Return a function that scores a source with one worker, once, and returns the output."""
    folder = tmp_path_factory.mktemp("undisturbed")
    with open_redis(Settings(data_dir=folder / "data")) as redis:
        outputs: dict[tuple[Path, int, ScoringOptions], Path] = {}

        def scored(source: Path, shard: int = SHARD, options: ScoringOptions = PLAIN) -> Path:
            asked = (source, shard, options)
            if asked not in outputs:
                outputs[asked] = folder / f"out-{len(outputs)}"
                submit(Jobs(redis), source, outputs[asked], digits_model.tag, shard, options)
                queue = Claims(redis, "undisturbed", lease_seconds=30.0, max_attempts=1)
                Consumer(Jobs(redis), queue, Settings(threads=1)).run(burst=True)
            return outputs[asked]

        yield scored


@pytest.fixture
def start(tmp_path: Path, jobs: Jobs, digits_model: StoredModel, undisturbed: Undisturbed) -> Start:
    """Return a function that submits a job, and returns it with the result of one worker."""

    def submitted(
        source: Path, shard: int = SHARD, options: ScoringOptions = PLAIN
    ) -> tuple[Job, Result]:
        expected = read_result(undisturbed(source, shard, options))
        return submit(jobs, source, tmp_path / "out", digits_model.tag, shard, options), expected

    return submitted


@contextmanager
def faulty(log: Path, *faults: str, **variables: object) -> Iterator[subprocess.Popen[bytes]]:
    """Run a worker with these faults, one after the other, while the block runs."""
    with log.open("wb") as words:
        command = [sys.executable, "-m", "tests.support.faulty_worker", *faults]
        process = subprocess.Popen(
            command, env=environment(**variables), stdout=words, stderr=subprocess.STDOUT
        )
    try:
        yield process
    finally:
        process.kill()  # and its children with it
        process.wait()


def stopped(supervisor: subprocess.Popen[bytes]) -> psutil.Process:
    """Wait until the worker has stopped, and return its process."""

    def worker() -> psutil.Process | None:
        children = descendants(supervisor.pid)
        return children[0] if children and children[0].status() == psutil.STATUS_STOPPED else None

    return until(worker)


def ended(jobs: Jobs, job: Job) -> Job:
    """Wait until the job has ended, and return it."""
    until(lambda: jobs.get(job.id).state in ENDED)
    return jobs.get(job.id)


def assert_done(jobs: Jobs, job: Job, expected: Result) -> None:
    found = ended(jobs, job)
    assert (found.state, found.error) == ("done", None)
    assert found.done + found.failed == found.total
    assert read_result(Path(job.output)).differences(expected) == []


# Workers


@pytest.mark.parametrize(
    "points",
    [
        pytest.param(
            [
                "before:worker.results.outputs:publish_index",
                "before:worker.queue.claims:Claims.commit_plan",
                "after:worker.queue.claims:Claims.commit_plan",
            ],
            id="plan",
        ),
        pytest.param(
            [
                "before:worker.scoring.score:ShardRun.start",  # claimed
                "before:worker.results.outputs:concatenate",  # scored
                "after:worker.results.formats:write",  # written
                "after:pathlib:Path.replace",  # renamed
                "before:worker.results.receipts:write_receipt",
                "before:worker.queue.claims:Claims.commit_shard",  # vouched for
                "after:worker.queue.claims:Claims.commit_shard",
            ],
            id="shard",
        ),
        pytest.param(
            [
                "before:worker.results.outputs:write_summary",
                "after:worker.results.formats:merge",
                "before:worker.results.outputs:_remove_leftovers",
                "after:worker.results.outputs:_remove_leftovers",
                "before:worker.queue.claims:Claims.commit_finish",
                "after:worker.queue.claims:Claims.commit_finish",
            ],
            id="finish",
        ),
    ],
)
def test_workers_killed_between_any_two_operations_lose_and_duplicate_nothing(
    tmp_path: Path,
    data: Path,
    jobs: Jobs,
    source: Path,
    start: Start,
    points: list[str],
) -> None:
    options = SINGLE if "after:worker.results.formats:merge" in points else PLAIN
    job, expected = start(source, options=options)
    variables = {**FAST, "LOUPE_DATA_DIR": data, "LOUPE_MAX_ATTEMPTS": 50}
    with faulty(tmp_path / "log", *(f"kill:{point}" for point in points), **variables):
        until(lambda: (tmp_path / "log").read_text().count("has ended with -9") == len(points))
        assert_done(jobs, job, expected)


@pytest.mark.parametrize(
    ("point", "options"),
    [
        pytest.param("before:worker.results.outputs:write_part", PLAIN, id="before it writes"),
        pytest.param(
            "before:worker.results.outputs:write_part",
            SINGLE,
            id="before it writes what is merged by then",
        ),
        pytest.param("after:worker.results.formats:write", SINGLE, id="before it renames"),
        pytest.param("before:worker.results.receipts:write_receipt", PLAIN, id="before it vouches"),
    ],
)
def test_worker_that_wakes_after_the_job_is_done_leaves_no_files(
    tmp_path: Path,
    data: Path,
    jobs: Jobs,
    source: Path,
    start: Start,
    options: ScoringOptions,
    point: str,
) -> None:
    job, expected = start(source, options=options)
    with faulty(tmp_path / "log", f"stop:{point}", **FAST, LOUPE_DATA_DIR=data) as sleeper:
        asleep = stopped(sleeper)
        with running(tmp_path / "second", "worker", **FAST, LOUPE_DATA_DIR=data):
            assert_done(jobs, job, expected)
        asleep.resume()
        until(lambda: ", shard-" in (tmp_path / "log").read_text())
        sleeper.terminate()
        assert sleeper.wait(30) == 0

    assert_done(jobs, job, expected)


def test_record_that_kills_every_worker_becomes_an_error(
    tmp_path: Path, data: Path, jobs: Jobs, start: Start, undisturbed: Undisturbed
) -> None:
    images = pictures.digits(12, seed=3)
    images[6] = POISON
    np.save(tmp_path / "images.npy", images)
    job, expected = start(tmp_path / "images.npy", shard=4)
    with faulty(tmp_path / "log", "poison", **FAST, LOUPE_DATA_DIR=data, LOUPE_MAX_ATTEMPTS=2):
        found = ended(jobs, job)

    assert (found.state, found.done, found.failed) == ("done", 11, 1)
    assert [(error["id"], error["code"]) for error in read_errors(tmp_path / "out")] == [
        ("6", "record_failed")
    ]
    rows = pq.read_table(tmp_path / "out").to_pandas().set_index("id")
    expected_rows = (
        pq.read_table(undisturbed(tmp_path / "images.npy", 4)).to_pandas().set_index("id").drop(6)
    )
    assert list(rows.index) == list(expected_rows.index)
    assert list(rows["label"]) == list(expected_rows["label"])
    np.testing.assert_allclose(rows.filter(like="p_"), expected_rows.filter(like="p_"), atol=1e-5)
    assert expected.summary["done"] == 12


def test_worker_with_a_wrong_clock_takes_part(
    tmp_path: Path, data: Path, jobs: Jobs, source: Path, start: Start
) -> None:
    job, expected = start(source, shard=1)
    with (
        faulty(tmp_path / "early", f"clock:{DAY}", **FAST, LOUPE_DATA_DIR=data),
        faulty(tmp_path / "late", f"clock:-{DAY}", **FAST, LOUPE_DATA_DIR=data),
    ):
        assert_done(jobs, job, expected)

    found = jobs.get(job.id)
    assert found.started is not None
    assert found.finished is not None
    assert found.created - 1 < found.started < found.finished < time.time() + 1


# Redis


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    (tmp_path / "redis").mkdir()
    with redis_server(tmp_path / "redis", appendonly="yes", appendfsync="everysec") as server:
        yield server


@pytest.mark.parametrize("kind", ["source", "array"])
def test_commits_lost_by_redis_are_repeated_with_the_same_rows(
    tmp_path: Path,
    server: RedisServer,
    digits_model: StoredModel,
    kind: str,
    request: pytest.FixtureRequest,
    undisturbed: Undisturbed,
) -> None:
    source = request.getfixturevalue(kind)
    expected = read_result(undisturbed(source))
    jobs = Jobs(server.client)
    job = submit(jobs, source, tmp_path / "out", digits_model.tag, SHARD)
    variables = {**FAST, "LOUPE_REDIS_URL": server.url}
    with faulty(
        tmp_path / "log", "stop:after:worker.queue.claims:Claims.commit_shard", **variables
    ) as worker:
        asleep = stopped(worker)
        shutil.copytree(tmp_path / "redis", tmp_path / "a-second-ago")
        asleep.resume()
        assert_done(jobs, job, expected)
        server.process.kill()
        server.process.wait()
        shutil.rmtree(tmp_path / "redis")
        shutil.copytree(tmp_path / "a-second-ago", tmp_path / "redis")
        server.start_again()
        assert until(lambda: server.client.ping())
        assert jobs.get(job.id).state == "running"
        assert_done(jobs, job, expected)


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "paused for 20 s"]
)
def test_a_redis_that_is_killed_or_paused_changes_no_row(
    tmp_path: Path,
    server: RedisServer,
    source: Path,
    digits_model: StoredModel,
    number: signal.Signals,
    undisturbed: Undisturbed,
) -> None:
    expected = read_result(undisturbed(source, shard=1))
    jobs = Jobs(server.client)
    job = submit(jobs, source, tmp_path / "out", digits_model.tag, 1)
    with running(tmp_path / "log", "worker", **FAST, LOUPE_REDIS_URL=server.url):
        until(lambda: jobs.get(job.id).done)
        server.process.send_signal(number)
        if number == signal.SIGKILL:
            server.process.wait()
            server.start_again()
        else:
            time.sleep(20)
            server.process.send_signal(signal.SIGCONT)
        until(lambda: server.client.ping())
        assert_done(jobs, job, expected)


def test_resume_works_after_redis_is_wiped_under_a_worker(
    tmp_path: Path,
    data: Path,
    redis_here: Redis,
    jobs: Jobs,
    source: Path,
    digits_model: StoredModel,
    undisturbed: Undisturbed,
) -> None:
    expected = read_result(undisturbed(source))
    submit(jobs, source, tmp_path / "out", digits_model.tag, SHARD)
    with faulty(
        tmp_path / "log",
        "stop:before:worker.results.receipts:write_receipt",
        **FAST,
        LOUPE_DATA_DIR=data,
    ) as worker:
        asleep = stopped(worker)
        redis_here.flushall()
        resumed = jobs.submit(prepare_resume(tmp_path / "out"))
        asleep.resume()
        assert_done(jobs, resumed, expected)


# Disk, model and source


@pytest.mark.parametrize(
    ("fault", "error"),
    [("full-disk:50000", "File too large"), ("unprivileged", "Permission denied")],
    ids=["full", "read-only"],
)
def test_job_without_disk_space_fails_and_can_be_retried(
    tmp_path: Path, data: Path, jobs: Jobs, start: Start, fault: str, error: str
) -> None:
    np.save(tmp_path / "images.npy", pictures.digits(4000))  # two parts of a hundred kilobytes each
    job, expected = start(tmp_path / "images.npy", shard=2000)
    if fault == "unprivileged":
        (tmp_path / "out").chmod(0o555)
    with faulty(tmp_path / "log", fault, **FAST, LOUPE_DATA_DIR=data, LOUPE_MAX_ATTEMPTS=2):
        found = ended(jobs, job)
    assert found.state == "failed"
    assert error in str(found.error)
    assert not list((tmp_path / "out").glob("predictions*"))
    assert not list((tmp_path / "out").glob(".*"))

    (tmp_path / "out").chmod(0o755)
    assert run("jobs", "retry", job.id, LOUPE_DATA_DIR=data).returncode == 0
    assert run("worker", "--burst", LOUPE_DATA_DIR=data).returncode == 0
    assert_done(jobs, job, expected)


@pytest.mark.parametrize("harm", ["deleted", "damaged"])
def test_job_with_a_deleted_or_damaged_model_fails_and_resumes_when_it_is_restored(
    tmp_path: Path,
    data: Path,
    jobs: Jobs,
    fragile_source: Path,
    digits_model: StoredModel,
    store: Path,
    harm: str,
    undisturbed: Undisturbed,
) -> None:
    model = copied(digits_model, store)
    expected = read_result(undisturbed(fragile_source))
    aside = Path(shutil.copytree(model.folder, tmp_path / "aside"))
    job = submit(jobs, fragile_source, tmp_path / "out", model.tag, SHARD)
    variables = {**FAST, "LOUPE_DATA_DIR": data, "BENTOML_HOME": store}
    with faulty(
        tmp_path / "log", "stop:after:worker.queue.claims:Claims.commit_shard", **variables
    ) as worker:
        asleep = stopped(worker)
        shutil.rmtree(model.folder) if harm == "deleted" else damage(model.folder / "model.onnx")
        asleep.kill()  # the next one has the model yet to load
        found = ended(jobs, job)
        assert found.state == "failed"
        assert model.tag in str(found.error)
        shutil.copytree(aside, model.folder, dirs_exist_ok=True)
        retry(jobs, job.id)
        assert_done(jobs, job, expected)


def in_mid_job(
    tmp_path: Path,
    data: Path,
    jobs: Jobs,
    fragile_source: Path,
    model: StoredModel,
    harm: Callable[[], object],
) -> Job:
    """Damage the source between opening and reading the second shard; return the ended job."""
    job = submit(jobs, fragile_source, tmp_path / "out", model.tag, SHARD)
    points = [
        "kill:after:worker.queue.claims:Claims.commit_shard",
        "stop:before:worker.scoring.task:score_batch",
    ]
    with faulty(tmp_path / "log", *points, **FAST, LOUPE_DATA_DIR=data) as worker:
        asleep = stopped(worker)
        harm()
        asleep.resume()
        return ended(jobs, job)


@pytest.mark.parametrize("harm", ["truncated", "replaced", "removed"])
def test_array_changed_during_a_job_fails_the_job_but_no_worker(
    tmp_path: Path,
    data: Path,
    jobs: Jobs,
    fragile_array: Path,
    digits_model: StoredModel,
    harm: str,
) -> None:
    harms: dict[str, Callable[[], object]] = {
        "truncated": lambda: os.truncate(fragile_array, 4096),
        "replaced": lambda: Path(
            shutil.copy(fragile_array, fragile_array.with_suffix(".new"))
        ).replace(fragile_array),
        "removed": fragile_array.unlink,
    }
    found = in_mid_job(tmp_path, data, jobs, fragile_array, digits_model, harms[harm])

    assert found.state == "failed"
    assert str(fragile_array) in str(found.error)
    assert harm == "removed" or "has changed since the job began" in str(found.error)
    assert (tmp_path / "log").read_text().count(
        "has ended with"
    ) == 1  # that which was killed after its shard
    assert not (tmp_path / "out" / "_SUCCESS").exists()


@pytest.mark.parametrize("harm", ["truncated", "replaced"])
def test_a_picture_that_changes_in_mid_job_fails_the_job(
    tmp_path: Path,
    data: Path,
    jobs: Jobs,
    fragile_source: Path,
    digits_model: StoredModel,
    harm: str,
) -> None:
    picture = fragile_source / "45.png"
    other = pictures.png(pictures.digits(1, seed=99)[0])
    harms: dict[str, Callable[[], object]] = {
        "truncated": lambda: os.truncate(picture, 40),
        "replaced": lambda: picture.write_bytes(other),
    }
    found = in_mid_job(tmp_path, data, jobs, fragile_source, digits_model, harms[harm])

    assert found.state == "failed"
    assert f"'{picture}' has changed since the job began" in str(found.error)


def test_picture_removed_during_a_job_becomes_an_error(
    tmp_path: Path, data: Path, jobs: Jobs, fragile_source: Path, digits_model: StoredModel
) -> None:
    found = in_mid_job(
        tmp_path, data, jobs, fragile_source, digits_model, (fragile_source / "45.png").unlink
    )

    assert (found.state, found.done, found.failed) == ("done", IMAGES - 3, 3)
    assert [error["id"] for error in read_errors(tmp_path / "out")] == [
        "04.png",
        "31.png",
        "45.png",
    ]


def test_a_folder_that_is_removed_in_mid_job_fails_the_job(
    tmp_path: Path, data: Path, jobs: Jobs, fragile_source: Path, digits_model: StoredModel
) -> None:
    found = in_mid_job(
        tmp_path, data, jobs, fragile_source, digits_model, lambda: shutil.rmtree(fragile_source)
    )

    assert found.state == "failed"
    assert str(fragile_source) in str(found.error)


# Commands


def test_two_who_submit_the_same_at_once_see_one_job_end(
    tmp_path: Path,
    data: Path,
    jobs: Jobs,
    source: Path,
    digits_model: StoredModel,
    undisturbed: Undisturbed,
) -> None:
    expected = read_result(undisturbed(source))
    command = ["score", source, "--out", tmp_path / "out", "--model", digits_model.tag]
    variables = {"LOUPE_DATA_DIR": data, "LOUPE_SHARD_IMAGES": SHARD}
    with (
        running(tmp_path / "one", *command, **variables) as one,
        running(tmp_path / "two", *command, **variables) as two,
        running(tmp_path / "worker", "worker", **variables),
    ):
        assert (one.wait(50), two.wait(50)) == (0, 0)

    assert "48 scored, errors: 2" in (tmp_path / "one").read_text()
    assert "48 scored, errors: 2" in (tmp_path / "two").read_text()
    (job,) = jobs.all()
    assert_done(jobs, job, expected)


@pytest.mark.parametrize("options", [PLAIN, SINGLE], ids=["parts", "single"])
@pytest.mark.parametrize(
    "point",
    [
        "before:worker.results.outputs:publish_index",
        "after:worker.queue.claims:Claims.commit_shard",
    ],
)
def test_job_cancelled_while_running_can_be_retried(
    tmp_path: Path,
    data: Path,
    jobs: Jobs,
    source: Path,
    start: Start,
    options: ScoringOptions,
    point: str,
) -> None:
    job, expected = start(source, options=options)
    with faulty(tmp_path / "log", f"stop:{point}", **SLEEPER, LOUPE_DATA_DIR=data) as worker:
        asleep = stopped(worker)
        assert cancel(jobs, job.id).state == "cancelling"
        asleep.resume()
        assert ended(jobs, job).state == "cancelled"
        assert (tmp_path / "out" / "_CANCELLED").exists()
        retry(jobs, job.id)
        assert_done(jobs, job, expected)


@pytest.mark.parametrize(
    "point",
    [
        "before:worker.sources.pictures:PictureSource.batches",
        "before:worker.scoring.task:score_batch",
        "before:worker.sources.pictures:PictureSource.plan",
        "before:worker.results.outputs:write_part",
    ],
)
def test_cancelled_job_frees_a_worker_that_hangs(
    tmp_path: Path,
    data: Path,
    jobs: Jobs,
    source: Path,
    digits_model: StoredModel,
    point: str,
    undisturbed: Undisturbed,
) -> None:
    expected = read_result(undisturbed(source))
    job = submit(jobs, source, tmp_path / "out", digits_model.tag, SHARD)
    other = submit(jobs, source, tmp_path / "other", digits_model.tag, SHARD)
    with faulty(tmp_path / "log", f"hang:{point}", **SLEEPER, LOUPE_DATA_DIR=data) as supervisor:
        until(lambda: jobs.get(job.id).state in {"planning", "running"})
        until(lambda: point in str((tmp_path / "log").read_text()))
        (worker,) = descendants(supervisor.pid)
        assert cancel(jobs, job.id).state == "cancelling"
        assert ended(jobs, job).state == "cancelled"
        assert_done(jobs, other, expected)
        assert worker.is_running()  # it started its program again


def test_finishing_job_cannot_be_cancelled(
    tmp_path: Path, data: Path, jobs: Jobs, source: Path, start: Start
) -> None:
    job, expected = start(source)
    with faulty(
        tmp_path / "log",
        "stop:before:worker.results.outputs:write_summary",
        **SLEEPER,
        LOUPE_DATA_DIR=data,
    ) as worker:
        asleep = stopped(worker)
        with pytest.raises(Conflict):
            cancel(jobs, job.id)
        asleep.resume()
        assert_done(jobs, job, expected)


def test_job_cancelled_before_it_starts_leaves_its_folder_free(
    tmp_path: Path,
    data: Path,
    jobs: Jobs,
    source: Path,
    digits_model: StoredModel,
    undisturbed: Undisturbed,
) -> None:
    expected = read_result(undisturbed(source))
    job = submit(jobs, source, tmp_path / "out", digits_model.tag, SHARD)
    assert cancel(jobs, job.id).state == "cancelled"
    assert os.listdir(tmp_path / "out") == []  # noqa: PTH208
    assert submit(jobs, source, tmp_path / "out", digits_model.tag, SHARD).id == job.id
    assert run("worker", "--burst", LOUPE_DATA_DIR=data).returncode == 0

    assert_done(jobs, job, expected)
