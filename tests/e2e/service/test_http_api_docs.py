"""Every example of docs/http-api.md, run as it stands but for the address, and its answer beside the one in the text."""

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
    """What to run, and the answer that the page shows, if it shows one."""

    language: str
    code: str
    answer: str


EXAMPLES = [Example(*found) for found in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that the page speaks of."""
    folder = tmp_path_factory.mktemp("examples")
    digits = pictures.digits(3)
    np.save(folder / "digits.npy", digits)
    (folder / "digit.png").write_bytes(pictures.png(digits[0]))
    Image.fromarray(digits[1]).resize((300, 400)).save(folder / "photo.jpg")
    (folder / "images").mkdir()
    for number, digit in enumerate(digits):
        (folder / "images" / f"{number}.png").write_bytes(pictures.png(digit))
    (folder / "images" / "notes.png").write_text("socks")
    shutil.make_archive(str(folder / "images"), "zip", folder / "images")
    return folder


@pytest.fixture(scope="module")
def worker(service_data: Path) -> Iterator[None]:
    """Scores the jobs that the page submits."""
    with running(service_data.with_name("worker.log"), "worker", LOUPE_DATA_DIR=service_data):
        yield


def shape(value: JsonValue) -> object:
    """What stays of JSON whichever model answers and however sure it is."""
    if isinstance(value, dict):
        return {name: shape(each) for name, each in value.items() if name != "probabilities"}
    return [shape(each) for each in value] if isinstance(value, list) else isinstance(value, str)


def test_the_page_has_examples_for_all_that_it_promises() -> None:
    told = PAGE.read_text(encoding="utf-8")

    assert len(EXAMPLES) == told.count("```sh\n") + told.count("```python\n") >= 15
    assert sum(example.answer != "" for example in EXAMPLES) == told.count("```json\n")
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
def test_an_example_runs_and_is_answered_as_the_page_says(
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
        told = json.loads(example.answer) if example.answer else None
        assert all(("code" in answer) == ("code" in (told or {})) for answer in answers), (
            ended.stdout
        )
        assert told is None or (shape(answers[0]), answers[0].get("code")) == (
            shape(told),
            told.get("code"),
        )
