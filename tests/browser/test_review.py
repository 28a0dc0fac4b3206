"""The view "Review": from uncertain pictures to labels."""

import csv
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from loupe.models.store import StoredModel
from tests.browser.test_access import SMALLEST, check
from tests.browser.test_jobs import BROKEN, DIGITS, archive, choose, expect_done
from tests.support.programs import RunningService, running, serving


@pytest.fixture(scope="module")
def sampling(
    digits_model: StoredModel, shapes_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Run a service that keeps all pictures, and a worker."""
    folder = tmp_path_factory.mktemp("sampling")
    settings = {"LOUPE_DATA_DIR": folder / "data", "LOUPE_MODEL": digits_model.tag}
    with (
        serving(folder / "log", LOUPE_CAPTURE=1, **settings) as service,
        running(folder / "worker", "worker", **settings),
    ):
        yield service


@pytest.fixture
def page(context: BrowserContext, sampling: RunningService) -> Page:
    page = context.new_page()
    page.goto(f"{sampling.url}/#jobs")
    expect(page.locator("#job-model option")).to_have_count(2)
    return page


def downloaded(page: Page, button: str) -> bytes:
    with page.expect_download() as download:
        page.get_by_role("button", name=button).click()
    return Path(download.value.path()).read_bytes()


def test_pictures_of_a_job_are_labelled_by_key(page: Page) -> None:
    names = [f"set/{number}.png" for number in range(4)]
    choose(page, archive(*zip(names, DIGITS[:4], strict=True), ("broken.png", BROKEN)))
    expect_done(page, "4 of 5 scored")
    page.get_by_role("link", name="Review").last.click()
    expect(page.locator("#review-status")).to_contain_text("Picture 1: ")
    facts = page.locator("#review-facts").inner_text().split(" · ")

    page.keyboard.press("7")
    expect(page.locator("#review-status")).to_contain_text("Picture 2: ")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#review-status")).to_contain_text("Picture 3: ")
    page.get_by_role("button", name="3", exact=True).click()
    expect(page.locator("#labelled-count")).to_have_text("2 labelled")
    expect(page.locator("#review-status")).to_contain_text("Picture 4: ")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#review-back")).to_be_enabled()
    check(page)

    rows = list(csv.DictReader(io.StringIO(downloaded(page, "Download CSV").decode())))
    assert [row["label"] for row in rows] == ["7", "3"]
    assert rows[0]["id"] in facts
    with zipfile.ZipFile(io.BytesIO(downloaded(page, "Download folders"))) as folders:
        found = {name.split("/")[1] for name in folders.namelist() if name.endswith(".png")}
        pictures = {folders.read(name) for name in folders.namelist() if name.endswith(".png")}
    assert found == {"7", "3"}
    assert pictures < set(DIGITS)


def test_served_pictures_are_reviewed(page: Page, sampling: RunningService) -> None:
    for digit in DIGITS[:3]:
        assert httpx.post(f"{sampling.url}/predict", content=digit).status_code == 200
    page.locator("#review-link").click()
    page.locator("#review-source").select_option("served")
    expect(page.locator("#review-status")).to_contain_text("Picture 1: ")
    page.wait_for_function("document.querySelector('#review-image').naturalWidth === 28")
    page.get_by_role("button", name="9", exact=True).click()

    expect(page.locator("#labelled-count")).to_have_text("1 labelled")
    page.set_viewport_size(SMALLEST)
    check(page)


def test_nothing_to_review_says_what_to_do(
    context: BrowserContext, service: RunningService
) -> None:
    page = context.new_page()
    page.route("**/jobs?*", lambda route: route.fulfill(json={"jobs": [], "next": None}))
    page.goto(f"{service.url}/#review")

    expect(page.locator("#review-none")).to_contain_text("LOUPE_CAPTURE")
    check(page)
