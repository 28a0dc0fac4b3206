"""Scoring in one process without Redis gives the same result as through the queue."""

import io
import tarfile
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from redis import Redis

from loupe.errors import JobNotFound
from loupe.jobs import ScoringOptions
from loupe.models.store import StoredModel
from loupe.results import Format
from loupe.settings import Settings
from tests.support import pictures
from tests.support.job_requests import submit
from tests.support.programs import PATIENCE_SECONDS, until
from worker.process import running_locally
from worker.queue import local
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.local import LocalQueue
from worker.queue.records import Job, JobPlan, JobRequest
from worker.queue.steps import Shard
from worker.queue.submission import prepare, prepare_resume
from worker.results import outputs
from worker.results.claims import release_folder
from worker.results.outputs import read_errors, read_summary
from worker.scoring import task
from worker.scoring.consumer import Consumer
from worker.sources.pictures import PictureSource
from worker.sources.source import Records

IMAGES, SHARD = 50, 10


@pytest.fixture
def source(tmp_path: Path) -> Path:
    np.save(tmp_path / "images.npy", pictures.digits(IMAGES))
    return tmp_path / "images.npy"


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "backoff_seconds", lambda _: 0.0)


def new_request(source: Path, output: Path, model: StoredModel, shard: int = SHARD) -> JobRequest:
    return prepare(lambda _: None, source, output, model.tag, shard).request


def finished(settings: Settings, request: JobRequest) -> Job:
    with running_locally(settings, request) as queue:
        pass
    return queue.get(request.job_id)


@pytest.mark.parametrize(("limit", "state"), [("19%", "failed"), ("20%", "done"), (None, "done")])
def test_a_job_with_too_many_errors_ends_early(
    settings: Settings, tmp_path: Path, digits_model: StoredModel, limit: str | None, state: str
) -> None:
    (tmp_path / "images").mkdir()
    for number, image in enumerate(pictures.digits(40)):
        (tmp_path / f"images/{number:02}.png").write_bytes(pictures.png(image))
    for number in range(10):  # the first shard
        (tmp_path / f"images/0{number}-bad.png").write_bytes(b"no picture")
    request = new_request(tmp_path / "images", tmp_path / "out", digits_model)
    with running_locally(settings, request, limit) as queue:
        pass
    job = queue.get(request.job_id)

    assert job.state == state
    assert (job.done == 40) == (state == "done")
    if limit is not None and state == "failed":
        assert limit in str(job.error)
        assert finished(settings, request).state == "done"  # without a limit, from its parts


def test_job_of_kept_parts_with_too_many_errors_fails_again(
    settings: Settings, tmp_path: Path, digits_model: StoredModel
) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images/good.png").write_bytes(pictures.png(pictures.digits(1)[0]))
    (tmp_path / "images/bad.png").write_bytes(b"no picture")
    request = new_request(tmp_path / "images", tmp_path / "out", digits_model)
    for limit, state in (("0", "failed"), ("0", "failed"), ("1", "done")):
        with running_locally(settings, request, limit) as queue:
            pass
        job = queue.get(request.job_id)
        assert (job.state, job.done, job.failed) == (state, 1, 1)


def test_the_parts_are_those_that_come_through_redis(
    redis: Redis, settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    submit(Jobs(redis), source, tmp_path / "redis", digits_model.tag, SHARD)
    claims = Claims(redis, "a", lease_seconds=30.0, max_attempts=2)
    Consumer(Jobs(redis), claims, settings).run(burst=True)
    job = finished(settings, new_request(source, tmp_path / "local", digits_model))

    assert (job.state, job.total, job.done, job.failed) == ("done", IMAGES, IMAGES, 0)
    assert job.shards == IMAGES // SHARD
    there, here = (
        sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("redis", "local")
    )
    assert there == here
    for name in here:
        if name.startswith("predictions"):
            expected = (tmp_path / "redis" / name).read_bytes()
            assert (tmp_path / "local" / name).read_bytes() == expected


def labelled_source(folder: Path, kind: str) -> tuple[Path, ScoringOptions]:
    """Write digits with their labels as one kind of source."""
    images, labels = pictures.digits(IMAGES), [number % 10 for number in range(IMAGES)]
    files = [pictures.png(image) for image in images]
    folder.mkdir()
    if kind == "CSV of pixels":
        rows = np.column_stack([labels, images.reshape(IMAGES, -1)])
        np.savetxt(folder / "a.csv", rows, "%d", ",")
        return folder / "a.csv", ScoringOptions(labels="column:label")
    if kind == "arrays":
        np.savez(folder / "a.npz", x_test=images, y_test=labels, x_train=images[:1])
        return folder / "a.npz", ScoringOptions(labels="column:y_test", array="x_test")
    if kind == "folder of Parquet":
        for number in (0, 1):
            part = {"img": files[number::2], "label": labels[number::2]}
            pq.write_table(pa.table(part), folder / f"{number}.parquet")
        return folder, ScoringOptions(labels="column:label", image_column="img")
    members = {f"{number}.png": file for number, file in enumerate(files)}
    if kind == "metadata":
        for name, file in members.items():
            (folder / name).write_bytes(file)
        lines = (f"{name};{label}" for name, label in zip(members, labels, strict=True))
        (folder / "metadata.csv").write_text("\n".join(["file_name;label", *lines]), "utf-16")
        return folder / "metadata.csv", ScoringOptions(labels="column:label")
    with tarfile.open(folder / "a.tar.xz", "w:xz") as archive:
        for number, label in enumerate(labels):
            for name, data in ((f"{number}.png", files[number]), (f"{number}.cls", b"%d" % label)):
                member = tarfile.TarInfo(name)
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))
    return folder / "a.tar.xz", ScoringOptions(labels="column:cls")


@pytest.mark.parametrize(
    "kind", ["CSV of pixels", "arrays", "folder of Parquet", "metadata", "WebDataset"]
)
@pytest.mark.parametrize("file_format", ["parquet", "csv", "jsonl"])
def test_labels_of_every_source_give_the_accuracy_with_and_without_redis(
    redis: Redis,
    settings: Settings,
    tmp_path: Path,
    digits_model: StoredModel,
    kind: str,
    file_format: Format,
) -> None:
    source, options = labelled_source(tmp_path / "source", kind)
    options = options.model_copy(update={"format": file_format})
    submit(Jobs(redis), source, tmp_path / "redis", digits_model.tag, SHARD, options)
    claims = Claims(redis, "a", lease_seconds=30.0, max_attempts=2)
    Consumer(Jobs(redis), claims, settings).run(burst=True)
    prepared = prepare(lambda _: None, source, tmp_path / "local", digits_model.tag, SHARD, options)
    assert finished(settings, prepared.request).state == "done"

    there, here = (read_summary(tmp_path / name) for name in ("redis", "local"))
    assert here["done"] == here["labelled"] == IMAGES
    for fact in ("done", "failed", "labelled", "accuracy", "confusion_matrix"):
        assert here[fact] == there[fact]
    assert [sum(row) for row in here["confusion_matrix"]] == [IMAGES // 10] * 10


def test_an_interrupted_job_keeps_its_parts_and_is_resumed_later(
    settings: Settings, tmp_path: Path, digits_model: StoredModel
) -> None:
    np.save(tmp_path / "images.npy", np.tile(pictures.digits(500), (40, 1, 1)))
    out = tmp_path / "out"
    request = new_request(tmp_path / "images.npy", out, digits_model, 100)
    with running_locally(settings, request) as queue:
        until(lambda: queue.get(request.job_id).done)
        queue.interrupted.set()
    cancelled = queue.get(request.job_id)
    assert cancelled.state == "cancelled"
    assert read_summary(out)["done"] == cancelled.done < 20_000
    assert (out / "_CANCELLED").exists()

    again = prepare_resume(out)
    assert again.job_id == request.job_id
    assert finished(settings, again).state == "done"
    assert pq.read_table(out)["id"].to_pylist() == list(range(20_000))


def test_an_error_that_no_retry_can_fix_fails_the_job_at_once(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    request = new_request(source, tmp_path / "out", digits_model)
    source.write_bytes(b"text")
    job = finished(settings, request)

    assert job.state == "failed"
    assert str(source) in str(job.error)


@pytest.mark.parametrize(("failures", "state"), [(1, "done"), (2, "failed")])
def test_a_step_that_fails_is_attempted_again(
    settings: Settings,
    source: Path,
    tmp_path: Path,
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
    failures: int,
    state: str,
) -> None:
    left = [OSError("the disk is full")] * failures
    write_part = outputs.write_part

    def failing(folder: Path, shard: int, *rest: object) -> list[str]:
        if shard == 3 and left:
            raise left.pop()
        return write_part(folder, shard, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(outputs, "write_part", failing)
    limited = settings.model_copy(update={"max_attempts": 2})
    job = finished(limited, new_request(source, tmp_path / "out", digits_model))

    assert job.state == state
    assert (job.error or "").endswith("the disk is full" if state == "failed" else "")


def test_a_bad_record_becomes_an_error(
    settings: Settings,
    source: Path,
    tmp_path: Path,
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images = pictures.digits(IMAGES)
    images[17] = 77
    np.save(source, images)
    score_batch = task.score_batch

    def fragile(engine: object, clock: object, batch: Callable[[], Records]) -> object:
        if (batch().images == 77).all(axis=(1, 2)).any():
            raise ValueError("too grey")
        return score_batch(engine, clock, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(task, "score_batch", fragile)
    job = finished(settings, new_request(source, tmp_path / "out", digits_model))

    assert (job.state, job.done, job.failed) == ("done", IMAGES - 1, 1)
    errors = [(error["id"], error["code"]) for error in read_errors(tmp_path / "out")]
    assert errors == [("17", "record_failed")]


def test_another_job_is_not_known(source: Path, tmp_path: Path, digits_model: StoredModel) -> None:
    with pytest.raises(JobNotFound):
        LocalQueue(new_request(source, tmp_path / "out", digits_model), 1).get("another")


def test_shard_that_is_renewed_after_its_commit_counts_once(
    source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    queue = LocalQueue(new_request(source, tmp_path / "out", digits_model), 1)
    plan = queue.claim()
    assert plan is not None
    queue.commit_plan(plan, JobPlan(8, "revision", [Shard(0, 0, 8)]))
    shard = queue.claim()
    assert shard is not None
    queue.commit_shard(shard, 8, 0)
    queue.renew(shard, 8)

    assert queue.get(queue.job_id).done == 8


def test_local_job_ends_when_it_is_interrupted_while_it_hangs(
    settings: Settings,
    source: Path,
    tmp_path: Path,
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hanging, released = threading.Event(), threading.Event()

    def hang(*_: object) -> None:
        hanging.set()
        released.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(task, "score_batch", hang)
    request = new_request(source, tmp_path / "out", digits_model)
    with running_locally(settings, request) as queue:
        assert hanging.wait(PATIENCE_SECONDS)
        queue.interrupted.set()
        until(lambda: queue.get(request.job_id).state == "cancelled")
    released.set()
    assert queue.abandoned


def test_folder_that_the_worker_makes_is_private(
    redis: Redis, settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    request = new_request(source, tmp_path / "made" / "results", digits_model)
    release_folder(tmp_path / "made" / "results", remove=True)
    Jobs(redis).submit(request)
    claims = Claims(redis, "a", lease_seconds=30.0, max_attempts=2)
    Consumer(Jobs(redis), claims, settings).run(burst=True)

    assert (tmp_path / "made" / "results").stat().st_mode & 0o777 == 0o700


def test_contact_sheets_show_originals_unless_they_are_gone(
    settings: Settings,
    tmp_path: Path,
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(pictures.png(pictures.digit_sheet()))

    def width(name: str) -> int:
        finished(settings, new_request(folder, tmp_path / name, digits_model))
        with Image.open(tmp_path / name / "_sample.png") as sheet:
            return sheet.width

    def gone(*_: object) -> None:
        raise FileNotFoundError("gone")

    pairs = width("pairs")
    monkeypatch.setattr(PictureSource, "previews", gone)
    assert pairs > width("seen") + 300
