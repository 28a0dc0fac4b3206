"""Hooks of MkDocs: add pages from outside this folder, and written ones."""

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from docs import reference

ROOT = Path(__file__).parents[1]
LINK_OUT = re.compile(r"\[(?P<text>[^]]+)\]\(\.\./(?P<path>[^)#]+)(?P<anchor>[^)]*)\)")
OUTSIDE = {"README.md": "overview.md", "CHANGELOG.md": "changelog.md"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are not in this folder."""
    pages = {page: _from_root((ROOT / name).read_text("utf-8")) for name, page in OUTSIDE.items()}
    pages |= {"cli.md": reference.command_line(), "api.md": reference.http_api()}
    pages["notebook.md"] = _as_page(json.loads((ROOT / "docs/tutorial.ipynb").read_text("utf-8")))
    for name, content in pages.items():
        files.append(File.generated(config, name, content=content))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Lead links to files outside the site to their pages, or leave only their texts."""

    def replace(link: re.Match[str]) -> str:
        page = OUTSIDE.get(link["path"])
        return f"[{link['text']}]({page}{link['anchor']})" if page else link["text"]

    return LINK_OUT.sub(replace, markdown)


def _from_root(markdown: str) -> str:
    """Return a page of the repository's root as one of this folder."""
    outside = re.sub(r"\]\((?!https?:|#|docs/)", "](../", markdown)
    return outside.replace("](docs/", "](")


def _as_page(notebook: dict[str, list[dict[str, Any]]]) -> str:
    """Return a notebook without its outputs as Markdown."""
    texts = []
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        texts.append(f"```python\n{text}\n```" if cell["cell_type"] == "code" else text)
    return "\n\n".join(texts)
