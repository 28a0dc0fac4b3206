"""`loupe jobs`: what it says of jobs, and what it does to them."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from redis import Redis

from loupe.errors import InvalidImage
from loupe.jobs import ScoringOptions, file_format
from loupe.models.store import StoredModel
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from tests.support import pictures
from tests.support.command import Loupe
from tests.support.job_requests import fail_after_one_shard, submit
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.keys import job_key
from worker.queue.records import Job
from worker.results.outputs import Part, write_part
from worker.scoring.consumer import Consumer


@pytest.fixture
def redis_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path / "data"))
    with open_redis(Settings(data_dir=tmp_path / "data")) as client:
        yield client


@pytest.fixture
def job(redis_here: Redis, tmp_path: Path, digits_model: StoredModel) -> Job:
    np.save(tmp_path / "images.npy", pictures.digits(20))
    return submit(Jobs(redis_here), tmp_path / "images.npy", tmp_path / "out", digits_model.tag, 10)


def test_jobs_are_listed_and_shown(loupe: Loupe, job: Job) -> None:
    listed = loupe("jobs")
    assert listed.code == 0
    header, row = listed.out.splitlines()
    assert header.split()[:5] == ["job", "state", "scored", "errors", "created"]
    assert row.split()[:6] == [job.id, "queued", "0", "of", "?", "0"]
    assert loupe("jobs", "list").out == listed.out

    shown = loupe("jobs", "show", job.id).out
    assert f"{job.id}  queued " in shown
    assert job.model in shown
    assert "started   –" in shown


def test_jobs_are_also_told_in_json(loupe: Loupe, job: Job) -> None:
    shown = json.loads(loupe("jobs", "show", job.id, "--json").out)

    assert shown.pop("dead_letters") == []
    assert [*shown] == [
        *(
            "id",
            "state",
            "model",
            "source",
            "total",
            "progress",
            "done",
            "failed",
            "skipped",
            "skipped_files",
        ),
        *("created", "started", "finished", "eta_seconds", "output", "error"),
    ]
    assert (shown["id"], shown["state"], shown["total"]) == (job.id, "queued", None)
    assert json.loads(loupe("jobs", "list", "--json").out) == [shown]


def test_labels_ids_and_kept_columns_become_options_of_the_job(
    loupe: Loupe, redis_here: Redis, tmp_path: Path, digits_model: StoredModel
) -> None:
    manifest = tmp_path / "manifest.csv"
    manifest.write_text("path,key,shop,class\na.png,1,x,7\n")
    wanted = ["--labels", "column:class", "--keep", "shop, path", "--id", "key"]
    arguments = [
        "score",
        manifest,
        "--out",
        tmp_path / "new",
        "--model",
        digits_model.tag,
        "--detach",
    ]
    assert loupe(*arguments, *wanted).code == 0

    (job,) = Jobs(redis_here).all()
    assert job.options == ScoringOptions(labels="column:class", keep=("shop", "path"), id="key")
    assert (job.options.label_column, job.options.columns) == ("class", ("shop", "path", "class"))
    refused = loupe(*arguments, "--keep", "shop,shoe")
    assert refused.code == 1
    assert refused.err.startswith("error: column_not_found: ")
    for fact in ("'shoe'", f"'{manifest}'", "path, key, shop, class"):
        assert fact in refused.err


def test_cancelling_a_queued_job_frees_its_folder(loupe: Loupe, job: Job) -> None:
    assert loupe("jobs", "cancel", job.id).out.startswith(f"job {job.id} is cancelled; 0 scored → ")
    assert list(Path(job.output).iterdir()) == []
    again = loupe("jobs", "cancel", job.id)
    assert again.code == 1
    assert again.err.startswith(f"error: job_ended: Job '{job.id}' ")
    assert "is cancelled" in again.err


def test_cancelling_a_running_job_waits_for_a_worker(
    loupe: Loupe, job: Job, redis_here: Redis
) -> None:
    redis_here.hset(job_key(job.id), "state", "planning")
    ended = loupe("jobs", "cancel", job.id)

    assert f"job {job.id} is cancelling" in ended.out
    assert "No worker is running" in ended.err


def test_following_a_cancelled_job_says_so(loupe: Loupe, job: Job) -> None:
    loupe("jobs", "cancel", job.id)
    followed = loupe("jobs", "follow", job.id)

    assert followed.code == 130
    assert "0 scored, errors: 0" in followed.out
    assert followed.err.startswith(f"error: interrupted: Job {job.id} ")


def test_errors_are_shown_as_far_as_there_are_any(loupe: Loupe, job: Job) -> None:
    assert loupe("jobs", "errors", job.id).out == ""
    broken = [(f"{number:02}.png", InvalidImage("text")) for number in range(30)]
    write_part(
        Path(job.output),
        0,
        1,
        Part([], np.empty((0, 10), np.float32), broken),
        [str(digit) for digit in range(10)],
    )

    shown = loupe("jobs", "errors", job.id).out
    assert shown.startswith("invalid_image  00.png\n  text\n")
    assert "19.png" in shown
    assert "20.png" not in shown
    assert shown.endswith("… List all errors: --json\n")
    told = [json.loads(line) for line in loupe("jobs", "errors", job.id, "--json").out.splitlines()]
    assert [each["id"] for each in told] == [name for name, _ in broken]


def test_an_unknown_job_is_named(loupe: Loupe, job: Job) -> None:
    for verb in ("show", "follow", "cancel", "errors"):
        ended = loupe("jobs", verb, "nothing")
        assert ended.code == 1
        assert ended.err.startswith("error: job_not_found: ")
        assert "'nothing'" in ended.err


def test_results_are_read_in_any_format(
    loupe: Loupe, job: Job, redis_here: Redis, tmp_path: Path, settings: Settings
) -> None:
    assert loupe("jobs", "results", job.id).err.startswith("error: job_not_done: ")
    claims = Claims(redis_here, "a", lease_seconds=30.0, max_attempts=1)
    Consumer(Jobs(redis_here), claims, settings).run(burst=True)

    lines = loupe("jobs", "results", job.id, "--format", "jsonl").out.splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(20))
    for name in ("rows.csv", "rows.parquet", "rows.jsonl"):
        written = loupe("jobs", "results", job.id, "--out", tmp_path / name)
        assert (written.code, written.out) == (0, "")
    assert (tmp_path / "rows.csv").read_text() == loupe(
        "jobs", "results", job.id, "--format", "csv"
    ).out
    assert pq.read_table(tmp_path / "rows.parquet").equals(pq.read_table(job.output))
    assert (tmp_path / "rows.jsonl").read_text().splitlines() == lines
    wanted = loupe("jobs", "results", job.id, "--format", "csv", "--out", tmp_path / "rows")
    assert wanted.code == 0
    assert (tmp_path / "rows").read_bytes() == (tmp_path / "rows.csv").read_bytes()


@pytest.mark.parametrize("name", ["out", "out.csv"])
def test_finished_rows_of_a_failed_job_are_read(
    loupe: Loupe,
    redis_here: Redis,
    digits_model: StoredModel,
    tmp_path: Path,
    settings: Settings,
    name: str,
) -> None:
    np.save(tmp_path / "images.npy", pictures.digits(20))
    kind = file_format(name)
    options = ScoringOptions(format=kind or "parquet", single=kind is not None)
    tag = digits_model.tag
    job = submit(Jobs(redis_here), tmp_path / "images.npy", tmp_path / name, tag, 10, options)
    failed = fail_after_one_shard(redis_here, job.id, settings)
    left = Path(job.folder) / "predictions-00001-of-00003.csv"  # of another plan
    left.write_text("id\n7\n")

    found = loupe("jobs", "results", job.id, "--format", "jsonl")
    written = loupe("jobs", "results", job.id, "--out", tmp_path / "rows.csv")

    assert (failed.state, failed.done, failed.progress) == ("failed", 10, 0.5)
    assert (found.code, written.code) == (0, 0)
    assert [json.loads(line)["id"] for line in found.out.splitlines()] == list(range(10))
    assert "failed" in found.err
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 1 + 10
    assert f"loupe jobs results {job.id}" in loupe("jobs", "follow", job.id).err


def test_job_that_failed_at_its_beginning_has_no_rows(
    loupe: Loupe, job: Job, redis_here: Redis, settings: Settings
) -> None:
    Path(job.source).unlink()
    claims = Claims(redis_here, "a", lease_seconds=30.0, max_attempts=1)
    Consumer(Jobs(redis_here), claims, settings).run(burst=True)

    refused = loupe("jobs", "results", job.id)
    assert (refused.code, refused.out) == (1, "")
    assert refused.err.startswith("error: job_not_done: ")


def test_results_are_found_after_a_conversion(
    loupe: Loupe, job: Job, redis_here: Redis, settings: Settings, digits_model: StoredModel
) -> None:
    claims = Claims(redis_here, "a", lease_seconds=30.0, max_attempts=1)
    Consumer(Jobs(redis_here), claims, settings).run(burst=True)
    options = ScoringOptions(format="csv", single=True)
    converted = submit(
        Jobs(redis_here), job.source, job.output, digits_model.tag, job.shard_images, options
    )

    assert (converted.state, converted.done) == ("done", 20)
    assert [path.name for path in Path(job.output).glob("predictions*")] == ["predictions.csv"]
    assert len(loupe("jobs", "results", job.id).out.splitlines()) == 1 + 20


def test_job_that_waits_to_replace_a_result_has_none_of_its_errors(
    loupe: Loupe, redis_here: Redis, tmp_path: Path, digits_model: StoredModel, settings: Settings
) -> None:
    jobs, claims = Jobs(redis_here), Claims(redis_here, "a", lease_seconds=30.0, max_attempts=2)
    source = tmp_path / "pictures"
    source.mkdir()
    (source / "good.png").write_bytes(pictures.png(pictures.digits(1)[0]))
    (source / "text.png").write_bytes(b"no picture")
    first = submit(jobs, source, tmp_path / "out", digits_model.tag, 10)
    Consumer(jobs, claims, settings).run(burst=True)
    options = ScoringOptions(top_k=2)
    other = submit(jobs, source, tmp_path / "out", digits_model.tag, 10, options, again=True)

    assert "text.png" in loupe("jobs", "errors", first.id).out
    assert loupe("jobs", "errors", other.id).out == ""
    Consumer(jobs, claims, settings).run(burst=True)
    assert "text.png" in loupe("jobs", "errors", other.id).out


def test_errors_that_were_deleted_are_not_shown_as_none(
    loupe: Loupe, redis_here: Redis, job: Job, tmp_path: Path, settings: Settings
) -> None:
    jobs, claims = Jobs(redis_here), Claims(redis_here, "a", lease_seconds=30.0, max_attempts=2)
    (folder := tmp_path / "pictures").mkdir()
    (folder / "digit.png").write_bytes(pictures.png(pictures.digits(1)[0]))
    (folder / "text.png").write_bytes(b"text")
    scored = submit(jobs, folder, tmp_path / "scored", job.model, 10)
    Consumer(jobs, claims, settings).run(burst=True)
    (errors,) = (tmp_path / "scored").glob("_errors-*")
    errors.unlink()

    assert loupe("jobs", "errors", scored.id).err.startswith("error: results_not_found: ")


def test_result_that_another_job_has_overwritten_is_not_shown_for_its_own(
    loupe: Loupe, redis_here: Redis, job: Job, tmp_path: Path, settings: Settings
) -> None:
    jobs, claims = Jobs(redis_here), Claims(redis_here, "a", lease_seconds=30.0, max_attempts=2)
    Consumer(jobs, claims, settings).run(burst=True)
    source = tmp_path / "images.npy"
    other = submit(
        jobs, source, tmp_path / "out", job.model, 10, ScoringOptions(top_k=2), again=True
    )
    assert loupe("jobs", "results", job.id, "--format", "csv").code == 0

    Consumer(jobs, claims, settings).run(burst=True)
    for command in (("results", job.id, "--format", "csv"), ("errors", job.id)):
        refused = loupe("jobs", *command)
        assert refused.code == 1
        assert refused.err.startswith("error: results_not_found: ")
        assert other.id in refused.err
    assert "confidence" not in loupe("jobs", "follow", job.id).out
    assert loupe("jobs", "results", other.id, "--format", "csv").code == 0
    assert "confidence" in loupe("jobs", "follow", other.id).out
