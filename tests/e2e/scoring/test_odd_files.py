"""Folders of odd files, uploaded, by path, as archives and in buckets: every file is counted."""

import json
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from loupe.client.client import Client
from loupe.images.selection import count
from loupe.models.store import StoredModel
from tests.support.files import odd_folder
from tests.support.programs import RunningService, run, running
from tests.support.servers import buckets
from worker.remote_path import RemotePath


@pytest.fixture(scope="module")
def worker(service_data: Path) -> Iterator[None]:
    log = service_data.with_name("worker-of-odd-files.log")
    with running(log, "worker", LOUPE_DATA_DIR=service_data):
        yield


def assert_accounted(job: dict[str, object], expected: odd_folder.Expected) -> None:
    """Check that a job counts every file of a folder once."""
    done, failed, skipped = len(expected.read), len(expected.failed), count(expected.skipped)
    assert (job["state"], job["error"]) == ("done", None)
    assert job["skipped_files"] == expected.skipped
    assert (job["done"], job["failed"], job["skipped"]) == (done, failed, skipped)
    assert job["total"] == done + failed + skipped


@pytest.mark.parametrize("on_server", [False, True], ids=["uploaded", "by path"])
def test_every_file_of_a_folder_is_accounted_for(
    service: RunningService, client: httpx.Client, worker: None, tmp_path: Path, on_server: bool
) -> None:
    expected = odd_folder.write(tmp_path / "images")
    with Client(service.url) as caller:
        scored = caller.score(tmp_path / "images", on_server=on_server, format="jsonl")
        job = scored.wait()
        rows = scored.results(tmp_path / "rows.jsonl").read_text().splitlines()
        errors = scored.errors()

    assert_accounted(client.get(f"/jobs/{job.id}").json(), expected)
    assert {json.loads(row)["id"] for row in rows} == expected.read
    assert {error.id for error in errors} == expected.failed


def as_zip(folder: Path, archive: Path) -> None:
    with zipfile.ZipFile(archive, "w") as made:
        for path in sorted(folder.rglob("*")):
            made.write(path, path.relative_to(folder))


def as_tar(folder: Path, archive: Path) -> None:
    with tarfile.open(archive, "w:gz") as made:
        made.add(folder, ".")


@pytest.mark.parametrize("make", [as_zip, as_tar])
def test_every_file_of_an_uploaded_archive_is_accounted_for(
    service: RunningService,
    client: httpx.Client,
    worker: None,
    tmp_path: Path,
    make: Callable[[Path, Path], None],
) -> None:
    expected = odd_folder.write(tmp_path / "images", links=False)
    make(tmp_path / "images", tmp_path / "archive")
    with Client(service.url) as caller:
        job = caller.score(tmp_path / "archive").wait()

    assert_accounted(client.get(f"/jobs/{job.id}").json(), expected)


def test_every_object_of_a_bucket_is_accounted_for(
    tmp_path: Path, digits_model: StoredModel, bucket: RemotePath
) -> None:
    odd_folder.write(tmp_path / "images", links=False)
    (tmp_path / "images" / "new\nline.gif").unlink()  # the server takes no such name
    buckets.put_all(tmp_path / "images", bucket)
    found = len(buckets.names(bucket))
    ended = run(
        *("score", bucket, "--out", tmp_path / "out", "--model", digits_model.tag, "--local")
    )

    assert ended.returncode == 0, ended.stderr
    summary = json.loads((tmp_path / "out" / "_summary.json").read_text())
    assert summary["done"] + summary["failed"] + summary["skipped"] == summary["total"] == found
    assert summary["skipped"] == count(summary["skipped_files"]) > 0
    shown = re.search(r"(\d+) scored, errors: (\d+), skipped: (\d+)", ended.stdout)
    assert shown is not None, ended.stdout
    assert sum(map(int, shown.groups())) == found
