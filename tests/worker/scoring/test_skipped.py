"""Whatever a source holds is scored, an error, or counted as skipped, with a reason."""

import json
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from redis import Redis

from loupe.images.selection import count
from loupe.models.store import StoredModel
from loupe.settings import Settings
from tests.support.files import odd_folder
from tests.support.job_requests import submit
from worker.jobs_cli import show_ended
from worker.process import running_locally
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.records import Job
from worker.queue.submission import prepare
from worker.results.outputs import read_errors, read_summary
from worker.scoring.consumer import Consumer


def as_folder(folder: Path) -> Path:
    return folder


def as_pattern(folder: Path) -> Path:
    return folder / "**" / "*"


def as_zip(folder: Path) -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder))
    return folder.with_suffix(".zip")


def as_tar(folder: Path) -> Path:
    with tarfile.open(folder.with_suffix(".tar"), "w") as archive:
        archive.add(folder, ".")
    return folder.with_suffix(".tar")


def as_gzipped_tar(folder: Path) -> Path:
    with tarfile.open(folder.with_suffix(".tar.gz"), "w:gz") as archive:
        archive.add(folder, ".")
    return folder.with_suffix(".tar.gz")


def scored_locally(settings: Settings, source: Path, output: Path, model: StoredModel) -> Job:
    request = prepare(lambda _: None, source, output, model.tag, 7).request
    with running_locally(settings, request) as queue:
        pass
    return queue.get(request.job_id)


@pytest.mark.parametrize("make", [as_folder, as_zip, as_tar, as_gzipped_tar])
def test_every_file_of_a_source_is_accounted_for(
    settings: Settings,
    tmp_path: Path,
    digits_model: StoredModel,
    make: Callable[[Path], Path],
) -> None:
    # Archives do not contain what links lead to.
    expected = odd_folder.write(tmp_path / "images", links=make is as_folder)

    job = scored_locally(settings, make(tmp_path / "images"), tmp_path / "out", digits_model)

    summary = read_summary(tmp_path / "out")
    rows = pq.read_table(tmp_path / "out")["id"].to_pylist()
    assert sorted(rows) == sorted(expected.read)
    assert {error["id"] for error in read_errors(tmp_path / "out")} == expected.failed
    assert job.skipped_files == summary["skipped_files"] == expected.skipped
    for counts in (job.to_json(), summary):
        assert counts["skipped"] == count(expected.skipped)
        assert (counts["done"], counts["failed"]) == (len(expected.read), len(expected.failed))
        assert counts["total"] == len(expected.read | expected.failed) + count(expected.skipped)


def test_pattern_counts_the_files_that_match(
    settings: Settings, tmp_path: Path, digits_model: StoredModel
) -> None:
    expected = odd_folder.write(tmp_path / "images")

    job = scored_locally(settings, as_pattern(tmp_path / "images"), tmp_path / "out", digits_model)

    assert sorted(pq.read_table(tmp_path / "out")["id"].to_pylist()) == sorted(expected.read)
    hidden = expected.skipped.pop("hidden")
    assert hidden
    assert job.skipped_files == expected.skipped
    assert job.total == job.done + job.failed + job.skipped


def test_skipped_files_are_counted_through_redis_and_shown(
    redis: Redis,
    settings: Settings,
    tmp_path: Path,
    digits_model: StoredModel,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = tmp_path / "images"
    expected = odd_folder.write(source)
    jobs = Jobs(redis)
    job = submit(jobs, source, tmp_path / "out", digits_model.tag, 7)
    claims = Claims(redis, "a", lease_seconds=30.0, max_attempts=2)

    Consumer(jobs, claims, settings).run(burst=True)

    ended = jobs.get(job.id)
    assert (ended.state, ended.skipped_files) == ("done", expected.skipped)
    assert ended.total == ended.done + ended.failed + ended.skipped
    assert ended.progress == 1
    assert json.loads(json.dumps(ended.to_json()))["skipped"] == count(expected.skipped)
    show_ended(ended)
    shown = capsys.readouterr().out
    assert f"skipped: {count(expected.skipped)}" in shown
    assert ".svg 1" in shown
    again = submit(jobs, source, tmp_path / "out", digits_model.tag, 7)
    assert (again.total, again.skipped_files) == (ended.total, ended.skipped_files)


def test_finished_job_that_redis_has_lost_has_its_counts(
    settings: Settings, tmp_path: Path, digits_model: StoredModel
) -> None:
    odd_folder.write(tmp_path / "images")
    job = scored_locally(settings, tmp_path / "images", tmp_path / "out", digits_model)

    found = prepare(lambda _: None, tmp_path / "images", tmp_path / "out", digits_model.tag, 7)

    assert found.finished is not None
    for name in ("total", "done", "failed", "skipped", "skipped_files"):
        assert getattr(found.finished, name) == getattr(job, name)
