"""The page at `/`: pictures in, answers out."""

import subprocess
import sys
from base64 import b64encode
from pathlib import Path

import httpx
import numpy as np
import pytest
from playwright._impl._driver import compute_driver_executable
from playwright.sync_api import Browser, BrowserContext, Page, Route, expect

from loupe.models.store import StoredModel
from tests.browser.strokes import SEVEN, ZERO, draw, expect_label, natural_width, touch
from tests.support import pictures
from tests.support.programs import RunningService

ACROSS = pictures.png(pictures.shapes().test.images[0])
BROKEN = b"no picture"
FILE = {"name": "across.png", "mimeType": "image/png", "buffer": ACROSS}
BROKEN_FILE = {"name": "notes.txt", "mimeType": "text/plain", "buffer": BROKEN}
MAX_FIRST_LOAD_BYTES = 150 * 1024
FILES_IN_PAGE = """([name, files]) => {
    const transfer = new DataTransfer();
    for (const [name, content] of files) {
        const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
        transfer.items.add(new File([bytes], name));
    }
    const options = { bubbles: true, cancelable: true };
    const event = name === "paste"
        ? new ClipboardEvent(name, { ...options, clipboardData: transfer })
        : new DragEvent(name, { ...options, dataTransfer: transfer });
    document.querySelector("main").dispatchEvent(event);
}"""


def hand_over(page: Page, event: str, *files: tuple[str, bytes]) -> None:
    """Drop or paste files, as the browser tells the page."""
    encoded = [[name, b64encode(content).decode()] for name, content in files]
    page.evaluate(FILES_IN_PAGE, [event, encoded])


def choose(page: Page, *files: object) -> None:
    page.set_input_files("#files", list(files))  # type: ignore[arg-type]


@pytest.mark.parametrize(("digit", "points"), [("7", SEVEN), ("0", ZERO)])
def test_drawn_digit_is_recognized(
    page: Page, digit: str, points: list[tuple[float, float]]
) -> None:
    draw(page, points)

    expect_label(page, digit)
    expect(page.locator(".bars li")).to_have_count(10)
    expect(page.locator(".bars .best .name")).to_have_text(digit)
    assert natural_width(page, ".answer .seen") == 28
    expect(page.locator("#spoken")).to_contain_text(f"{digit}, ")


def test_nearest_training_pictures_are_shown_on_request(page: Page) -> None:
    draw(page, SEVEN)
    expect(page.locator("#spoken")).to_contain_text("7, ")  # when the drawing rests
    page.get_by_role("button", name="Nearest training pictures").click()

    expect(page.locator(".nearest img")).to_have_count(3)
    assert natural_width(page, ".nearest img") == 28
    page.get_by_role("button", name="Undo").click()
    expect(page.locator(".nearest img")).to_have_count(0)


def test_models_without_training_pictures_say_so(page: Page) -> None:
    page.locator("#model").select_option(index=1)
    choose(page, FILE)
    page.get_by_role("button", name="Nearest training pictures").click()

    expect(page.locator(".nearest")).to_contain_text("without training pictures")


def test_finger_draws_and_does_not_scroll(browser: Browser, service: RunningService) -> None:
    with browser.new_context(viewport={"width": 375, "height": 640}, has_touch=True) as context:
        page = context.new_page()
        page.goto(service.url)
        page.wait_for_selector("#samples button")
        page.locator("#pad").scroll_into_view_if_needed()
        before = page.evaluate("scrollY")
        touch(page, SEVEN)

        expect_label(page, "7")
        expect(page.locator("#brief")).to_contain_text("7, ")
        assert page.evaluate("scrollY") == before


def test_answers_come_while_the_pointer_is_down(page: Page) -> None:
    draw(page, SEVEN, lift=False)

    expect_label(page, "7")


def test_undo_and_clear(page: Page) -> None:
    draw(page, SEVEN)
    draw(page, ZERO)
    page.get_by_role("button", name="Undo").click()
    expect_label(page, "7")
    page.get_by_role("button", name="Clear").click()
    expect(page.locator(".answer")).to_have_count(0)
    page.locator("#pad").press("Control+z")
    expect_label(page, "7")


def test_sample_is_answered_by_keyboard(page: Page) -> None:
    page.locator("#threshold").focus()
    page.keyboard.press("Tab")
    for _ in range(10):
        if page.evaluate("document.activeElement.closest('#samples') !== null"):
            break
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")

    expect_label(page, "0")


@pytest.mark.parametrize("event", ["drop", "paste"])
def test_dropped_and_pasted_picture_is_answered(page: Page, event: str) -> None:
    page.locator("#model").select_option(index=1)
    hand_over(page, event, ("across.png", ACROSS))

    expect(page.locator(".bars li")).to_have_count(3)
    assert natural_width(page, "#shown") == 28


def test_picture_that_cannot_be_read_has_the_message_of_the_api(
    page: Page, service: RunningService
) -> None:
    refused = httpx.post(f"{service.url}/predict", content=BROKEN).json()
    choose(page, BROKEN_FILE)

    expect(page.locator(".answer .problem")).to_have_text(refused["error"])
    expect(page.locator("#pad-hint")).to_contain_text("notes.txt")


def test_several_pictures_become_a_gallery(page: Page, service: RunningService) -> None:
    refused = httpx.post(f"{service.url}/predict", content=BROKEN).json()
    hand_over(page, "drop", ("a.png", ACROSS), ("notes.txt", BROKEN), ("b.png", ACROSS))

    expect(page.locator("#gallery-summary")).to_have_text("3 of 3 pictures, 1 could not be read.")
    expect(page.locator(".card .problem")).to_have_text(refused["error"])
    page.locator(".card").nth(1).click()
    expect(page.locator(".answer .problem")).to_have_text(refused["error"])
    page.locator(".card").nth(2).click()
    expect(page.locator(".card[aria-pressed=true] .file")).to_have_text("b.png")
    expect(page.locator(".bars li")).to_have_count(10)
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator("#gallery")).to_be_hidden()


def test_pictures_above_the_limit_are_counted(page: Page) -> None:
    choose(page, *[{**FILE, "name": f"{number}.png"} for number in range(203)])

    expect(page.locator(".card")).to_have_count(200)
    expect(page.locator("#gallery-summary")).to_contain_text("200 of 200 pictures, 3 left out")


def test_two_models_answer_side_by_side(
    page: Page, digits_model: StoredModel, shapes_model: StoredModel
) -> None:
    page.locator("#other").select_option(shapes_model.tag)
    choose(page, FILE)

    facts = page.locator(".answer .facts")
    expect(facts).to_have_count(2)
    expect(facts.nth(0)).to_contain_text(digits_model.tag)
    expect(facts.nth(1)).to_contain_text(shapes_model.tag)


def test_answer_below_the_threshold_is_unsure(page: Page, shapes_model: StoredModel) -> None:
    page.locator("#model").select_option(shapes_model.tag)
    page.locator("#threshold").fill("0.95")
    page.locator("#threshold").dispatch_event("change")
    draw(page, ZERO)

    expect_label(page, "Unsure")


def test_blank_picture_has_neither_label_nor_confidence(page: Page) -> None:
    paper = pictures.png(np.full((60, 60), 255, np.uint8))
    choose(page, {"name": "paper.png", "mimeType": "image/png", "buffer": paper})

    expect_label(page, "Blank")
    expect(page.locator(".answer .confidence")).to_be_empty()


def test_answer_shows_familiarity_steps_and_what_counted(page: Page) -> None:
    answer: dict[str, object] = {}

    def add(route: Route) -> None:
        answer.update(route.fetch().json())
        told = {"familiarity": 0.002, "unfamiliar": True, "saliency": answer["seen"]}
        route.fulfill(json={**answer, **told})

    page.route("**/predict?*", add)
    draw(page, SEVEN)
    expect_label(page, "7")
    expect(page.locator(".facts").first).to_contain_text("unlike what the model learnt")
    page.get_by_text("How the model's picture was made").click()
    expect(page.locator(".steps li").first).not_to_be_empty()
    page.get_by_role("button", name="What counted?").click()
    assert natural_width(page, ".map") == 28


def test_each_of_several_digits_is_answered(page: Page) -> None:
    for left, points in ((2, SEVEN), (52, ZERO)):
        draw(page, [(left + x * 0.45, 25 + y * 0.45) for x, y in points])

    expect(page.locator(".symbols li")).to_have_count(2)
    expect_label(page, "7 0")
    expect(page.locator("#spoken")).to_contain_text("2 symbols: 7 0")
    expect(page.locator("#snippet")).to_contain_text("split=true")
    page.get_by_role("button", name="Undo").click()
    expect_label(page, "7")
    expect(page.locator(".symbols li")).to_have_count(0)


def test_camera_takes_a_picture(page: Page, shapes_model: StoredModel) -> None:
    page.locator("#model").select_option(shapes_model.tag)  # it reads any picture
    page.get_by_role("button", name="Camera").click()
    page.get_by_role("button", name="Take the picture").click()

    expect(page.locator(".bars li")).to_have_count(3)
    assert natural_width(page, "#shown") > 28


@pytest.mark.parametrize("language", ["curl", "Python", "JavaScript"])
def test_code_of_the_call_runs(page: Page, tmp_path: Path, language: str) -> None:
    draw(page, SEVEN)
    expect_label(page, "7")
    page.get_by_label(language, exact=True).check()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download the picture").click()
    download.value.save_as(tmp_path / download.value.suggested_filename)
    code = page.locator("#snippet").text_content()
    assert code

    node = compute_driver_executable()[0]  # Playwright contains Node.js
    (tmp_path / "call.mjs").write_text(code)
    command = {
        "curl": ["sh", "-c", code],
        "Python": [sys.executable, "-c", code],
        "JavaScript": [node, "call.mjs"],
    }
    done = subprocess.run(command[language], cwd=tmp_path, capture_output=True, text=True)
    assert "'7'" in done.stdout.replace('"', "'"), done.stderr


def test_links_to_operations_of_the_old_page_lead_to_the_description(
    context: BrowserContext, service: RunningService
) -> None:
    page = context.new_page()
    page.goto(f"{service.url}/#/Predictions/predict")

    page.wait_for_url("**/docs#/Predictions/predict")
    expect(page.locator("#operations-Predictions-predict")).to_be_visible()


def test_first_load_is_small_and_the_second_is_cached(
    context: BrowserContext, service: RunningService
) -> None:
    page = context.new_page()
    session = context.new_cdp_session(page)
    session.send("Network.enable")
    sizes: list[float] = []
    session.on("Network.loadingFinished", lambda event: sizes.append(event["encodedDataLength"]))
    page.goto(service.url)
    page.wait_for_selector("#samples button")
    first = sum(sizes)
    sizes.clear()
    page.reload()
    page.wait_for_selector("#samples button")

    assert 10_000 < first < MAX_FIRST_LOAD_BYTES
    assert sum(sizes) < first
