"""Clients of other makers with their default settings, direct and through proxies."""

import json
from pathlib import Path

import pytest

from tests.e2e.clients.conftest import HERE, KEY
from tests.support.programs import RunningService
from tests.support.servers.proxies import installed, printed

WITH_KEY = ["--header", f"X-API-Key: {KEY}"]


def assert_classified(lines: str, count: int) -> None:
    answers = [line.partition(" ") for line in lines.splitlines()]
    assert [status for status, _, _ in answers] == ["200"] * count, lines
    assert all("label" in json.loads(body) for _, _, body in answers)


def test_java_is_answered_although_it_offers_http2(bases: list[str], picture: Path) -> None:
    urls = [f"{base}/predict" for base in bases]
    java = [installed("java"), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]

    lines = printed(*java, HERE / "ClassifyFiles.java", KEY, picture, *urls)

    assert_classified(lines, 3 * len(urls))


def test_fetch_of_node_is_answered(bases: list[str], picture: Path) -> None:
    urls = [f"{base}/predict" for base in bases]

    lines = printed(installed("node"), HERE / "classify_files.mjs", KEY, picture, *urls)

    assert_classified(lines, 3 * len(urls))


@pytest.mark.parametrize(
    "options",
    [
        ["--http2"],
        ["--http2", "--header", "Transfer-Encoding: chunked"],
        ["--http2", "--header", "Expect: 100-continue"],
        ["--http1.1", "--header", "Expect: 100-continue"],
        ["--http1.0"],
        ["--http1.0", "--header", "Connection: keep-alive"],
    ],
    ids=" ".join,
)
def test_curl_is_answered_twice(base: str, picture: Path, options: list[str]) -> None:
    curl = [installed("curl"), "--silent", "--show-error", *options, *WITH_KEY]
    body = ["--header", "Content-Type: image/png", "--data-binary", f"@{picture}"]
    url = f"{base}/predict"

    lines = printed(*curl, *body, "--write-out", "\n%{http_code}\n", url, url).splitlines()

    assert lines[1::2] == ["200", "200"]
    assert all("label" in json.loads(line) for line in lines[::2])


def test_curl_keeps_its_connection_with_http_1_0(guarded: RunningService) -> None:
    curl = [installed("curl"), "--silent", "--http1.0", "--header", "Connection: keep-alive"]
    url = f"{guarded.url}/livez"

    counts = printed(*curl, "--write-out", "%{num_connects} ", url, url, url).split()

    assert counts == ["1", "0", "0"]


def test_curl_speaks_http2_to_haproxy(haproxy_ports: dict[str, int], picture: Path) -> None:
    url = f"http://127.0.0.1:{haproxy_ports['HTTP2']}/predict"
    curl = [installed("curl"), "--silent", "--show-error", "--http2-prior-knowledge", *WITH_KEY]

    answer = printed(*curl, "--data-binary", f"@{picture}", "--header", "Content-Type:", url)

    assert "label" in json.loads(answer)
