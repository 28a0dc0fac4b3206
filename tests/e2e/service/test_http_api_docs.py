"""Examples of docs/http-api.md, run against a service and compared with the answers on the page."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import JsonValue

from tests.support import pictures
from tests.support.programs import RunningService, environment, running

PAGE = Path(__file__).parents[3] / "docs" / "http-api.md"
ADDRESS = "localhost:3000"
BLOCK = re.compile(
    r"^```(sh|python)\n(.*?)^```\n(?:\n```json\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL
)
OPTIONS = "--silent --show-error --write-out '\\n'"


@dataclass(frozen=True)
class Example:
    """An example on the page, and its answer if the page shows one."""

    language: str
    code: str
    answer: str


EXAMPLES = [Example(*found) for found in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the files that the examples use."""
    folder = tmp_path_factory.mktemp("examples")
    digits = pictures.digits(3)
    np.save(folder / "digits.npy", digits)
    (folder / "digit.png").write_bytes(pictures.png(digits[0]))
    Image.fromarray(pictures.digit_sheet()).resize((300, 400)).save(folder / "photo.jpg")
    (folder / "two.png").write_bytes(pictures.png(pictures.strokes(2)))
    (folder / "images").mkdir()
    for number, digit in enumerate(digits):
        (folder / "images" / f"{number}.png").write_bytes(pictures.png(digit))
    (folder / "images" / "notes.png").write_text("socks")
    shutil.make_archive(str(folder / "images"), "zip", folder / "images")
    return folder


@pytest.fixture(scope="module")
def worker(service_data: Path) -> Iterator[None]:
    """Run a worker for the jobs of the page."""
    with running(service_data.with_name("worker.log"), "worker", LOUPE_DATA_DIR=service_data):
        yield


def shape(value: JsonValue) -> object:
    """Return the parts of JSON that do not depend on the model."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items() if name != "probabilities"}
    return [shape(each) for each in value] if isinstance(value, list) else isinstance(value, str)


def test_page_has_examples_for_all_clients() -> None:
    page = PAGE.read_text(encoding="utf-8")

    assert len(EXAMPLES) == page.count("```sh\n") + page.count("```python\n") >= 15
    assert sum(example.answer != "" for example in EXAMPLES) == page.count("```json\n")
    assert {
        word
        for word in ("curl", "httpx", "tritonclient")
        if any(word in each.code for each in EXAMPLES)
    } == {
        "curl",
        "httpx",
        "tritonclient",
    }


@pytest.mark.parametrize(
    "example", EXAMPLES, ids=[f"{place}-{each.language}" for place, each in enumerate(EXAMPLES)]
)
def test_example_gives_the_answer_on_the_page(
    service: RunningService, worker: None, folder: Path, example: Example
) -> None:
    if example.language == "sh" and shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    code = example.code.replace(ADDRESS, service.url.removeprefix("http://"))
    command = (
        [sys.executable, "-c", code]
        if example.language == "python"
        else ["bash", "-euc", code.replace("curl ", f"curl {OPTIONS} ")]
    )
    ended = subprocess.run(
        command, cwd=folder, env=environment(KEY="a-key"), capture_output=True, text=True
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()
    if example.language == "sh":
        answers = [json.loads(line) for line in ended.stdout.splitlines()]
        expected = json.loads(example.answer) if example.answer else None
        assert all(("code" in answer) == ("code" in (expected or {})) for answer in answers), (
            ended.stdout
        )
        assert expected is None or (shape(answers[0]), answers[0].get("code")) == (
            shape(expected),
            expected.get("code"),
        )
