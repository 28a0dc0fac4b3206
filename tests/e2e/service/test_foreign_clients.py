"""Clients and proxies of other makers, each the real program; missing ones are skipped."""

import json
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.programs import PATIENCE_SECONDS, RunningService, free_port, serving, until

DIGIT = pictures.png(pictures.digits(1)[0])
JAVA = """
import java.net.URI; import java.net.http.*; import java.nio.file.*;
public class Post {
  public static void main(String[] given) throws Exception {
    var client = HttpClient.newHttpClient();
    for (int number = 0; number < 3; number++) {
      var request = HttpRequest.newBuilder(URI.create(given[0])).header("Content-Type", "image/png")
        .POST(HttpRequest.BodyPublishers.ofFile(Path.of(given[1]))).build();
      var answer = client.send(request, HttpResponse.BodyHandlers.ofString());
      System.out.println(answer.statusCode() + " " + answer.body());
    }
  }
}
"""
NODE = """
const body = require("fs").readFileSync(process.argv[2]);
(async () => {
  for (let number = 0; number < 3; number++) {
    const headers = { "Content-Type": "image/png" };
    const answer = await fetch(process.argv[1], { method: "POST", headers, body });
    console.log(answer.status + " " + await answer.text());
  }
})();
"""
NGINX = """
daemon off; pid {folder}/pid; error_log {folder}/errors; worker_processes 1;
events {{ worker_connections 256; }}
http {{
  access_log off; client_max_body_size 300m; client_body_buffer_size 16m;
  client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream loupe {{ server 127.0.0.1:{target}; keepalive 1; }}
  server {{
    listen 127.0.0.1:{port};
    location /metrics {{ return 403; }}
    location /closing/ {{ proxy_pass http://127.0.0.1:{target}/; }}
    location /kept/ {{
      proxy_pass http://loupe/; proxy_http_version 1.1; proxy_set_header Connection "";
    }}
    location /upgrading/ {{
      proxy_pass http://loupe/; proxy_http_version 1.1; proxy_set_header Upgrade $http_upgrade;
      proxy_set_header Connection $connection_upgrade; proxy_set_header Host $host;
    }}
    location /prefix/ {{
      proxy_pass http://127.0.0.1:{target}/; proxy_set_header X-Forwarded-Prefix /prefix;
      proxy_set_header X-Forwarded-For 192.0.2.7;
    }}
  }}
}}
"""
HAPROXY = """
global
  maxconn 256
defaults
  mode http
  timeout connect 10s
  timeout client 30s
  timeout server 30s
listen loupe
  bind 127.0.0.1:{port}
  http-reuse always
  server loupe 127.0.0.1:{target}
"""
OFFER = {"Connection": "Upgrade, HTTP2-Settings", "Upgrade": "h2c", "HTTP2-Settings": "AAMAAABk"}


@pytest.fixture(scope="module")
def trusting(
    digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Run a service that trusts proxies on this machine, and logs access."""
    folder = tmp_path_factory.mktemp("trusting")
    settings = {"LOUPE_TRUSTED_PROXIES": "127.0.0.1", "LOUPE_ALLOWED_HOSTS": "*"}
    with serving(
        folder / "log",
        LOUPE_MODEL=digits_model.tag,
        LOUPE_DATA_DIR=folder / "data",
        LOUPE_ACCESS_LOG="true",
        LOUPE_LOG_FORMAT="json",
        **settings,
    ) as running:
        yield running


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "digit.png"
    path.write_bytes(DIGIT)
    return path


def program(name: str) -> str:
    """Return the path of a program, or skip the test."""
    path = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def output(*command: object) -> str:
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_classified(lines: str, count: int) -> None:
    answers = [line.partition(" ") for line in lines.splitlines()]
    assert [status for status, _, _ in answers] == ["200"] * count
    assert all("label" in json.loads(body) for _, _, body in answers)


@contextmanager
def proxy(name: str, template: str, target: str, folder: Path) -> Iterator[str]:
    """Run a proxy in front of a service while the block runs; yield its URL."""
    port = free_port()
    path = folder / "proxy.conf"
    path.write_text(template.format(folder=folder, port=port, target=target.rpartition(":")[2]))
    flags = ["-c", str(path)] if name == "nginx" else ["-f", str(path), "-db"]
    process = subprocess.Popen([program(name), *flags], stderr=subprocess.DEVNULL)

    def is_listening() -> bool:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
        return False

    try:
        until(is_listening)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def nginx(trusting: RunningService, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with proxy("nginx", NGINX, trusting.url, tmp_path_factory.mktemp("nginx")) as url:
        yield url


def test_java_client_is_answered(trusting: RunningService, picture: Path, tmp_path: Path) -> None:
    source = tmp_path / "Post.java"
    source.write_text(JAVA)

    printed = output(program("java"), source, f"{trusting.url}/predict", picture)

    assert_classified(printed, 3)


def test_node_fetch_is_answered(trusting: RunningService, picture: Path) -> None:
    printed = output(program("node"), "-e", NODE, f"{trusting.url}/predict", picture)

    assert_classified(printed, 3)


@pytest.mark.parametrize("more", [[], ["-H", "Transfer-Encoding: chunked"], ["--http1.0"]])
def test_curl_is_answered(trusting: RunningService, picture: Path, more: list[str]) -> None:
    url = f"{trusting.url}/predict"
    body = ["-H", "Content-Type: image/png", "--data-binary", f"@{picture}"]
    version = more if "--http1.0" in more else ["--http2", *more]

    printed = output(program("curl"), "-sS", *version, *body, "-w", "\n%{http_code}", url)

    answer, _, status = printed.rpartition("\n")
    assert status == "200"
    assert "label" in json.loads(answer)


@pytest.mark.parametrize("way", ["closing", "kept", "upgrading", "prefix"])
@pytest.mark.parametrize("offer", [{}, OFFER], ids=["plain", "offer"])
def test_nginx_passes_answers_on(nginx: str, way: str, offer: dict[str, str]) -> None:
    with httpx.Client(timeout=PATIENCE_SECONDS) as client:
        for _ in range(5):
            headers = {"Content-Type": "image/png", **offer}
            answer = client.post(f"{nginx}/{way}/predict", content=DIGIT, headers=headers)
            assert (answer.status_code, "label" in answer.json()) == (200, True)


def test_offers_behind_nginx_smuggle_no_requests(nginx: str) -> None:
    inner = b"GET /metrics HTTP/1.1\r\nHost: loupe\r\n\r\n"
    with httpx.Client(timeout=PATIENCE_SECONDS) as attacker, httpx.Client() as other:
        for _ in range(10):
            answer = attacker.post(f"{nginx}/upgrading/predict", content=inner, headers=OFFER)
            assert answer.status_code == 422
            later = other.get(f"{nginx}/upgrading/models")
            assert (later.status_code, "default" in later.json()) == (200, True)


@pytest.mark.parametrize("way", ["closing", "kept"])
def test_refusals_of_long_bodies_reach_clients_of_nginx(nginx: str, way: str) -> None:
    with httpx.Client(timeout=PATIENCE_SECONDS) as client:
        for _ in range(5):
            answer = client.post(f"{nginx}/{way}/nowhere", content=bytes(8 * 2**20))
            assert (answer.status_code, answer.json()["code"]) == (404, "route_not_found")


def test_prefix_of_a_trusted_proxy_is_in_document_and_log(
    nginx: str, trusting: RunningService
) -> None:
    with httpx.Client(headers={"X-Request-ID": "with-prefix"}) as client:
        document = client.get(f"{nginx}/prefix/openapi.json").json()
        plain = client.get(f"{nginx}/closing/openapi.json").json()

    assert (document["servers"], plain["servers"]) == ([{"url": "/prefix"}], [{"url": "/"}])

    def logged() -> list[dict[str, object]]:
        lines = [line for line in trusting.log.read_text().splitlines() if line.startswith("{")]
        found = [json.loads(line) for line in lines]
        return [line for line in found if line.get("path") == "/prefix/openapi.json"]

    (line,) = until(logged)
    assert line["client"] == "192.0.2.7"


def test_haproxy_passes_answers_on(trusting: RunningService, tmp_path: Path) -> None:
    with (
        proxy("haproxy", HAPROXY, trusting.url, tmp_path) as url,
        httpx.Client(timeout=PATIENCE_SECONDS) as client,
    ):
        for offer in ({}, OFFER):
            headers = {"Content-Type": "image/png", **offer}
            answer = client.post(f"{url}/predict", content=DIGIT, headers=headers)
            assert (answer.status_code, "label" in answer.json()) == (200, True)
        refused = client.post(f"{url}/nowhere", content=bytes(8 * 2**20))
        assert (refused.status_code, refused.json()["code"]) == (404, "route_not_found")


def test_service_drains_after_sigterm(digits_model: StoredModel, tmp_path: Path) -> None:
    settings = {"LOUPE_DRAIN_SECONDS": 3, "LOUPE_DATA_DIR": tmp_path / "data"}
    with serving(tmp_path / "log", LOUPE_MODEL=digits_model.tag, **settings) as running:
        with httpx.Client(base_url=running.url) as kept, httpx.Client(base_url=running.url) as idle:
            headers = {"Content-Type": "image/png"}
            for client in (kept, idle):
                client.get("/livez")
            running.process.terminate()
            until(lambda: kept.get("/readyz").status_code == 503)
            answers = [
                each.post("/predict", content=DIGIT, headers=headers) for each in (idle, kept)
            ]
            fresh = httpx.post(f"{running.url}/predict", content=DIGIT, headers=headers)
            assert [each.status_code for each in (*answers, fresh)] == [200] * 3
            assert {each.headers["connection"] for each in (*answers, fresh)} == {"close"}
        assert running.process.wait(PATIENCE_SECONDS) == 0
