"""The web page in docs/javascript.md, which calls the service from another origin."""

import functools
import re
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from loupe.models.store import StoredModel
from tests.support.programs import RunningService, serving
from tests.support.shell_examples import code_of

ROOT = Path(__file__).parents[2]
DIGIT = ROOT / "examples" / "digits" / "7.png"


class QuietHandler(SimpleHTTPRequestHandler):
    """A server of files without a log."""

    def log_message(self, format: str, *arguments: object) -> None:
        """Print nothing."""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Run another web server; return its port and its folder."""
    folder = tmp_path_factory.mktemp("shop")
    handler = functools.partial(QuietHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port, folder
        server.shutdown()


@pytest.fixture(scope="module")
def service(
    digits_model: StoredModel, shop: tuple[int, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Run a service that the shop's pages at `localhost` may call, and those at 127.0.0.1 not."""
    folder = tmp_path_factory.mktemp("cors")
    settings = {"LOUPE_DATA_DIR": folder / "data", "LOUPE_MODEL": digits_model.tag}
    origin = f"http://localhost:{shop[0]}"
    with serving(folder / "log", LOUPE_CORS_ORIGINS=origin, **settings) as running:
        (example,) = code_of(ROOT / "docs" / "javascript.md", "html")
        assert "http://localhost:3000" in example
        page = example.replace("http://localhost:3000", running.url)
        (shop[1] / "index.html").write_text(page, encoding="utf-8")
        yield running


def test_page_of_another_origin_shows_the_label(
    browser: Browser, service: RunningService, shop: tuple[int, Path]
) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://localhost:{shop[0]}/")
        page.set_input_files("#picture", DIGIT)

        expect(page.locator("#label")).to_have_text(re.compile("^[0-9]$"))


def test_page_of_an_origin_that_is_not_named_gets_no_answer(
    browser: Browser, service: RunningService, shop: tuple[int, Path]
) -> None:
    with browser.new_context() as context:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{shop[0]}/")
        with page.expect_event("requestfailed") as failed:
            page.set_input_files("#picture", DIGIT)

        assert failed.value.url == f"{service.url}/predict"
        expect(page.locator("#label")).to_be_empty()
