"""The view "Models": figures, versions, and which is in production."""

from pathlib import Path

from playwright.sync_api import BrowserContext, Page, expect

from loupe.models.promotion import promote
from loupe.models.store import StoredModel
from tests.browser.conftest import KEY, PREFIX
from tests.browser.test_access import SMALLEST, check, enter_key
from tests.support.programs import RunningService, serving
from tests.support.stores import copied

ADMIN = "the-key-of-olga-0005"


def test_models_have_figures_and_a_report(
    context: BrowserContext, service: RunningService, digits_model: StoredModel
) -> None:
    page = context.new_page()
    page.goto(service.url)
    page.get_by_role("link", name="Models").click()
    card = page.locator(".model").filter(has_text=digits_model.tag)

    expect(card.locator(".roles")).to_contain_text("answers by default, ")
    accuracy = f"{100 * digits_model.card.measured.accuracy:.1f}\u00a0%"
    expect(card.locator("dd").first).to_contain_text(accuracy)
    check(page)
    with context.expect_page() as opened:
        card.get_by_role("link", name="Report").click()
    opened.value.wait_for_url(f"**/models/{digits_model.tag}/report")
    page.set_viewport_size(SMALLEST)
    check(page)


def test_report_is_saved_where_a_key_is_needed(
    context: BrowserContext, guarded: RunningService, digits_model: StoredModel
) -> None:
    page = context.new_page()
    page.goto(f"{guarded.url}{PREFIX}/#models")
    enter_key(page, KEY)
    card = page.locator(".model").filter(has_text=digits_model.tag)
    with page.expect_download() as download:
        card.get_by_role("link", name="Report").click()

    assert digits_model.tag in Path(download.value.path()).read_text()


def test_versions_are_compared_promoted_and_rolled_back(
    context: BrowserContext, store: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    promote(copied(digits_model, store, "digits:first").tag)
    second = copied(digits_model, store, "digits:second")
    worse = second.card.measured.model_copy(update={"accuracy": 0.5})
    second.card.model_copy(update={"figures": worse}).save(second.folder)
    keys = f"olga/admin:{ADMIN},dora:{KEY}"
    with serving(tmp_path / "log", BENTOML_HOME=store, LOUPE_API_KEYS=keys) as service:
        page = context.new_page()
        page.goto(f"{service.url}/#models")
        enter_key(page, KEY)
        page.get_by_role("button", name="Versions").click()
        expect(page.locator(".by-command")).to_contain_text("role admin")
        expect(page.get_by_role("button", name="Promote")).to_have_count(0)

        page.reload()
        enter_key(page, ADMIN)
        page.get_by_role("button", name="Versions").click()
        expect(page.locator(".verdict")).to_contain_text("first is more accurate")
        check(page)
        page.get_by_role("button", name="Promote digits:second").click()
        answer(page, "Promote")
        expect(page.locator("#confirm")).to_contain_text("not better")
        answer(page, "Promote nevertheless")
        expect(page.locator(".model .tag")).to_have_text("digits:second")
        page.get_by_role("button", name="Roll back").click()
        answer(page, "Roll back")
        expect(page.locator(".model .tag")).to_have_text("digits:first")
        page.set_viewport_size(SMALLEST)
        check(page)


def answer(page: Page, name: str) -> None:
    page.locator("#confirm").get_by_role("button", name=name, exact=True).click()
