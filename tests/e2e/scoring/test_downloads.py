"""Downloads of results, whole and in parts, by a service and a worker as separate processes."""

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest

from loupe.models.store import StoredModel
from loupe.results import Format
from tests.support import pictures
from tests.support.programs import RunningService, running, serving, until
from tests.support.servers import wire

KINDS: list[Format] = ["parquet", "csv", "jsonl"]
IMAGES, SHARD_IMAGES = 30, 8
NPY = {"Content-Type": "application/x-npy"}
# Results by format, whether they are in one file, and the format that is asked for.
JOINED = [("csv", False, "csv"), ("jsonl", False, "jsonl"), ("csv", True, "csv")]
JOINED += [("parquet", True, "parquet")]
CONVERTED = [("csv", False, "jsonl"), ("parquet", False, "parquet"), ("jsonl", True, "csv")]


@dataclass(frozen=True)
class Jobs:
    """A service with finished jobs.

    Attributes:
        service: The service.
        client: Its client.
        ids: By format, and whether the results are in one file.
    """

    service: RunningService
    client: httpx.Client
    ids: dict[tuple[str, bool], str]

    def path(self, kind: str, single: bool, asked: str) -> str:
        return f"/jobs/{self.ids[kind, single]}/results?format={asked}"


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory, digits_model: StoredModel) -> Iterator[Jobs]:
    folder = tmp_path_factory.mktemp("downloads")
    settings = {
        "LOUPE_DATA_DIR": folder / "data",
        "LOUPE_MODEL": digits_model.tag,
        "LOUPE_SHARD_IMAGES": SHARD_IMAGES,
        "LOUPE_CORS_ORIGINS": "https://pages.example",
    }
    with (
        serving(folder / "service.log", **settings) as service,
        running(folder / "worker.log", "worker", **settings),
        httpx.Client(base_url=service.url, timeout=50) as client,
    ):
        ids: dict[tuple[str, bool], str] = {}
        for kind in KINDS:
            for single in (False, True):
                params = {"format": kind, "single": str(single).lower()}
                sent = client.post("/jobs", content=content(), headers=NPY, params=params)
                ids[kind, single] = sent.json()["id"]
        for job in ids.values():
            until(lambda job=job: client.get(f"/jobs/{job}").json()["state"] == "done")  # type: ignore[misc]
        yield Jobs(service, client, ids)


def content() -> bytes:
    """Return images as a NumPy file."""
    file = io.BytesIO()
    np.save(file, pictures.digits(IMAGES))
    return file.getvalue()


@pytest.mark.parametrize(("kind", "single", "asked"), JOINED)
def test_every_range_of_a_joined_result_can_be_downloaded(
    jobs: Jobs, kind: str, single: bool, asked: str
) -> None:
    path = jobs.path(kind, single, asked)
    whole = jobs.client.get(path)
    size = len(whole.content)
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["content-length"] == str(size)

    for sent, start, stop in [
        ("bytes=0-0", 0, 1),
        ("bytes=0-", 0, size),
        (f"bytes={size // 2}-", size // 2, size),
        (f"BYTES={size // 3}-{size // 2}", size // 3, size // 2 + 1),
        (f"bytes={size - 1}-{size + 100}", size - 1, size),
        ("bytes=-1", size - 1, size),
        (f"bytes=-{size + 1}", 0, size),
    ]:
        part = jobs.client.get(path, headers={"Range": sent, "If-Range": whole.headers["etag"]})
        assert part.status_code == 206
        assert part.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
        assert part.headers["content-length"] == str(stop - start)
        assert part.headers["etag"] == whole.headers["etag"]
        assert part.headers["content-type"] == whole.headers["content-type"]
        assert part.content == whole.content[start:stop]
    pieces = [
        jobs.client.get(path, headers={"Range": f"bytes={start}-{start + 99}"}).content
        for start in range(0, size, 100)
    ]
    assert b"".join(pieces) == whole.content


@pytest.mark.parametrize(
    "headers",
    [
        {"Range": "bytes=0-1,4-5"},
        {"Range": "bytes=5-2"},
        {"Range": "bytes=-"},
        {"Range": "bytes=x-2"},
        {"Range": "lines=0-1"},
        {"Range": "bytes=0-1", "If-Range": '"another"'},
        {"Range": "bytes=0-1", "If-Range": "Wed, 21 Oct 2015 07:28:00 GMT"},
    ],
    ids=str,
)
def test_other_ranges_get_the_whole_result(jobs: Jobs, headers: dict[str, str]) -> None:
    path = jobs.path("csv", False, "csv")
    answer = jobs.client.get(path, headers=headers)

    assert answer.status_code == 200
    assert answer.content == jobs.client.get(path).content


@pytest.mark.parametrize("first", ["size", "99999999999-", "-0"])
def test_range_behind_the_end_is_refused(jobs: Jobs, first: str) -> None:
    path = jobs.path("jsonl", False, "jsonl")
    size = len(jobs.client.get(path).content)
    sent = f"bytes={size}-" if first == "size" else f"bytes={first}"
    refused = jobs.client.get(path, headers={"Range": sent})

    assert (refused.status_code, refused.json()["code"]) == (416, "range_not_satisfiable")
    assert refused.headers["content-range"] == f"bytes */{size}"


@pytest.mark.parametrize(("kind", "single", "asked"), JOINED + CONVERTED)
def test_head_has_the_headers_of_the_result(
    jobs: Jobs, kind: str, single: bool, asked: str
) -> None:
    path = jobs.path(kind, single, asked)
    whole = jobs.client.get(path)
    described = jobs.client.head(path, headers={"Range": "bytes=0-1"})

    assert (described.status_code, described.content) == (200, b"")
    for name in ("content-length", "etag", "accept-ranges", "content-type", "content-disposition"):
        assert described.headers.get(name) == whole.headers.get(name)


@pytest.mark.parametrize(("kind", "single", "asked"), CONVERTED)
def test_converted_result_is_always_whole(jobs: Jobs, kind: str, single: bool, asked: str) -> None:
    path = jobs.path(kind, single, asked)
    answer = jobs.client.get(path, headers={"Range": "bytes=0-1"})

    assert (answer.status_code, answer.headers["accept-ranges"]) == (200, "none")
    assert "content-length" not in answer.headers
    assert answer.content == jobs.client.get(path).content


def test_errors_of_a_job_can_be_downloaded_in_parts(jobs: Jobs) -> None:
    lines = "\n".join(json.dumps({"id": f"{number}"}) for number in range(9))
    job = jobs.client.get(f"/jobs/{jobs.ids['csv', False]}").json()
    written = Path(job["output"]) / "_errors-00000-of-00001.jsonl"
    path = f"/jobs/{job['id']}/errors"
    assert jobs.client.head(path).headers["content-length"] == "0"
    empty = jobs.client.get(path, headers={"Range": "bytes=0-"})
    assert (empty.status_code, empty.headers["content-range"]) == (416, "bytes */0")
    written.write_text(lines)
    try:
        part = jobs.client.get(path, headers={"Range": "bytes=3-9"})
        assert (part.status_code, part.text) == (206, lines[3:10])
    finally:
        written.unlink()


def test_pages_may_read_the_headers_of_ranges(jobs: Jobs) -> None:
    headers = {"Origin": "https://pages.example", "Range": "bytes=0-1"}
    part = jobs.client.get(jobs.path("csv", False, "csv"), headers=headers)

    exposed = part.headers["access-control-expose-headers"].lower()
    assert all(name in exposed for name in ("accept-ranges", "content-range", "etag"))


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("result", [*JOINED, *CONVERTED, "events", "errors"], ids=str)
def test_client_of_http_1_0_gets_plain_bytes(
    jobs: Jobs, result: str | tuple[str, bool, str], keep: bool
) -> None:
    job = jobs.ids["csv", True]
    asked = f"/jobs/{job}/{result}" if isinstance(result, str) else jobs.path(*result)
    whole = jobs.client.get(asked)
    lines = ["Connection: keep-alive"] if keep else []
    with wire.connected(jobs.service.url) as client:
        client.sendall(wire.head(jobs.service.url, "GET", asked, *lines, version="1.0"))
        if keep and "content-length" in whole.headers:
            _, headers, body = wire.read_answer(client)
            assert headers["connection"] == "keep-alive"
        else:
            head, _, body = wire.read_all(client).partition(b"\r\n\r\n")
            assert b"\r\nconnection: close" in head
            assert b"transfer-encoding" not in head
    assert body == whole.content
