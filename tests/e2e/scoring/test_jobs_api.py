"""Bulk scoring over HTTP, with a service, a Redis and a worker as separate processes."""

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loupe.models.store import StoredModel
from loupe.results import Format
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from service.jobs.transfers import UPLOADS_SHARE
from tests.support import pictures
from tests.support.job_requests import fail_after_one_shard
from tests.support.programs import RunningService, free_port, run, running, serving, until
from tests.support.servers.redis_servers import servers_in
from tests.support.servers.webhook_receiver import SECRET, Receiver, is_genuine, receiving
from worker.queue.keys import job_key

DIGIT = pictures.png(pictures.digits(1)[0])
ALICE, BOB = "the-key-of-alice-0001", "the-key-of-bob-000002"
KINDS: list[Format] = ["parquet", "csv", "jsonl"]
UPLOAD_LIMIT = 2_000_000
ZIP = {"Content-Type": "application/zip"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a data folder, a root with pictures, and a folder outside the root."""
    place = tmp_path_factory.mktemp("place")
    for folder in ("data", "root/images/deep", "outside"):
        (place / folder).mkdir(parents=True)
    for number, image in enumerate(pictures.digits(30, seed=4)):
        (
            place / "root" / "images" / ("deep" if number % 2 else ".") / f"{number:02}.png"
        ).write_bytes(pictures.png(image))
    (place / "root" / "images" / "03-text.png").write_bytes(b"no image")
    (place / "outside" / "secret.png").write_bytes(DIGIT)
    (place / "root" / "link").symlink_to(place / "outside")
    (place / "root" / "dangling").symlink_to(place / "nowhere")
    return place


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def settings(place: Path, digits_model: StoredModel, receiver: Receiver) -> dict[str, object]:
    return {
        "LOUPE_DATA_DIR": place / "data",
        "LOUPE_MODEL": digits_model.tag,
        "LOUPE_JOB_ROOTS": f"/nowhere:{place / 'root'}",
        "LOUPE_MAX_UPLOAD_BYTES": UPLOAD_LIMIT,
        "LOUPE_SHARD_IMAGES": 8,
        "LOUPE_API_KEYS": f"alice:{ALICE},bob:{BOB}",
        "LOUPE_ACCESS_LOG": "true",
        "LOUPE_WEBHOOK_URL": receiver.url,
        "LOUPE_WEBHOOK_SECRET": SECRET,
    }


@pytest.fixture(scope="module")
def service(place: Path, settings: dict[str, object]) -> Iterator[RunningService]:
    with serving(place / "service.log", **settings) as service:
        yield service


@pytest.fixture(scope="module")
def worker(place: Path, settings: dict[str, object]) -> Iterator[None]:
    with running(place / "worker.log", "worker", **settings):
        yield


@pytest.fixture(scope="module")
def alice(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=50, headers={"X-API-Key": ALICE}) as client:
        yield client


@pytest.fixture(scope="module")
def bob(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=50, headers={"X-API-Key": BOB}) as client:
        yield client


def accepted(answer: httpx.Response) -> str:
    """Return the id of the new job."""
    assert answer.status_code == 202, answer.text
    job: dict[str, str] = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert job["state"] == "queued"
    return job["id"]


def ended(client: httpx.Client, job_id: str) -> dict[str, Any]:
    """Wait for the end of a job."""

    def found() -> dict[str, Any] | None:
        job: dict[str, Any] = client.get(f"/jobs/{job_id}").json()
        return job if job["state"] in ("done", "failed", "cancelled") else None

    return until(found)


def webhook_of(receiver: Receiver, job_id: str) -> tuple[dict[str, str], bytes] | None:
    """Return headers and body of the webhook of a job, if it has arrived."""
    for headers, body in receiver.got:
        if json.loads(body)["data"]["id"] == job_id:
            return headers, body
    return None


def archive(folder: Path) -> bytes:
    """Return a zip archive of a folder, sorted by path."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for path in sorted(path for path in folder.rglob("*.png")):
            zipped.write(path, path.relative_to(folder))
    return file.getvalue()


def npy(count: int) -> bytes:
    file = io.BytesIO()
    np.save(file, pictures.digits(count))
    return file.getvalue()


def jobs_folders(place: Path) -> set[str]:
    folder = place / "data" / "jobs"
    return {path.name for path in folder.iterdir()} if folder.exists() else set()


def rows(body: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(body))


# Whole jobs


@pytest.fixture(scope="module")
def results_of_the_command_line(
    place: Path, settings: dict[str, object], tmp_path_factory: pytest.TempPathFactory
) -> dict[Format, bytes]:
    """Score the pictures on the command line, once in each format."""
    results: dict[Format, bytes] = {}
    for kind in KINDS:
        out = tmp_path_factory.mktemp(kind) / "out"
        options = ["--format", kind, "--top-k", 2, "--threshold", 0.9, "--single"]
        scored = run(
            *("score", place / "root" / "images", "--out", out, "--model", "digits", *options),
            **settings,
        )
        assert scored.returncode == 0, scored.stderr
        results[kind] = (out / f"predictions.{kind}").read_bytes()
    return results


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_those_of_the_command_line_in_every_format(
    place: Path,
    alice: httpx.Client,
    worker: None,
    results_of_the_command_line: dict[Format, bytes],
    kind: Format,
) -> None:
    source = place / "root" / "images"
    options = {"format": kind, "top_k": 2, "threshold": 0.9}
    job = accepted(alice.post("/jobs", json={"source": str(source), "model": "digits", **options}))
    assert (ended(alice, job)["state"], ended(alice, job)["done"], ended(alice, job)["failed"]) == (
        "done",
        30,
        1,
    )

    for asked, expected in results_of_the_command_line.items():
        answer = alice.get(f"/jobs/{job}/results", params={"format": asked})
        assert answer.status_code == 200
        assert answer.headers["content-disposition"] == f'attachment; filename="{job}.{asked}"'
        if asked == "parquet":
            assert rows(answer.content).equals(rows(expected))
        else:
            assert answer.content == expected
        if asked == kind:
            assert alice.get(f"/jobs/{job}/results").content == answer.content


@pytest.mark.parametrize("single", ["true", "false"])
def test_uploaded_archive_is_scored(
    place: Path, alice: httpx.Client, worker: None, single: str
) -> None:
    params = {"format": "csv", "single": single, "probabilities": "false"}
    content = archive(place / "root" / "images")
    job = accepted(alice.post("/jobs", content=content, headers=ZIP, params=params))

    assert ended(alice, job)["state"] == "done"
    table = rows(alice.get(f"/jobs/{job}/results", params={"format": "parquet"}).content)
    assert table.num_rows == 30
    assert table.column_names == ["id", "label", "index", "confidence", "familiarity", "reason"]
    errors = alice.get(f"/jobs/{job}/errors")
    assert errors.headers["content-type"] == "application/jsonl"
    (line,) = map(json.loads, errors.text.splitlines())
    assert (line["id"], line["code"]) == ("03-text.png", "invalid_image")


def saved(save: Any, **arrays: Any) -> bytes:
    file = io.BytesIO()
    save(file, **arrays)
    return file.getvalue()


def parquet(column: str = "image") -> bytes:
    file = io.BytesIO()
    images = [pictures.png(image) for image in pictures.digits(9)]
    pq.write_table(pa.table({column: images, "label": range(9)}), file)
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "media_type"),
    [
        pytest.param(npy(9), "application/x-npy", id="npy"),
        pytest.param(saved(np.savez, x=pictures.digits(9)), "application/octet-stream", id="npz"),
        pytest.param(
            saved(np.savez_compressed, x=pictures.digits(9)), "application/zip", id="compressed npz"
        ),
        pytest.param(parquet(), "application/vnd.apache.parquet", id="Parquet"),
    ],
)
def test_uploaded_tables_and_arrays_are_scored(
    alice: httpx.Client, worker: None, content: bytes, media_type: str
) -> None:
    job = accepted(alice.post("/jobs", content=content, headers={"Content-Type": media_type}))

    assert (ended(alice, job)["state"], ended(alice, job)["done"]) == ("done", 9)
    assert rows(alice.get(f"/jobs/{job}/results").content)["id"].to_pylist() == list(range(9))


def csv_of_pixels() -> bytes:
    images = pictures.digits(9).reshape(9, -1)
    names = ",".join(f"pixel{number}" for number in range(784))
    lines = (f"{label}," + ",".join(map(str, image)) for label, image in enumerate(images))
    return f"label,{names}\n".encode() + "\n".join(lines).encode()


def keras_arrays() -> bytes:
    images = pictures.digits(9)
    return saved(np.savez, x_train=images[:4], x_test=images, label=np.arange(9))


@pytest.mark.parametrize(
    ("content", "media_type", "options"),
    [
        pytest.param(csv_of_pixels(), "text/csv", {}, id="CSV"),
        pytest.param(keras_arrays(), "application/zip", {"array": "x_test"}, id="npz"),
        pytest.param(
            parquet("img"),
            "application/vnd.apache.parquet",
            {"image_column": "img"},
            id="Parquet",
        ),
    ],
)
def test_options_of_the_source_are_parameters_of_an_upload(
    alice: httpx.Client, worker: None, content: bytes, media_type: str, options: dict[str, str]
) -> None:
    params = {"labels": "column:label", **options}
    headers = {"Content-Type": media_type}
    job = accepted(alice.post("/jobs", content=content, headers=headers, params=params))

    assert (ended(alice, job)["state"], ended(alice, job)["done"]) == ("done", 9)
    table = rows(alice.get(f"/jobs/{job}/results").content)
    assert table["id"].to_pylist() == list(range(9))
    assert len(set(table["label_true"].to_pylist())) == 9


@pytest.mark.parametrize("line", ['{{"path": "{}"}}\n', "path\n{}\n"])
def test_upload_cannot_name_files_of_the_service_machine(
    place: Path, alice: httpx.Client, worker: None, line: str
) -> None:
    manifest = line.format(place / "outside" / "secret.png").encode()
    job = accepted(
        alice.post("/jobs", content=manifest, headers={"Content-Type": "application/octet-stream"})
    )

    assert ended(alice, job)["state"] == "failed"
    refused = alice.get(f"/jobs/{job}/results")
    assert (refused.status_code, refused.json()["code"]) == (409, "job_not_done")
    assert f"'{job}'" in refused.json()["error"]
    assert "failed: " in refused.json()["error"]


def test_events_follow_a_job_to_its_end(alice: httpx.Client, worker: None) -> None:
    job = accepted(
        alice.post("/jobs", content=npy(400), headers={"Content-Type": "application/x-npy"})
    )
    with alice.stream("GET", f"/jobs/{job}/events") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in answer.iter_lines() if line]

    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    assert {each["id"] for each in events} == {job}
    assert events[-1] == alice.get(f"/jobs/{job}").json()
    assert (events[-1]["state"], events[-1]["done"], events[-1]["progress"]) == ("done", 400, 1)
    done = [each["done"] for each in events]
    assert done == sorted(done)
    without_time = [{**each, "eta_seconds": None} for each in events]
    assert all(one != other for one, other in pairwise(without_time))


@pytest.mark.parametrize(("limit", "state"), [("0", "failed"), (1, "done"), ("3.3%", "done")])
def test_job_with_too_many_errors_fails_and_each_end_is_reported(
    place: Path,
    alice: httpx.Client,
    worker: None,
    receiver: Receiver,
    limit: int | str,
    state: str,
) -> None:
    source = {"source": str(place / "root" / "images"), "max_errors": limit}
    found = ended(alice, accepted(alice.post("/jobs", json=source)))

    assert (found["state"], found["failed"]) == (state, 1)
    assert (found["error"] is not None) == (state == "failed")
    headers, body = until(lambda: webhook_of(receiver, found["id"]))
    assert is_genuine(headers, body)
    assert json.loads(body)["type"] == f"job.{state}"
    assert json.loads(body)["data"] == {**found, "owner": "alice"}


# Without a worker


@pytest.fixture(scope="module")
def idle(place: Path, settings: dict[str, object]) -> Iterator[RunningService]:
    """Run a service without keys and without a worker."""
    here = {**settings, "LOUPE_DATA_DIR": place / "idle"}
    del here["LOUPE_API_KEYS"]
    with serving(place / "idle.log", **here) as service:
        yield service


@pytest.fixture
def caller(idle: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=idle.url, timeout=50) as client:
        yield client


def test_job_is_cancelled_once(caller: httpx.Client) -> None:
    job = accepted(
        caller.post("/jobs", content=npy(9), headers={"Content-Type": "application/x-npy"})
    )
    waiting = caller.get(f"/jobs/{job}/results")
    assert (waiting.status_code, waiting.json()["code"]) == (409, "job_not_done")
    assert f"'{job}'" in waiting.json()["error"]
    assert "queued" in waiting.json()["error"]
    assert caller.get(f"/jobs/{job}/errors").text == ""

    cancelled = caller.delete(f"/jobs/{job}")
    assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    again = caller.delete(f"/jobs/{job}")
    assert (again.status_code, again.json()["code"]) == (409, "job_ended")
    nothing = caller.get(f"/jobs/{job}/results")
    assert (nothing.status_code, nothing.json()["code"]) == (404, "results_not_found")


def test_files_of_a_job_in_a_bucket_are_not_found_here(place: Path, caller: httpx.Client) -> None:
    job = accepted(
        caller.post("/jobs", content=npy(9), headers={"Content-Type": "application/x-npy"})
    )
    with open_redis(Settings(data_dir=place / "idle")) as redis:
        redis.hset(job_key(job), "output", "s3://bucket/out")

    for files in ("results", "errors"):
        answer = caller.get(f"/jobs/{job}/{files}")
        assert (answer.status_code, answer.json()["code"]) == (404, "results_not_found")


def test_finished_rows_of_a_failed_job_are_sent(place: Path, caller: httpx.Client) -> None:
    job = accepted(
        caller.post("/jobs", content=npy(20), headers={"Content-Type": "application/x-npy"})
    )
    settings = Settings(data_dir=place / "idle")
    with open_redis(settings) as redis:
        fail_after_one_shard(redis, job, settings)

    shown = caller.get(f"/jobs/{job}").json()
    sent = caller.get(f"/jobs/{job}/results?format=csv")
    assert (shown["state"], shown["total"]) == ("failed", 20)
    assert 0 < shown["progress"] == shown["done"] / 20 < 1
    assert (sent.status_code, sent.headers["x-loupe-state"]) == (200, "failed")
    assert f"{job}-failed.csv" in sent.headers["content-disposition"]
    assert len(sent.text.splitlines()) == 1 + shown["done"]


def test_without_keys_everybody_sees_all_jobs(
    place: Path, caller: httpx.Client, settings: dict[str, object], tmp_path: Path
) -> None:
    source, data = place / "root" / "images", {**settings, "LOUPE_DATA_DIR": place / "idle"}
    ended = run("score", source, "--out", tmp_path / "out", "--detach", **data)

    assert ended.returncode == 0, ended.stderr
    newest = caller.get("/jobs").json()["jobs"][0]
    assert newest["output"] == str(tmp_path / "out")
    assert caller.get(f"/jobs/{newest['id']}").json() == newest


def test_list_comes_in_pages(caller: httpx.Client) -> None:
    for _ in range(3):
        accepted(caller.post("/jobs", content=npy(1), headers=ZIP))
    found: list[str] = []
    cursor: str | None = None
    while True:
        params = {"limit": "2"} | ({} if cursor is None else {"after": cursor})
        page = caller.get("/jobs", params=params).json()
        assert 1 <= len(page["jobs"]) <= 2
        found += [job["id"] for job in page["jobs"]]
        cursor = page["next"]
        if cursor is None:
            break

    assert found == [job["id"] for job in caller.get("/jobs").json()["jobs"]]
    for params in ({"limit": "0"}, {"limit": "1001"}, {"after": "x"}, {"page": "2"}):
        assert caller.get("/jobs", params=params).status_code == 400


def test_followers_do_not_block_predictions_or_shutdown(
    settings: dict[str, object], tmp_path: Path
) -> None:
    here = {**settings, "LOUPE_DATA_DIR": tmp_path / "data", "LOUPE_MAX_REQUESTS": 2}
    del here["LOUPE_API_KEYS"]
    with (
        serving(tmp_path / "log", **here) as service,
        httpx.Client(base_url=service.url, timeout=50) as client,
    ):
        job = accepted(
            client.post("/jobs", content=npy(9), headers={"Content-Type": "application/x-npy"})
        )
        with following(client, job), following(client, job), following(client, job):
            assert client.post("/predict", content=DIGIT).status_code == 200
        with following(client, job):
            service.process.send_signal(signal.SIGTERM)
            assert service.process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


@contextmanager
def following(client: httpx.Client, job: str) -> Iterator[None]:
    """Follow a job, from its first event on."""
    with client.stream("GET", f"/jobs/{job}/events") as answer:
        assert next(answer.iter_lines()).startswith("data: ")
        yield


# Owners


def test_job_belongs_to_the_key_that_submitted_it(
    place: Path, alice: httpx.Client, bob: httpx.Client, settings: dict[str, object], tmp_path: Path
) -> None:
    job = accepted(
        alice.post("/jobs", content=npy(9), headers={"Content-Type": "application/x-npy"})
    )
    assert (
        run(
            "score", place / "root" / "images", "--out", tmp_path / "out", "--detach", **settings
        ).returncode
        == 0
    )

    def seen(client: httpx.Client) -> list[str]:
        return [each["id"] for each in client.get("/jobs").json()["jobs"]]

    assert job in seen(alice)
    assert job not in seen(bob)
    visible = {
        each["output"] for client in (alice, bob) for each in client.get("/jobs").json()["jobs"]
    }
    assert str(tmp_path / "out") not in visible
    unknown = bob.get("/jobs/nothing")
    assert (unknown.status_code, unknown.json()["code"]) == (404, "job_not_found")
    for method, path in (
        ("GET", ""),
        ("DELETE", ""),
        ("GET", "/events"),
        ("GET", "/results"),
        ("GET", "/errors"),
    ):
        refused = bob.request(method, f"/jobs/{job}{path}")
        assert refused.status_code == 404
        assert refused.text == unknown.text.replace("nothing", job)
    assert alice.get(f"/jobs/{job}").status_code == 200
    assert httpx.get(str(alice.base_url) + "/jobs").status_code == 401


def test_jobs_are_counted_and_logged(service: RunningService, alice: httpx.Client) -> None:
    alice.get("/jobs/nothing-to-see")
    metrics = alice.get("/metrics").text

    assert 'loupe_requests_total{key="alice",model="-",protocol="loupe",status="404"}' in metrics
    assert 'loupe_rejected_total{code="job_not_found"}' in metrics
    assert "GET '/jobs/nothing-to-see' 404" in service.log.read_text()


# Sources outside of the roots


@pytest.mark.parametrize(
    "source",
    [
        *(
            "outside",
            "outside/secret.png",
            "outside/nothing.png",
            "nowhere",
            "root/../outside",
            "root/link",
        ),
        *(
            "root/link/secret.png",
            "root/link/nothing.png",
            "root/dangling",
            "root/images/../../outside/secret.png",
        ),
        *("rooted", "data", "data/jobs"),
        *("root/{a,../../outside}/secret.png", "root/../outside/*.png"),
    ],
)
def test_refused_source_does_not_reveal_whether_it_exists(
    place: Path, alice: httpx.Client, source: str
) -> None:
    named = str(place / source) if "{" not in source else f"{place}/{source}"
    refused = alice.post("/jobs", json={"source": named})

    if "{" in source:  # not a pattern, but a name that does not exist
        assert (refused.status_code, refused.json()["code"]) == (422, "invalid_source")
        return
    assert (refused.status_code, refused.json()["code"]) == (403, "source_forbidden")
    absent = alice.post("/jobs", json={"source": "/nothing-here"}).json()["error"]
    _, shown, rest = refused.json()["error"].split("'", 2)
    assert named.startswith(shown.partition("...")[0])
    assert rest == absent.split("'", 2)[2]


def test_links_and_manifests_cannot_lead_out_of_the_roots(
    place: Path, alice: httpx.Client, worker: None
) -> None:
    links = place / "root" / "links"
    links.mkdir()
    (links / "out.png").symlink_to(place / "outside" / "secret.png")
    (links / "in.png").symlink_to(place / "root" / "images" / "00.png")
    (links / "list.csv").write_text("path\nin.png\n../link/secret.png\n")

    found = ended(alice, accepted(alice.post("/jobs", json={"source": str(links)})))
    assert (found["total"], found["done"], found["failed"]) == (3, 1, 0)
    assert found["skipped_files"] == {"not_a_picture": {".csv": 1}, "outside": {".png": 1}}

    job = accepted(alice.post("/jobs", json={"source": str(links / "list.csv")}))
    found = ended(alice, job)
    assert (found["total"], found["done"], found["failed"], found["skipped"]) == (2, 1, 1, 0)
    (error,) = map(json.loads, alice.get(f"/jobs/{job}/errors").text.splitlines())
    assert error["code"] == "invalid_image"


def test_files_that_a_client_did_not_send_are_counted(alice: httpx.Client, worker: None) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as made:
        made.writestr("a.png", pictures.png(pictures.digits(1)[0]))
        made.writestr("notes.txt", "text")
    not_sent = {"not_a_picture": {".txt": 2, ".csv": 1}, "broken_link": {".png": 1}}

    def post(skipped: object) -> httpx.Response:
        return alice.post(
            "/jobs",
            params={"skipped": json.dumps(skipped)},
            content=archive.getvalue(),
            headers={"Content-Type": "application/zip"},
        )

    found = ended(alice, accepted(post(not_sent)))
    assert (found["total"], found["done"], found["skipped"], found["progress"]) == (6, 1, 5, 1)
    assert found["skipped_files"] == {
        "not_a_picture": {".txt": 3, ".csv": 1},
        "broken_link": {".png": 1},
    }
    for wrong in ({"unknown": {".txt": 1}}, {"hidden": {".txt": 0}}, {"hidden": {"x" * 99: 1}}):
        assert post(wrong).json()["code"] == "invalid_request"


@pytest.mark.parametrize(
    "source",
    ["", ".", "images", "~/x", "\0", "/etc\0/passwd", "/" + "x" * 5000, "../" * 50 + "etc"],
)
def test_source_that_is_not_below_a_root_is_refused(alice: httpx.Client, source: str) -> None:
    refused = alice.post("/jobs", json={"source": source})

    assert (refused.status_code, refused.json()["code"]) in (
        (403, "source_forbidden"),
        (400, "invalid_request"),
    )
    assert len(refused.text) < 400


@pytest.mark.parametrize("name", ["root/nothing", "root/images/*.png", "root/" + "x" * 5000])
def test_missing_source_below_a_root_is_reported(
    place: Path, alice: httpx.Client, name: str
) -> None:
    refused = alice.post("/jobs", json={"source": f"{place}/{name}"})

    assert (refused.status_code, refused.json()["code"]) == (422, "invalid_source")


def test_without_roots_only_uploads_are_scored(
    tmp_path: Path, place: Path, digits_model: StoredModel
) -> None:
    settings = {"LOUPE_DATA_DIR": tmp_path / "data", "LOUPE_MODEL": digits_model.tag}
    with serving(tmp_path / "log", **settings) as service:
        refused = httpx.post(f"{service.url}/jobs", json={"source": str(place / "root" / "images")})
        assert (refused.status_code, refused.json()["code"]) == (403, "source_forbidden")
        job = httpx.post(
            f"{service.url}/jobs", content=npy(3), headers={"Content-Type": "application/x-npy"}
        )
        assert job.status_code == 202


# Refused requests


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 0},
        {"top_k": "3"},
        {"top_k": True},
        {"threshold": 1.5},
        {"format": "xlsx"},
        {"single": "yes"},
        {"output": "/etc"},
        {"source": 5},
        {"max_errors": "5 %"},
        {"max_errors": -1},
        {"max_errors": True},
    ],
    ids=str,
)
def test_invalid_options_are_refused_with_name_and_value(
    alice: httpx.Client, place: Path, options: dict[str, object]
) -> None:
    refused = alice.post("/jobs", json={"source": str(place / "root" / "images"), **options})
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
    ((name, value),) = options.items()
    assert name in refused.json()["error"]
    assert name == "output" or str(value) in refused.json()["error"]


@pytest.mark.parametrize(
    "query",
    [
        *(
            "top_k=0",
            "top_k=x",
            "top_k=null",
            "threshold=nan",
            "threshold=-0.1",
            "format=xlsx",
            "probabilities=1",
            "max_errors=101%",
        ),
        *("single=yes", "output=/etc", "source=/etc", "top_k=1&top_k=1", "model=birds"),
    ],
)
def test_invalid_query_is_refused_before_the_upload(
    alice: httpx.Client, place: Path, query: str
) -> None:
    before = jobs_folders(place)
    refused = alice.post(
        f"/jobs?{query}", content=npy(1), headers={"Content-Type": "application/x-npy"}
    )

    expected = (404, "model_not_found") if "birds" in query else (400, "invalid_request")
    assert (refused.status_code, refused.json()["code"]) == expected
    assert jobs_folders(place) == before


@pytest.mark.parametrize(
    "media_type", ["text/html", "image/png", "multipart/form-data; boundary=x", "text/plain"]
)
def test_other_media_types_are_refused(alice: httpx.Client, media_type: str) -> None:
    refused = alice.post("/jobs", content=b"anything", headers={"Content-Type": media_type})
    assert (refused.status_code, refused.json()["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    ("content", "code"),
    [(b"{", "invalid_json"), (b"[]", "invalid_request"), (b"{}", "invalid_request")],
)
def test_json_without_a_source_is_refused(alice: httpx.Client, content: bytes, code: str) -> None:
    refused = alice.post("/jobs", content=content, headers={"Content-Type": "application/json"})
    assert (refused.status_code, refused.json()["code"]) == (400, code)


def test_results_in_other_formats_are_refused(alice: httpx.Client) -> None:
    refused = alice.get("/jobs/nothing/results?format=xlsx")
    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")


# Uploads that fail


def chunks(size: int) -> Iterator[bytes]:
    for _ in range(0, size, 100_000):
        yield bytes(100_000)


@pytest.mark.parametrize("declared", [True, False])
def test_too_large_upload_leaves_nothing(place: Path, alice: httpx.Client, declared: bool) -> None:
    before = jobs_folders(place)
    content = bytes(UPLOAD_LIMIT + 1) if declared else chunks(UPLOAD_LIMIT + 200_000)
    refused = alice.post("/jobs", content=content, headers=ZIP)

    assert (refused.status_code, refused.json()["code"]) == (413, "body_too_large")
    assert "2,000,000 bytes (LOUPE_MAX_UPLOAD_BYTES)" in refused.json()["error"]
    assert jobs_folders(place) == before


def test_empty_upload_leaves_nothing(place: Path, alice: httpx.Client) -> None:
    before = jobs_folders(place)
    refused = alice.post("/jobs", content=b"", headers=ZIP)

    assert (refused.status_code, refused.json()["code"]) == (400, "invalid_request")
    assert jobs_folders(place) == before


def connected(service: RunningService) -> socket.socket:
    """Return a connection to the service."""
    host, port = service.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=50)


@contextmanager
def begun(service: RunningService) -> Iterator[socket.socket]:
    """Send the first part of an upload."""
    head = (
        f"POST /jobs HTTP/1.1\r\nHost: a\r\nX-API-Key: {ALICE}\r\nContent-Type: application/zip\r\n"
    )
    with connected(service) as connection:
        connection.sendall(f"{head}Content-Length: 1900000\r\n\r\n".encode() + bytes(1_500_000))
        yield connection


def halves(place: Path) -> list[Path]:
    """Return the files of unfinished uploads."""
    return [path for path in (place / "data" / "jobs").glob("*/upload.part") if path.stat().st_size]


def test_client_that_disconnects_during_an_upload_leaves_nothing(
    place: Path, service: RunningService, alice: httpx.Client
) -> None:
    before = jobs_folders(place)
    with begun(service):
        until(lambda: halves(place))
    until(lambda: jobs_folders(place) == before)


def test_caller_with_many_slow_uploads_does_not_lock_others_out(
    place: Path, service: RunningService, alice: httpx.Client, bob: httpx.Client
) -> None:
    before = jobs_folders(place)
    with ExitStack() as running:
        for _ in range(UPLOADS_SHARE):
            running.enter_context(begun(service))
        until(lambda: len(halves(place)) == UPLOADS_SHARE)
        refused = alice.post("/jobs", content=npy(1), headers=ZIP)
        assert (refused.status_code, refused.json()["code"]) == (429, "too_many_transfers")
        assert refused.headers["retry-after"] == "1"
        accepted(bob.post("/jobs", content=npy(1), headers=ZIP))
    until(lambda: len(jobs_folders(place)) == len(before) + 1)


def test_upload_of_a_killed_service_is_deleted_by_the_next_upload(
    place: Path, alice: httpx.Client
) -> None:
    left = place / "data" / "jobs" / "left"
    left.mkdir(parents=True)
    (left / "upload.part").write_bytes(b"half")
    os.utime(left / "upload.part", (0, 0))
    accepted(alice.post("/jobs", content=npy(1), headers=ZIP))
    assert not left.exists()


def test_upload_is_kept_exactly_if_its_job_was_queued(place: Path, alice: httpx.Client) -> None:
    """The service was killed when it submitted three jobs; only one is in the queue."""
    known = accepted(alice.post("/jobs", content=npy(1), headers=ZIP))
    marks = [
        place / "data" / "jobs" / folder / mark
        for folder, mark in (
            ("complete", "job.part"),
            ("lost", "0123456789ab.part"),
            ("queued", f"{known}.part"),
        )
    ]
    for mark in marks:
        mark.parent.mkdir(parents=True)
        mark.with_name("upload").touch()
        mark.touch()
        os.utime(mark, (0, 0))
    accepted(alice.post("/jobs", content=npy(1), headers=ZIP))

    assert [mark.parent.exists() for mark in marks] == [False, False, True]
    assert [path.name for path in marks[2].parent.iterdir()] == ["upload"]


def test_only_the_owner_can_read_the_folder_of_a_job(place: Path, alice: httpx.Client) -> None:
    source = place / "root" / "own.npy"
    np.save(source, pictures.digits(2))
    for answer in (
        alice.post("/jobs", content=npy(1), headers=ZIP),
        alice.post("/jobs", json={"source": str(source)}),
    ):
        job = alice.get(answer.headers["location"]).json()
        assert Path(job["output"]).parent.stat().st_mode & 0o077 == 0


# Without Redis


def test_without_redis_jobs_fail_and_predictions_work(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    address = f"redis://:secret@127.0.0.1:{free_port()}"
    settings = {
        "LOUPE_REDIS_URL": address,
        "LOUPE_MODEL": digits_model.tag,
        "LOUPE_DATA_DIR": tmp_path / "data",
        "LOUPE_JOB_ROOTS": tmp_path,
    }
    np.save(tmp_path / "images.npy", pictures.digits(2))
    with (
        serving(tmp_path / "log", **settings) as service,
        httpx.Client(base_url=service.url, timeout=50) as client,
    ):
        for answer in (
            client.get("/jobs"),
            client.get("/jobs/0123456789ab"),
            client.delete("/jobs/0123456789ab"),
            client.get("/jobs/0123456789ab/events"),
            client.post("/jobs", content=npy(2), headers={"Content-Type": "application/x-npy"}),
            client.post("/jobs", json={"source": str(tmp_path / "images.npy")}),
        ):
            assert (answer.status_code, answer.json()["code"]) == (503, "redis_unavailable")
            assert "LOUPE_REDIS_URL" in answer.json()["error"]
            assert "127.0.0.1" not in answer.json()["error"]
        assert client.post("/predict", content=DIGIT).status_code == 200
        assert not (tmp_path / "data" / "jobs").exists()
    assert "secret" not in (tmp_path / "log").read_text()


def test_killed_embedded_redis_is_restarted_by_the_next_request(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    data = tmp_path / "data"
    settings = {"LOUPE_DATA_DIR": data, "LOUPE_MODEL": digits_model.tag}
    with (
        serving(tmp_path / "log", **settings) as service,
        httpx.Client(base_url=service.url, timeout=50) as client,
    ):
        assert servers_in(data) == []
        job = accepted(
            client.post("/jobs", content=npy(2), headers={"Content-Type": "application/x-npy"})
        )
        with client.stream("GET", f"/jobs/{job}/events") as answer:
            (server,) = servers_in(data)
            until(lambda: b"xadd" in next((data / "redis").rglob("*.aof")).read_bytes().lower())
            server.kill()
            assert "event: error" in list(answer.iter_lines())

        def back() -> bool:
            assert client.post("/predict", content=DIGIT).status_code == 200
            return client.get("/jobs").status_code == 200

        until(back)
        service.process.terminate()
        assert service.process.wait(30) == 0
    until(lambda: servers_in(data) == [])


def test_start_of_the_service_imports_nothing_of_the_queue() -> None:
    script = (
        "import sys, service.bento; "
        "print(sorted({'redis', 'pyarrow', 'worker'} & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert ended.stdout == "[]\n", ended.stderr


def test_deleted_folder_has_no_results_and_no_errors(alice: httpx.Client, worker: None) -> None:
    job = accepted(
        alice.post("/jobs", content=npy(9), headers={"Content-Type": "application/x-npy"})
    )
    shutil.rmtree(ended(alice, job)["output"])

    for files in ("results", "errors"):
        gone = alice.get(f"/jobs/{job}/{files}")
        assert (gone.status_code, gone.json()["code"]) == (404, "results_not_found")
