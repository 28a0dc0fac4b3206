"""The view "Jobs": from files to results."""

import csv
import io
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
from playwright.sync_api import BrowserContext, Page, expect

from loupe.models.store import StoredModel
from tests.browser.conftest import KEY, PREFIX
from tests.browser.strokes import natural_width
from tests.browser.test_access import check, enter_key
from tests.support import pictures
from tests.support.programs import RunningService, running, serving

DIGITS = [pictures.png(image) for image in pictures.digits(12)]
BROKEN = b"no picture"


@pytest.fixture(scope="module", autouse=True)
def _workers(service: RunningService, guarded: RunningService) -> Iterator[None]:
    """Run a worker for each service."""
    folders = [each.log.parent for each in (service, guarded)]
    with (
        running(folders[0] / "worker", "worker", LOUPE_DATA_DIR=folders[0] / "data"),
        running(folders[1] / "worker", "worker", LOUPE_DATA_DIR=folders[1] / "data"),
    ):
        yield


@pytest.fixture
def jobs(context: BrowserContext, service: RunningService) -> Page:
    page = context.new_page()
    page.goto(f"{service.url}/#jobs")
    expect(page.locator("#job-model option")).to_have_count(2)
    return page


def archive(*files: tuple[str, bytes]) -> dict[str, object]:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as opened:
        for name, content in files:
            opened.writestr(name, content)
    return {"name": "set.zip", "mimeType": "application/zip", "buffer": packed.getvalue()}


@contextmanager
def new_job(page: Page) -> Iterator[None]:
    """Wait until the job that the block submits is the first of the list."""
    with page.expect_response(lambda response: response.request.method == "POST") as submitted:
        yield
    expect(page.locator(".job .about").first).to_contain_text(submitted.value.json()["id"])


def choose(page: Page, *files: object) -> None:
    with new_job(page):
        page.set_input_files("#job-files", list(files))  # type: ignore[arg-type]


def expect_done(page: Page, counts: str) -> None:
    job = page.locator(".job").first
    expect(job.locator(".counts")).to_contain_text(counts)
    expect(job.locator(".state")).to_have_text("done")


def test_archive_becomes_a_job_with_rows_errors_and_downloads(jobs: Page, tmp_path: Path) -> None:
    digits = [(f"{number}.png", content) for number, content in enumerate(DIGITS)]
    choose(jobs, archive(*digits, ("broken.png", BROKEN), ("notes.txt", b"text")))

    expect_done(jobs, "12 of 14 scored · 1 could not be read · 1 skipped (1 not a picture)")
    jobs.get_by_role("button", name="Show results").first.click()
    expect(jobs.locator(".range")).to_have_text("1–12 of 12 results")
    expect(jobs.locator(".found")).to_have_count(12)
    assert natural_width(jobs, ".found img") == 28
    jobs.locator("[name=kind]").select_option("errors")
    expect(jobs.locator(".found")).to_have_count(1)
    expect(jobs.locator(".found .problem")).to_contain_text("Not a PNG")
    for name, suffix in (("CSV", "csv"), ("Parquet", "parquet"), ("JSON lines", "jsonl")):
        with jobs.expect_download() as download:
            jobs.get_by_role("button", name=f"Download {name}").first.click()
        download.value.save_as(tmp_path / f"rows.{suffix}")
    with (tmp_path / "rows.csv").open() as file:
        ids = {row["id"] for row in csv.DictReader(file)}
    assert ids == {name for name, _ in digits}
    assert pq.read_table(tmp_path / "rows.parquet").num_rows == 12
    assert len((tmp_path / "rows.jsonl").read_text().splitlines()) == 12


def test_folder_is_sent_as_one_archive_with_its_labels(jobs: Page, tmp_path: Path) -> None:
    for number, content in enumerate(DIGITS[:4]):
        folder = tmp_path / "set" / str(number)
        folder.mkdir(parents=True)
        (folder / f"Zahl ü {number}.png").write_bytes(content)
    jobs.get_by_label("True labels").select_option("folder")
    jobs.set_input_files("#job-folder", tmp_path / "set")

    expect_done(jobs, "4 of 4 scored")
    with jobs.expect_download() as download:
        jobs.get_by_role("button", name="Download CSV").first.click()
    rows = list(csv.DictReader(io.StringIO(Path(download.value.path()).read_text())))
    found = {(row["id"], row["label_true"]) for row in rows}
    assert found == {(f"set/{number}/Zahl ü {number}.png", str(number)) for number in range(4)}


def test_job_is_cancelled_and_older_ones_are_listed(
    context: BrowserContext, digits_model: StoredModel, tmp_path: Path
) -> None:
    settings = {"LOUPE_DATA_DIR": tmp_path / "data", "LOUPE_MODEL": digits_model.tag}
    with serving(tmp_path / "log", **settings) as idle:  # no worker takes its jobs
        body = archive(("0.png", DIGITS[0]))["buffer"]
        headers = {"Content-Type": "application/zip"}
        for _ in range(12):
            answer = httpx.post(f"{idle.url}/jobs", content=body, headers=headers)  # type: ignore[arg-type]
            assert answer.status_code == 202
        page = context.new_page()
        page.goto(f"{idle.url}/#jobs")
        expect(page.locator(".job")).to_have_count(10)
        page.get_by_role("button", name="Show older jobs").click()
        expect(page.locator(".job")).to_have_count(12)
        page.locator(".job .cancel").first.click()
        expect(page.locator(".state").first).to_have_text("cancelled")
        expect(page.locator(".state").nth(1)).to_have_text("queued")
        page.get_by_role("button", name="Try again").click()
        expect(page.locator(".state").first).to_have_text("queued")


def test_page_follows_a_job_again_when_the_connection_ends(jobs: Page) -> None:
    jobs.route("**/events", lambda route: route.abort(), times=1)
    choose(jobs, archive(("0.png", DIGITS[0])))

    expect_done(jobs, "1 of 1 scored")
    expect(jobs.locator(".job .problem").first).to_be_empty()


def test_results_are_paged_and_filtered(jobs: Page, service: RunningService) -> None:
    label = httpx.post(f"{service.url}/predict", content=DIGITS[0]).json()["label"]
    folders = (label, "none")
    names = [f"{folders[number % 2]}/{number:03}.png" for number in range(60)]
    jobs.get_by_label("True labels").select_option("folder")
    choose(jobs, archive(*((name, DIGITS[0]) for name in names)))

    expect_done(jobs, "60 of 60 scored")
    jobs.get_by_role("button", name="Show results").first.click()
    expect(jobs.locator(".range")).to_have_text("1–48 of 60 results")
    jobs.get_by_role("button", name="Next").click()
    expect(jobs.locator(".range")).to_have_text("49–60 of 60 results")
    expect(jobs.locator(".found .file").last).to_have_text(names[-1])
    jobs.get_by_label("Wrong only").check()
    expect(jobs.locator(".range")).to_have_text("1–30 of 30 (of 60) results")
    expect(jobs.locator(".found .facts").first).to_contain_text("should be none")
    jobs.locator("[name=label]").select_option("")
    expect(jobs.locator(".range")).to_have_text("No results (of 60).")


def test_upload_that_was_interrupted_is_sent_again(jobs: Page) -> None:
    jobs.route("**/jobs?*", lambda route: route.abort(), times=1)
    jobs.set_input_files("#job-files", archive(("0.png", DIGITS[0])))  # type: ignore[arg-type]
    expect(jobs.locator("#job-problem")).to_contain_text("interrupted")
    with new_job(jobs):
        jobs.get_by_role("button", name="Send again").click()

    expect_done(jobs, "1 of 1 scored")
    expect(jobs.get_by_role("button", name="Send again")).to_be_hidden()


def test_options_go_with_the_job(jobs: Page, service: RunningService) -> None:
    jobs.get_by_text("Options").click()
    jobs.locator("#job-threshold").fill("1")
    choose(jobs, archive(("0.png", DIGITS[0])))

    expect_done(jobs, "1 of 1 scored")
    jobs.get_by_role("button", name="Show results").first.click()
    expect(jobs.locator(".found .label")).to_have_text("Unsure")
    jobs.locator("[name=label]").select_option("")
    expect(jobs.locator(".range")).to_have_text("1–1 of 1 results")


def test_file_that_is_no_set_of_pictures_fails_with_the_reason(jobs: Page) -> None:
    choose(jobs, {"name": "set.zip", "mimeType": "application/zip", "buffer": BROKEN})

    job = jobs.locator(".job").first
    expect(job.locator(".state")).to_have_text("failed")
    expect(job.locator(".problem")).not_to_be_empty()


def test_jobs_of_a_key_behind_a_prefix(context: BrowserContext, guarded: RunningService) -> None:
    page = context.new_page()
    page.goto(f"{guarded.url}{PREFIX}/#jobs")
    enter_key(page, KEY)
    expect(page.locator("#job-none")).to_be_visible()
    choose(page, archive(("0.png", DIGITS[0])))

    expect_done(page, "1 of 1 scored")
    page.get_by_role("button", name="Show results").click()
    expect(page.locator(".found")).to_have_count(1)
    assert natural_width(page, ".found img") == 28
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    assert len(Path(download.value.path()).read_text().splitlines()) == 2


def test_axe_finds_nothing_in_jobs(jobs: Page) -> None:
    check(jobs)
    choose(jobs, archive(("0.png", DIGITS[0]), ("broken.png", BROKEN)))
    expect_done(jobs, "1 of 2 scored")
    jobs.get_by_role("button", name="Show results").first.click()
    expect(jobs.locator(".found").first).to_be_visible()
    jobs.get_by_text("Options").click()
    check(jobs)
    jobs.set_viewport_size({"width": 320, "height": 568})
    check(jobs)
