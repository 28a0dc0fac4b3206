"""Chromium, and the services whose page it opens."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from loupe.models.store import StoredModel
from service.http.keys import digest_of
from tests.support.programs import PATIENCE_SECONDS, RunningService, serving
from tests.support.servers.proxies import installed

KEY = "the-key-of-dora-0004"
PREFIX = "/models/loupe"
FAKE_CAMERA = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")

expect.set_options(timeout=PATIENCE_SECONDS * 1000)


@pytest.fixture(scope="package")
def service(
    digits_model: StoredModel, shapes_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Run a service with both models; digits answer first."""
    folder = tmp_path_factory.mktemp("service")
    settings = {"LOUPE_DATA_DIR": folder / "data", "LOUPE_MODEL": digits_model.tag}
    with serving(folder / "log", **settings) as running:
        yield running


@pytest.fixture(scope="package")
def guarded(
    digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Run a service that needs a key and is under a path prefix."""
    folder = tmp_path_factory.mktemp("guarded")
    settings = {
        "LOUPE_DATA_DIR": folder / "data",
        "LOUPE_MODEL": digits_model.tag,
        "LOUPE_API_KEYS": f"dora:sha256:{digest_of(KEY)}",
        "LOUPE_ROOT_PATH": PREFIX,
    }
    with serving(folder / "log", **settings) as running:
        yield running


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Run Chromium with a camera that shows a test picture."""
    path = installed("chromium")
    with sync_playwright() as playwright:
        # Tests run as root in containers, which have no sandbox and little shared memory.
        options = ["--no-sandbox", "--disable-dev-shm-usage", *FAKE_CAMERA]
        started = playwright.chromium.launch(executable_path=path, args=options)
        yield started
        started.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Open a window; every request must go to this machine, and no script may fail."""
    opened = browser.new_context(viewport={"width": 1180, "height": 900})
    opened.set_default_timeout(PATIENCE_SECONDS * 1000)
    hosts: set[str | None] = set()
    failures: list[str] = []
    opened.on("request", lambda request: hosts.add(urlsplit(request.url).hostname))
    opened.on("weberror", lambda error: failures.append(str(error.error)))
    yield opened
    opened.close()
    assert hosts <= {"127.0.0.1", None}  # `None`: data and blob URLs
    assert not failures


@pytest.fixture
def page(context: BrowserContext, service: RunningService) -> Page:
    """Open the page; it has loaded when the samples are there."""
    page = context.new_page()
    page.goto(service.url)
    page.wait_for_selector("#samples button")
    return page
