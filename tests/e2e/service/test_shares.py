"""One caller's burst does not refuse the requests of others."""

import io
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from loupe.models.store import StoredModel
from tests.support.files import bombs
from tests.support.programs import RunningService, serving

MAX_REQUESTS, MAX_IMAGES = 4, 64
KEYS = {name: f"the-key-of-{name}-0001" for name in ("alice", "bob", "carol", "dave")}


@pytest.fixture(scope="module")
def service(
    digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Run a service with low limits; two of its keys have lower ones."""
    variables = {
        "LOUPE_API_KEYS": ",".join(f"{name}:{key}" for name, key in KEYS.items()),
        "LOUPE_KEY_LIMITS": "carol:3/day,dave:0.01/s",
        "LOUPE_MAX_REQUESTS": MAX_REQUESTS,
        "LOUPE_MAX_QUEUED_IMAGES": MAX_IMAGES,
        "LOUPE_MODEL": digits_model.tag,
        "LOUPE_DATA_DIR": (folder := tmp_path_factory.mktemp("shares")),
    }
    with serving(folder / "log", **variables) as running:
        yield running


def npy(images: int) -> bytes:
    file = io.BytesIO()
    np.save(file, np.zeros((images, 28, 28), np.uint8))
    return file.getvalue()


def post(service: RunningService, name: str, path: str, body: bytes, kind: str) -> int:
    headers = {"X-API-Key": KEYS[name], "Content-Type": kind, "X-Request-Timeout": "5"}
    return httpx.post(f"{service.url}{path}", content=body, headers=headers, timeout=30).status_code


@pytest.mark.parametrize(
    ("path", "kind", "burst"),
    [
        pytest.param("/predict_batch", "application/x-npy", npy(MAX_IMAGES), id="images"),
        pytest.param("/predict", "image/jpeg", bombs.jpeg_with_scans(7000, 90), id="requests"),
    ],
)
def test_burst_of_one_caller_leaves_room_for_another(
    service: RunningService, path: str, kind: str, burst: bytes
) -> None:
    with ThreadPoolExecutor(4 * MAX_REQUESTS) as threads:
        burst_statuses = [
            threads.submit(post, service, "alice", path, burst, kind) for _ in range(80)
        ]
        others = []
        while not all(status.done() for status in burst_statuses):
            others.append(post(service, "bob", "/predict_batch", npy(2), "application/x-npy"))
    refused = Counter(status.result() for status in burst_statuses)[429]

    assert refused > 0
    assert set(others) == {200}


def test_key_beyond_its_limits_is_refused_until_they_allow_more(service: RunningService) -> None:
    def ask(name: str) -> httpx.Response:
        headers = {"X-API-Key": KEYS[name], "Content-Type": "application/x-npy"}
        return httpx.post(f"{service.url}/predict_batch", content=npy(2), headers=headers)

    for name, code, seconds in (("carol", "quota_exceeded", 86_400), ("dave", "rate_limited", 100)):
        assert ask(name).status_code == 200
        refused = ask(name)
        assert (refused.status_code, refused.json()["code"]) == (429, code)
        assert 0 < int(refused.headers["retry-after"]) <= seconds

    metrics = httpx.get(f"{service.url}/metrics", headers={"X-API-Key": KEYS["alice"]}).text
    for sample in (
        'loupe_key_images_total{key="carol"} 2.0',
        'loupe_key_images_total{key="dave"} 2.0',
        'loupe_key_images_today{key="carol"} 2.0',
        'loupe_key_limit{key="carol",limit="images_per_day"} 3.0',
        'loupe_key_limit{key="dave",limit="requests_per_second"} 0.01',
        'loupe_requests_total{key="dave",model="-",protocol="-",status="429"} 1.0',
    ):
        assert f"\n{sample}\n" in metrics
    assert not any(key in metrics for key in KEYS.values())
