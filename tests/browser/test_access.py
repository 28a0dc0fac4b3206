"""The page behind a prefix, with keys, and for people who do not see or point."""

from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect

from tests.browser.conftest import KEY, PREFIX
from tests.browser.strokes import SEVEN, draw, expect_label
from tests.browser.test_try import BROKEN_FILE, FILE, choose
from tests.support.programs import RunningService

DESK: ViewportSize = {"width": 1180, "height": 900}
PHONE: ViewportSize = {"width": 375, "height": 740}
SMALLEST: ViewportSize = {"width": 320, "height": 568}


def enter_key(page: Page, key: str) -> None:
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Use key").click()


def test_page_behind_a_prefix_asks_for_the_key_and_forgets_it(
    context: BrowserContext, guarded: RunningService
) -> None:
    paths: list[str] = []
    context.on("request", lambda request: paths.append(request.url.removeprefix(guarded.url)))
    page = context.new_page()
    page.goto(f"{guarded.url}{PREFIX}/")

    enter_key(page, "a-key-of-nobody-0009")
    expect(page.locator("#key-problem")).to_contain_text("unknown")
    enter_key(page, KEY)
    expect(page.locator("#key-form")).to_be_hidden()
    page.wait_for_selector("#samples button")
    draw(page, SEVEN)
    expect_label(page, "7")
    code = page.locator("#snippet").text_content() or ""
    assert f"{PREFIX}/predict" in code
    assert "X-API-Key" in code
    assert KEY not in page.content()
    assert not context.cookies()
    stored = "localStorage.length + sessionStorage.length"
    assert page.evaluate(stored) == 0
    page.reload()
    expect(page.locator("#key-form")).to_be_visible()
    assert all(path.startswith((f"{PREFIX}/", "blob:", "data:")) for path in paths)


@pytest.mark.parametrize(
    ("size", "scheme", "colours"),
    [
        pytest.param(DESK, "light", "active", id="desk, forced colours"),
        pytest.param(PHONE, "dark", "active", id="phone, forced colours"),
        pytest.param(SMALLEST, "light", "none", id="smallest, light"),
        pytest.param(SMALLEST, "dark", "none", id="smallest, dark"),
    ],
)
def test_axe_finds_nothing(
    browser: Browser,
    service: RunningService,
    size: ViewportSize,
    scheme: Literal["light", "dark"],
    colours: Literal["active", "none"],
) -> None:
    with browser.new_context(viewport=size, color_scheme=scheme, forced_colors=colours) as context:
        page = context.new_page()
        for view in ("jobs", "models", "review"):
            page.goto(f"{service.url}/#{view}")
            expect(page.locator(f"#{view}")).to_be_visible()
            check(page)
        page.goto(service.url)
        page.wait_for_selector("#samples button")
        draw(page, SEVEN)
        expect(page.locator("#spoken")).to_contain_text("7, ")
        page.get_by_role("button", name="Nearest training pictures").click()
        expect(page.locator(".nearest img")).to_have_count(3)
        check(page)
        page.locator("#other").select_option(index=2)
        choose(page, FILE, BROKEN_FILE)
        expect(page.locator("#gallery-summary")).to_contain_text("2 of 2")
        check(page)
        page.locator(".card").nth(1).click()
        expect(page.locator(".answer .problem").first).to_be_visible()
        check(page)
        page.get_by_role("button", name="Camera").click()
        expect(page.get_by_role("button", name="Take the picture")).to_be_enabled()
        check(page)


@pytest.mark.parametrize(("motion", "duration"), [("reduce", "0s"), ("no-preference", "0.12s")])
def test_bars_move_unless_motion_is_reduced(
    browser: Browser,
    service: RunningService,
    motion: Literal["reduce", "no-preference"],
    duration: str,
) -> None:
    with browser.new_context(reduced_motion=motion) as context:
        page = context.new_page()
        page.goto(service.url)
        page.locator("#samples button").first.click()
        expect(page.locator(".bars li")).to_have_count(10)
        bar = page.locator(".bars .fill").first

        assert bar.evaluate("bar => getComputedStyle(bar).transitionDuration") == duration


def test_axe_finds_nothing_where_a_key_is_needed(
    context: BrowserContext, guarded: RunningService
) -> None:
    page = context.new_page()
    page.goto(f"{guarded.url}{PREFIX}/")
    expect(page.locator("#key-form")).to_be_visible()
    check(page)


def check(page: Page) -> None:
    """Check the page with axe-core, and that it needs no horizontal scrolling."""
    results = Axe().run(page)
    assert results.violations_count == 0, results.generate_report()
    width = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(width) == 0
