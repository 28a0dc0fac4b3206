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
KEYS = {name: f"the-key-of-{name}-0001" for name in ("alice", "bob")}


@pytest.fixture(scope="module")
def service(
    digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Run a service with two keys and low limits."""
    variables = {
        "LOUPE_API_KEYS": ",".join(f"{name}:{key}" for name, key in KEYS.items()),
        "LOUPE_MAX_REQUESTS": MAX_REQUESTS,
        "LOUPE_MAX_QUEUED_IMAGES": MAX_IMAGES,
        "LOUPE_MODEL": digits_model.tag,
    }
    with serving(tmp_path_factory.mktemp("shares") / "log", **variables) as running:
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
