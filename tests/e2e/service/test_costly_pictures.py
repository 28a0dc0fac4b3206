"""Pictures that cost much to decode harm neither other requests nor the end of the service."""

import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import psutil
import pytest

from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.files import bombs
from tests.support.programs import RunningService, serving, until

PATIENCE_SECONDS = 50
TINY = pictures.png(pictures.digits(1)[0])
LARGE = pictures.png(np.full((300, 300), 255, np.uint8))
SLOW = bombs.jpeg_with_scans(4000, 90)
FILE = {"Content-Type": "application/octet-stream"}


@pytest.fixture(scope="module")
def strict_service(
    digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Run a service that decodes a picture for a second at most."""
    log = tmp_path_factory.mktemp("strict") / "log"
    settings = {"LOUPE_MODEL": digits_model.tag, "LOUPE_DECODE_SECONDS": 1}
    with serving(log, **settings, LOUPE_REQUEST_TIMEOUT_SECONDS=25) as service:
        yield service


@pytest.fixture
def client(strict_service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(
        base_url=strict_service.url, headers=FILE, timeout=PATIENCE_SECONDS
    ) as client:
        yield client


def outcome(client: httpx.Client, data: bytes) -> str:
    """Return the code of the error, or `answered`."""
    code: str = client.post("/predict", content=data).json().get("code", "answered")
    return code


def decoders(service: RunningService) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children()


def test_costly_picture_in_a_batch_fails_alone(
    strict_service: RunningService, client: httpx.Client
) -> None:
    images = [("images", data) for data in (LARGE, SLOW, TINY, LARGE)]
    answer = httpx.post(
        f"{strict_service.url}/predict_batch", files=images, timeout=PATIENCE_SECONDS
    )

    assert answer.status_code == 200
    codes = [prediction.get("code") for prediction in answer.json()["predictions"]]
    assert codes == [None, "image_too_costly", None, None]
    lost = 'loupe_decoders_lost_total{reason="time"}'
    counts = [line for line in client.get("/metrics").text.splitlines() if line.startswith(lost)]
    assert float(counts[0].split()[1]) >= 1


COSTLY: dict[str, Callable[[], bytes]] = {
    "empty segments": lambda: bombs.jpeg_with_segments(b"\xff\xe5\0\2", 1_000_000),
    "EXIF segments": lambda: bombs.jpeg_with_segments(b"\xff\xe1\0\x08Exif\0\0", 1_000_000),
    "scans": lambda: bombs.jpeg_with_scans(7000, 20_000),
    "runs": lambda: bombs.bmp_of_runs(4000),
    "chunks": lambda: bombs.png_with_chunks(600_000),
    "slow scans": lambda: SLOW,
    "wide strip": lambda: bombs.wide_tiff(7000),
}


@pytest.mark.parametrize("kind", COSTLY)
def test_costly_picture_is_an_error_and_does_not_stop_the_event_loop(
    client: httpx.Client, kind: str
) -> None:
    data = COSTLY[kind]()
    waits: list[float] = []
    ended = threading.Event()

    def look() -> None:
        while not waits or not ended.wait(0.02):
            started = time.monotonic()
            assert client.get("/livez").status_code == 200
            waits.append(time.monotonic() - started)

    with ThreadPoolExecutor(1) as threads:
        looking = threads.submit(look)
        try:
            assert outcome(client, data) == "image_too_costly"
        finally:
            ended.set()
        looking.result()
    assert sorted(waits)[len(waits) * 9 // 10] < 0.25  # some wait for other programs


def test_others_are_answered_while_all_decoders_are_busy(client: httpx.Client) -> None:
    with ThreadPoolExecutor(4) as threads:
        costly = [threads.submit(outcome, client, SLOW) for _ in range(4)]
        time.sleep(0.5)
        assert outcome(client, TINY) == "answered"
        assert outcome(client, LARGE) == "answered"
        assert {each.result() for each in costly} == {"image_too_costly"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_busy_decoders_end_with_the_service(
    tmp_path: Path, digits_model: StoredModel, number: signal.Signals
) -> None:
    settings = {"LOUPE_DECODE_SECONDS": 60, "LOUPE_SHUTDOWN_TIMEOUT_SECONDS": 1}
    settings["LOUPE_REQUEST_TIMEOUT_SECONDS"] = 25
    with (
        serving(tmp_path / "log", LOUPE_MODEL=digits_model.tag, **settings) as service,
        ThreadPoolExecutor(1) as threads,
    ):
        threads.submit(
            httpx.post,
            f"{service.url}/predict",
            content=SLOW,
            headers={**FILE, "X-Request-Timeout": "25"},
            timeout=PATIENCE_SECONDS,
        )
        until(lambda: bool(decoders(service)))
        time.sleep(1)
        started, running = time.monotonic(), decoders(service)
        service.process.send_signal(number)
        service.process.wait(PATIENCE_SECONDS)
        _, alive = psutil.wait_procs(running, timeout=5)

    assert not alive
    assert time.monotonic() - started < 10
