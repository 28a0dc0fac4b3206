"""Checks that the documentation agrees with itself and with the code."""

import re
from pathlib import Path

import pytest

from loupe.settings import ENV_PREFIX, Settings

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", page.read_text())
    broken = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert not broken


def test_index_lists_every_page() -> None:
    linked = set(re.findall(r"\]\((\w[\w-]*\.md)\)", (ROOT / "docs" / "README.md").read_text()))
    assert linked == {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}


def test_settings_page_lists_every_setting_with_its_default_and_description() -> None:
    rows = re.findall(
        r"^\| `(LOUPE_\w+)` \| (?:`(.+?)`)? +\| (.+) \|$",
        (ROOT / "docs" / "settings.md").read_text(),
        re.MULTILINE,
    )
    settings = {
        f"{ENV_PREFIX}{name}".upper(): (
            "" if field.default is None else str(field.default).removesuffix(".0"),
            " ".join((field.description or "").replace("`", "").split()),
        )
        for name, field in Settings.model_fields.items()
    }
    listed = {
        name: (default.removesuffix(".0"), text.replace("`", "")) for name, default, text in rows
    }
    assert listed == settings
    assert len(listed) == len(rows)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_extras_are_installed_from_the_checkout(page: Path) -> None:
    """The package `loupe` on PyPI is another project."""
    assert not re.search(r"^ +pip install '?loupe", page.read_text(), re.MULTILINE)
