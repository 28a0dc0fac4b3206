"""What both servers promise: `loupe serve`, and `bentoml serve` with the same app."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.programs import environment, free_port, serving, until

ROOT = Path(__file__).parents[3]
DIGITS = pictures.digits(2)
PNG = {"Content-Type": "image/png"}
KEY = "the-key-of-alice-0001"
# In a separate process, since these clients emit warnings and leave temporary folders.
BENTOML_CLIENTS = """
import asyncio, json, sys
from pathlib import Path
import bentoml

url, key, *names = sys.argv[1:]
files = [Path(name) for name in names]

async def ask():
    async with bentoml.AsyncHTTPClient(url, token=key) as client:
        answer = await client.predict(image=files[0])
        return answer, await client.call("predict_batch", images=files)

with bentoml.SyncHTTPClient(url, token=key) as client:
    assert client.is_ready()
    answers = [client.predict(image=files[0]), client.predict(image=names[0])]
    answers.append(client.call("predict", image=files[0]))
    batch = client.predict_batch(images=files)
answer, async_batch = asyncio.run(ask())
print(json.dumps([*answers, answer, batch, async_batch]))
"""
SETTINGS = {
    "LOUPE_API_KEYS": f"alice:{KEY}",
    "LOUPE_CORS_ORIGINS": "https://pages.example",
    "LOUPE_MAX_BODY_BYTES": 50_000,
}


@pytest.fixture(scope="module", params=["loupe serve", "bentoml serve"])
def url(
    request: pytest.FixtureRequest,
    digits_model: StoredModel,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Return the URL of a service that needs a key."""
    log = tmp_path_factory.mktemp("contract") / "log"
    settings = {**SETTINGS, "LOUPE_MODEL": digits_model.tag, "LOUPE_DATA_DIR": log.parent}
    if request.param == "loupe serve":
        with serving(log, **settings) as service:
            yield service.url
        return
    port = free_port()
    command = f"-m bentoml serve service.bento:Loupe --host 127.0.0.1 --port {port}"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, *command.split(), "--timeout-graceful-shutdown", "5"],
            env=environment(
                **settings,
                BENTOML_DO_NOT_TRACK="True",
                PROMETHEUS_MULTIPROC_DIR=log.parent / "metrics",
            ),
            cwd=ROOT,
            stdout=output,
            stderr=output,
        )
    try:
        until(lambda: process.poll() is not None or is_ready(port))
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url, timeout=50, headers={"X-API-Key": KEY}) as client:
        yield client


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Two pictures on disk."""
    paths = [tmp_path / f"{number}.png" for number in range(len(DIGITS))]
    for path, digit in zip(paths, DIGITS, strict=True):
        path.write_bytes(pictures.png(digit))
    return paths


def test_image_is_classified(client: httpx.Client, digits_model: StoredModel) -> None:
    response = client.post("/predict", content=pictures.png(DIGITS[0]), headers=PNG)

    assert response.status_code == 200
    assert response.json()["model"] == digits_model.tag
    assert sum(response.json()["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_array_is_classified_by_every_protocol(client: httpx.Client) -> None:
    pixels = DIGITS.tolist()
    tensor = {"name": "images", "datatype": "UINT8", "shape": [2, 28, 28], "data": pixels}
    requests = {
        "/predict_batch": {"images": [{"pixels": each} for each in pixels]},
        "/v2/models/digits/infer": {"inputs": [tensor]},
        "/v1/models/digits:predict": {"instances": pixels},
    }
    for path, body in requests.items():
        response = client.post(path, json=body)
        assert response.status_code == 200, response.text


@pytest.mark.parametrize("path", ["/livez", "/healthz", "/readyz", "/v2/health/ready", "/"])
def test_open_paths_need_no_key_and_have_security_headers(url: str, path: str) -> None:
    response = httpx.get(url + path)

    assert response.status_code == 200
    assert response.headers["x-frame-options"] == "DENY"
    assert response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "code"),
    [
        ("GET", "/nowhere", b"", 404, "route_not_found"),
        ("GET", "/predict", b"", 405, "method_not_allowed"),
        ("POST", "/predict", b"", 400, "invalid_request"),
        ("POST", "/predict", b"text", 422, "invalid_image"),
        ("POST", "/predict", bytes(50_001), 413, "body_too_large"),
        ("POST", "/predict?model=other", b"x", 404, "model_not_found"),
        ("GET", "/jobs/none", b"", 404, "job_not_found"),
    ],
)
def test_errors_have_status_and_code(
    client: httpx.Client, method: str, path: str, body: bytes, status: int, code: str
) -> None:
    response = client.request(method, path, content=body, headers=PNG)

    assert (response.status_code, response.json()["code"]) == (status, code)
    assert response.json().keys() == {"error", "code"}


@pytest.mark.parametrize("path", ["/models", "/metrics", "/schema.json", "/jobs"])
def test_missing_key_is_refused(url: str, path: str) -> None:
    response = httpx.get(url + path, headers={"Origin": "https://pages.example"})

    assert (response.status_code, response.json()["code"]) == (401, "unauthorized")
    assert response.headers["access-control-allow-origin"] == "https://pages.example"


def test_metrics_count_requests(client: httpx.Client) -> None:
    client.post("/predict", content=pictures.png(DIGITS[0]), headers=PNG)
    metrics = client.get("/metrics").text

    labels = 'key="alice",model="digits",protocol="loupe",status="200"'
    assert f"loupe_requests_total{{{labels}}}" in metrics
    assert 'loupe_batch_size_count{model="digits"}' in metrics


def test_bentoml_s_clients_predict(url: str, files: list[Path]) -> None:
    command = [sys.executable, "-c", BENTOML_CLIENTS, url, KEY, *map(str, files)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=50)

    assert ended.returncode == 0, ended.stderr
    *answers, batch, async_batch = json.loads(ended.stdout)
    assert len(answers) == 4
    assert len({answer["label"] for answer in answers}) == 1
    assert [each["label"] for each in batch["predictions"]][:1] == [answers[0]["label"]]
    assert batch == async_batch


def test_importing_the_bento_is_cheap_and_needs_no_model(tmp_path: Path) -> None:
    code = (
        "import os, sys; before = dict(os.environ); import service.bento\n"
        "assert not {'tensorflow', 'redis', 'opentelemetry.sdk'} & set(sys.modules)\n"
        "assert before.items() <= dict(os.environ).items()"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "BENTOML_HOME": str(tmp_path), "PROMETHEUS_MULTIPROC_DIR": "/nowhere"},
        cwd=ROOT,
        capture_output=True,
        text=True,
    )

    assert ended.returncode == 0, ended.stderr
