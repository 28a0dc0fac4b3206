"""The worker's loop, in process: real jobs, a real model, a real Redis."""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from redis import Redis

from loupe.jobs import ScoringOptions
from loupe.models.engines.engine import Engine
from loupe.models.store import StoredModel
from loupe.settings import Settings
from tests.support import pictures
from tests.support.files import bombs
from tests.support.job_requests import new_request, submit
from tests.support.programs import until
from train.data.datasets import load_dataset
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.records import Job
from worker.results import outputs
from worker.scoring.consumer import Consumer, worker_name
from worker.scoring.lease import Lease


@pytest.fixture
def jobs(redis: Redis) -> Jobs:
    return Jobs(redis)


@pytest.fixture
def consumer(redis: Redis, settings: Settings) -> Consumer:
    return Consumer(Jobs(redis), Claims(redis, "a", lease_seconds=30.0, max_attempts=2), settings)


def array_job(jobs: Jobs, folder: Path, model: StoredModel, count: int, shard_images: int) -> Job:
    np.save(folder / "images.npy", pictures.digits(count))
    return submit(jobs, folder / "images.npy", folder / "out", model.tag, shard_images)


@contextmanager
def at_work(consumer: Consumer) -> Iterator[None]:
    thread = threading.Thread(target=consumer.run)
    thread.start()
    try:
        yield
    finally:
        consumer.stopping.set()
        thread.join()


def run_until_failed(consumer: Consumer, job: Job) -> None:
    with at_work(consumer):
        until(lambda: consumer.jobs.get(job.id).state == "failed")


def test_a_burst_does_all_that_is_queued_and_ends(
    jobs: Jobs, consumer: Consumer, tmp_path: Path, digits_model: StoredModel, engine: Engine
) -> None:
    job = array_job(jobs, tmp_path, digits_model, 700, 300)
    consumer.run(burst=True)

    ended = jobs.get(job.id)
    assert (ended.state, ended.total, ended.done, ended.failed, ended.shards) == (
        "done",
        700,
        700,
        0,
        3,
    )
    table = pq.read_table(sorted((tmp_path / "out").glob("*.parquet")))
    found = np.stack(
        [table[f"p_{name}"].to_numpy() for name in digits_model.card.class_names], axis=1
    )
    np.testing.assert_allclose(found, engine.predict(pictures.digits(700)), atol=1e-5)
    assert jobs.workers() == []


def test_a_shard_is_scored_while_the_one_before_is_written(
    jobs: Jobs,
    consumer: Consumer,
    tmp_path: Path,
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    job = array_job(jobs, tmp_path, digits_model, 20, 10)
    second_is_scored = threading.Event()
    write_part = outputs.write_part

    def written(folder: Path, shard: int, *about: object) -> list[str]:
        if shard == 0:
            assert second_is_scored.wait(20)
        else:
            second_is_scored.set()
        return write_part(folder, shard, *about)  # type: ignore[arg-type]

    monkeypatch.setattr(outputs, "write_part", written)
    consumer.run(burst=True)

    assert jobs.get(job.id).state == "done"
    assert pq.read_table(tmp_path / "out")["id"].to_pylist() == list(range(20))


def test_summary_contains_the_time_per_phase_and_image_sheets(
    jobs: Jobs, consumer: Consumer, tmp_path: Path, digits_model: StoredModel
) -> None:
    array_job(jobs, tmp_path, digits_model, 700, 300)
    consumer.run(burst=True)

    summary = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert summary["workers"] == ["a"]
    assert summary["seconds"]["score"] > 0
    assert sum(summary["confidence_histogram"]) == 700
    for name in ("_sample.png", "_least-confident.png"):
        with Image.open(tmp_path / "out" / name) as sheet:
            assert sheet.format == "PNG"


def test_true_labels_tell_how_good_the_labels_are(
    jobs: Jobs, consumer: Consumer, tmp_path: Path, digits_model: StoredModel
) -> None:
    test = load_dataset("digits").test
    for place, (image, label) in enumerate(zip(test.images, test.labels, strict=True)):
        (tmp_path / "images" / str(label)).mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / str(label) / f"{place}.png").write_bytes(pictures.png(image))
    submit(
        jobs,
        tmp_path / "images",
        tmp_path / "out",
        digits_model.tag,
        100,
        ScoringOptions(labels="folder"),
    )
    consumer.run(burst=True)

    rows = pq.read_table(tmp_path / "out")
    right = np.mean(np.array(rows["label"].to_pylist()) == rows["label_true"].to_pylist())
    summary = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert summary["labelled"] == len(test.labels)
    assert summary["accuracy"] == pytest.approx(right)
    assert summary["accuracy"] == pytest.approx(digits_model.card.measured.accuracy, abs=0.01)
    assert (
        np.array(summary["confusion_matrix"]).sum(axis=1).tolist()
        == np.bincount(test.labels).tolist()
    )


def test_columns_of_a_table_come_with_the_rows(
    jobs: Jobs, consumer: Consumer, tmp_path: Path, digits_model: StoredModel
) -> None:
    files = [pictures.png(image) for image in pictures.digits(25)]
    files[12] = b"text"
    about = {
        "key": [f"k{row}" for row in range(25)],
        "shop": [row % 3 for row in range(25)],
        "truth": [7] * 25,
    }
    pq.write_table(pa.table({"image": files, **about}), tmp_path / "table")
    options = ScoringOptions(labels="column:truth", keep=("shop",), id="key", probabilities=False)
    submit(jobs, tmp_path / "table", tmp_path / "out", digits_model.tag, 10, options)
    consumer.run(burst=True)

    rows = pq.read_table(tmp_path / "out")
    assert rows.column_names == [
        "id",
        "label",
        "index",
        "confidence",
        "familiarity",
        "reason",
        "label_true",
        "shop",
    ]
    assert rows["id"].to_pylist() == [f"k{row}" for row in range(25) if row != 12]
    assert rows["shop"].to_pylist() == [row % 3 for row in range(25) if row != 12]
    assert set(rows["label_true"].to_pylist()) == {"7"}


def test_two_models_take_turns_in_one_worker(
    jobs: Jobs,
    consumer: Consumer,
    tmp_path: Path,
    digits_model: StoredModel,
    shapes_model: StoredModel,
) -> None:
    made = []
    for model in (digits_model, shapes_model):
        (tmp_path / model.name).mkdir()
        made.append(array_job(jobs, tmp_path / model.name, model, 50, 10))
    consumer.run(burst=True)

    assert [jobs.get(job.id).state for job in made] == ["done", "done"]
    for model in (digits_model, shapes_model):
        summary = json.loads((tmp_path / model.name / "out" / "_summary.json").read_text())
        assert list(summary["labels"]) == list(model.card.class_names)


def test_a_folder_of_nothing_but_broken_files_is_scored(
    jobs: Jobs, consumer: Consumer, tmp_path: Path, digits_model: StoredModel
) -> None:
    (tmp_path / "images").mkdir()
    for place in range(3):
        (tmp_path / "images" / f"{place}.png").write_bytes(b"text")
    job = submit(jobs, tmp_path / "images", tmp_path / "out", digits_model.tag, 2)
    consumer.run(burst=True)

    assert (jobs.get(job.id).state, jobs.get(job.id).failed) == ("done", 3)


def test_step_that_raises_is_retried_and_then_fails_its_job(
    jobs: Jobs, consumer: Consumer, tmp_path: Path, digits_model: StoredModel
) -> None:
    job = array_job(jobs, tmp_path, digits_model, 20, 10)
    (tmp_path / "out" / "_RUNNING").unlink()
    (tmp_path / "out").rmdir()
    (tmp_path / "out").write_text("a file where the folder should be")
    run_until_failed(consumer, job)

    assert str(jobs.get(job.id).error).startswith("plan: ")
    assert "File exists" in str(jobs.get(job.id).error)


def test_an_error_that_loupe_names_is_not_tried_again(
    jobs: Jobs, consumer: Consumer, tmp_path: Path, digits_model: StoredModel
) -> None:
    job = array_job(jobs, tmp_path, digits_model, 20, 10)
    (tmp_path / "images.npy").write_bytes(b"text")
    consumer.run(burst=True)

    assert jobs.get(job.id).state == "failed"
    assert "is text" in str(jobs.get(job.id).error)


def test_a_step_whose_workers_all_died_fails_its_job(
    jobs: Jobs, redis: Redis, consumer: Consumer, tmp_path: Path, digits_model: StoredModel
) -> None:
    job = array_job(jobs, tmp_path, digits_model, 20, 10)
    for name in "bc":
        assert until(Claims(redis, name, lease_seconds=0.01, max_attempts=2).claim)
    consumer.claims.lease_seconds = 0.3
    run_until_failed(consumer, job)

    assert jobs.get(job.id).error == "plan: the workers of all 2 attempts died"


@pytest.mark.parametrize("shard_images", [128, 100_000])
def test_a_cancelled_job_keeps_the_parts_it_has_and_counts_them(
    jobs: Jobs,
    redis: Redis,
    settings: Settings,
    tmp_path: Path,
    digits_model: StoredModel,
    shard_images: int,
) -> None:
    consumer = Consumer(jobs, Claims(redis, "a", lease_seconds=0.2, max_attempts=2), settings)
    job = array_job(jobs, tmp_path, digits_model, 100_000, shard_images)
    with at_work(consumer):
        until(lambda: jobs.get(job.id).done)
        jobs.cancel(job.id)
        until(lambda: jobs.get(job.id).state == "cancelled")

    output, ended = tmp_path / "out", jobs.get(job.id)
    rows = sum(pq.read_metadata(part).num_rows for part in output.glob("predictions-*.parquet"))
    summary = json.loads((output / "_summary.json").read_text())
    assert rows == summary["done"] == ended.done < 100_000
    assert (summary["state"], summary["total"], summary["failed"]) == ("cancelled", 100_000, 0)
    left = {
        path.name
        for path in output.iterdir()
        if not path.name.startswith(("predictions-", "_part-"))
    }
    sheets = {"_sample.png", "_least-confident.png"} if rows else set()
    assert left == {"_CANCELLED", "_columns.json", "_summary.json"} | sheets


def test_costly_pictures_are_errors_and_their_neighbours_are_scored(
    jobs: Jobs, redis: Redis, tmp_path: Path, settings: Settings, digits_model: StoredModel
) -> None:
    settings = settings.model_copy(update={"decode_seconds": 0.2})
    consumer = Consumer(jobs, Claims(redis, "a", lease_seconds=3.0, max_attempts=2), settings)
    images = tmp_path / "images"
    images.mkdir()
    for name in ("1-large.png", "3-large.png"):
        (images / name).write_bytes(pictures.png(np.full((300, 300), 200, np.uint8)))
    (images / "2-costly.jpg").write_bytes(bombs.jpeg_with_scans(7000, 90))
    (images / "4-tiny.png").write_bytes(pictures.png(pictures.digits(1)[0]))
    (images / "5-scans.jpg").write_bytes(bombs.jpeg_with_scans(100, 20_000))
    job = submit(jobs, images, tmp_path / "out", digits_model.tag, 10)
    consumer.run(burst=True)

    ended = jobs.get(job.id)
    assert (ended.state, ended.done, ended.failed) == ("done", 3, 2)
    errors = list(outputs.read_errors(tmp_path / "out"))
    assert {row["id"]: row["code"] for row in errors} == dict.fromkeys(
        ("2-costly.jpg", "5-scans.jpg"), "image_too_costly"
    )


def test_cancelled_job_frees_the_worker_while_it_decodes(
    jobs: Jobs, redis: Redis, tmp_path: Path, settings: Settings, digits_model: StoredModel
) -> None:
    settings = settings.model_copy(update={"decode_seconds": 60})
    consumer = Consumer(jobs, Claims(redis, "a", lease_seconds=3.0, max_attempts=2), settings)
    images = tmp_path / "images"
    images.mkdir()
    for number in range(20):
        (images / f"{number}.jpg").write_bytes(bombs.jpeg_with_scans(7000, 90))
    job = submit(jobs, images, tmp_path / "out", digits_model.tag, 10)
    with at_work(consumer):
        until(lambda: jobs.get(job.id).state == "running")
        time.sleep(1)
        jobs.cancel(job.id)
        started = time.monotonic()
        until(lambda: jobs.get(job.id).state == "cancelled")

    assert time.monotonic() - started < 5  # on a busy machine


def test_stopping_worker_claims_no_step(
    jobs: Jobs, consumer: Consumer, tmp_path: Path, digits_model: StoredModel
) -> None:
    job = array_job(jobs, tmp_path, digits_model, 20, 10)
    consumer.stopping.set()
    consumer.run()

    assert jobs.get(job.id).state == "queued"


def test_a_lease_notices_that_it_is_lost(jobs: Jobs, redis: Redis) -> None:
    jobs.submit(new_request())
    mine = Claims(redis, "a", lease_seconds=0.03, max_attempts=5)
    delivery = mine.claim()
    assert delivery is not None
    assert until(Claims(redis, "b", lease_seconds=0.01, max_attempts=5).claim)

    lease = Lease(mine, delivery)
    lease.start()
    until(lambda: lease.lost)
    lease.stop()


def test_held_lease_is_renewed_with_the_progress(jobs: Jobs, redis: Redis) -> None:
    job = jobs.submit(new_request())
    redis.hset(f"loupe:{{job:{job.id}}}", "total", 100)
    queue = Claims(redis, "a", lease_seconds=0.3, max_attempts=5)
    delivery = queue.claim()
    assert delivery is not None

    lease = Lease(queue, delivery)
    lease.start()
    lease.scored = 7
    until(lambda: jobs.get(job.id).done == 7)
    assert not lease.lost
    lease.stop()


def test_no_two_workers_share_a_name() -> None:
    assert worker_name() != worker_name()
