"""A service that drains behind a proxy: no answer is lost, and health checks notice."""

import csv
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loupe.models.store import StoredModel
from tests.e2e.clients.conftest import HERE, KEY, SETTINGS
from tests.support import pictures
from tests.support.programs import (
    PATIENCE_SECONDS,
    RunningService,
    free_port,
    serving,
    until,
)
from tests.support.servers.proxies import running_proxy

DRAIN_SECONDS = 2
CALLERS = 4
DIGIT = pictures.png(pictures.digits(1)[0])


class Load:
    """Callers that send one picture after the other, each on a kept connection."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._ends = threading.Event()
        self._threads = [
            threading.Thread(target=self._call, args=(number,)) for number in range(CALLERS)
        ]
        self.outcomes: list[object] = []

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        for thread in self._threads:
            thread.join()

    def more(self, count: int = 40) -> None:
        """Wait for more outcomes."""
        wanted = len(self.outcomes) + count
        until(lambda: len(self.outcomes) >= wanted)

    def _call(self, caller: int) -> None:
        with httpx.Client(timeout=PATIENCE_SECONDS) as client:
            number = 0
            while not self._ends.is_set():
                number += 1
                name = f"{caller}-{number}"
                headers = {"X-API-Key": KEY, "X-Request-ID": name}
                try:
                    answer = client.post(self._url, content=DIGIT, headers=headers)
                    is_own = answer.headers.get("X-Request-ID") == name
                    self.outcomes.append((answer.status_code, is_own))
                except httpx.TransportError as error:
                    self.outcomes.append(repr(error))


@pytest.fixture
def leaving(digits_model: StoredModel, tmp_path: Path) -> Iterator[RunningService]:
    """Run a second service, for tests that stop it."""
    settings = {**SETTINGS, "LOUPE_DATA_DIR": tmp_path / "data", "LOUPE_MODEL": digits_model.tag}
    with serving(tmp_path / "log", LOUPE_DRAIN_SECONDS=DRAIN_SECONDS, **settings) as service:
        yield service


@pytest.mark.parametrize("template", ["nginx_two.conf", "haproxy_two.cfg"])
def test_no_answer_is_lost_when_a_service_stops(
    guarded: RunningService, leaving: RunningService, template: str, tmp_path: Path
) -> None:
    first, second = (each.url.removeprefix("http://") for each in (guarded, leaving))
    values = {"PORT": free_port(), "FIRST": first, "SECOND": second}
    url = f"http://127.0.0.1:{values['PORT']}"
    with running_proxy(HERE / template, tmp_path, values), Load(f"{url}/predict") as load:
        load.more()
        leaving.process.send_signal(signal.SIGTERM)
        until(lambda: httpx.get(f"{leaving.url}/readyz").status_code == 503)
        if template.startswith("haproxy"):
            until(lambda: health(url, "second") == ("DOWN", "503"))
        load.more()
        assert leaving.process.poll() is None  # it has answered until here
        assert leaving.process.wait(PATIENCE_SECONDS) == 0
        load.more()

    assert set(load.outcomes) == {(200, True)}


def test_kept_connections_are_answered_and_closed(leaving: RunningService) -> None:
    with httpx.Client(base_url=leaving.url) as kept, httpx.Client(base_url=leaving.url) as idle:
        for client in (kept, idle):
            client.get("/livez")
        leaving.process.send_signal(signal.SIGTERM)
        until(lambda: kept.get("/readyz").status_code == 503)

        for client in (idle, kept):
            answer = client.post("/predict", content=DIGIT, headers={"X-API-Key": KEY})
            assert (answer.status_code, answer.headers["Connection"]) == (200, "close")
    assert leaving.process.wait(PATIENCE_SECONDS) == 0


def health(url: str, server: str) -> tuple[str, str]:
    """Return state and status of a server's last health check, as HAProxy sees it."""
    lines = httpx.get(f"{url}/stats;csv").text.removeprefix("# ").splitlines()
    (row,) = [row for row in csv.DictReader(lines) if row["svname"] == server]
    return row["status"], row["check_code"]
