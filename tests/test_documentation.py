"""Checks that the documentation agrees with itself and with the code."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from docs import reference
from loupe.cli.main import COMMANDS
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


def test_site_has_every_page() -> None:
    nav = str(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert not [page.name for page in (ROOT / "docs").glob("*.md") if page.name not in nav]


def test_reference_has_every_command_and_every_route() -> None:
    commands, routes = reference.command_line(), reference.http_api()
    document = yaml.safe_load((ROOT / "service/web/openapi.yaml").read_text())

    assert [name for name in COMMANDS if f"\n## loupe {name}\n" not in commands] == []
    assert "<code>--out" in commands
    assert [path for path in document["paths"] if f" {path}\n" not in routes] == []
    assert "`several_objects`" in routes


def test_site_has_no_broken_links_and_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})

    loaded = re.compile(r"""<(?:script|link|img)[^>]+(?:src|href)=["']?(?:https?:)?//""")
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > len(PAGES)
    assert not [page for page in pages if loaded.search(page.read_text())]


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


def test_http_reference_lists_the_code_of_every_error() -> None:
    codes = yaml.safe_load((ROOT / "service/web/errors.yaml").read_text())
    page = (ROOT / "docs" / "http-api-reference.md").read_text()

    assert [code for code in codes if f"`{code}`" not in page] == []
