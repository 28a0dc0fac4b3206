"""The commands of README and documentation: all are checked, and run where they can be."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore
from typer.exceptions import TyperException

from loupe.errors import InvalidSetting
from loupe.models.promotion import promote
from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.command import Ended, Loupe
from tests.support.command_checks import check, check_loupe
from tests.support.programs import environment, running, serving
from tests.support.shell_examples import (
    Command,
    code_of,
    command_of,
    commands,
    inline_commands,
)
from tests.support.stores import copied

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
# Commands that other tests run: test_http_api_docs.py and tests/deployment.
RUN_ELSEWHERE = {"http-api.md": "^curl", "backup.md": "."}
# Commands that are only checked: patterns, and why.
NOT_RUN = {
    r"^(docker|kubectl|helm|sudo)\b": "needs containers, or another system",
    r"^(git|make|pip|source|export|cd|find)\b": "changes more than the folder of the test",
    r"^(bentoml|perf_analyzer|python -m bench)\b": "takes minutes, or is not installed",
    r"loupe (up|serve|worker|doctor)|completion": "runs until it is stopped, or is of the machine",
    r"loupe train (?!digits --architecture cnn-small)": "takes minutes, or downloads",
    r"loupe models (import|delete)": "needs the model of another program, or asks",
    r"s3://|/data/": "needs a bucket, or a container",
    r"--on (ray|spark)": "needs a cluster",
    r"KEY": "is in test_keys",
}
# Parts of commands that stand for something else, and what that is in the tests.
PLACEHOLDERS = {
    "TAG": "digits:latest",
    "OTHER_TAG": "digits:production",
    "NAME": "digits",
    "OUT": "results",
    "DIR": "results",
    "SOURCE": "photos",
    "I/N": "0/1",
    "PHOTOS": "photos",
    "boots": "digits",
    "digits:cmo3bfxfl63loax4": "digits:old",
    "digits:fhcy7uhfl6fhoax4": "digits:new",
    "digits:g4dmgjxfl66q2ax4": "digits:old",
    "digits:hxuq7rjm6ownqax4": "digits:new",
    "digits:g2ysd6bm6ownqax4": "digits:old",
    "digits:gypnbnbm6ownqax4": "fashion-mnist:first",
}
# Commands that need a new folder; further slices add to one.
NEW_RESULT = r"^loupe score (?!.*(--slice [1-9]|--finish)).*--out|^loupe models export"
# Commands that end with an error, and its code.
REFUSED = {
    "loupe predict --model fashion-mnist": "Not a PNG",
    "loupe jobs cancel": "job_ended",
    "loupe jobs retry": "job_",
    "loupe score --resume": "nothing_to_resume",  # the job before is done
    "loupe models promote digits:g4": "not_better",
}


@dataclass(frozen=True)
class World:
    """A folder with the files of the examples, a store with models, a service and a worker."""

    folder: Path
    variables: dict[str, str]


@pytest.fixture(scope="module")
def world(
    tmp_path_factory: pytest.TempPathFactory, digits_model: StoredModel, shapes_model: StoredModel
) -> Iterator[World]:
    """Run a service and a worker with two models of digits and one of clothes."""
    folder = tmp_path_factory.mktemp("world")
    home = folder / "home"
    (home / "models").mkdir(parents=True)
    _write_files(folder / "work")
    BentoMLContainer.model_store.set(ModelStore(home / "models"))
    try:
        figures = digits_model.card.figures
        assert figures is not None
        worse = figures.model_copy(update={"accuracy": figures.accuracy - 0.2})
        card = digits_model.card.model_copy(update={"figures": worse})
        promote(copied(replace(digits_model, card=card), home, "digits:old").tag)
        copied(digits_model, home, "digits:new")
        promote(copied(shapes_model, home, "fashion-mnist:first").tag)
        shutil.copytree(home, folder / "before")
        variables = {
            "BENTOML_HOME": str(home),
            "LOUPE_DATA_DIR": str(folder / "data"),
            "LOUPE_MODEL": "digits",
        }
        with (
            serving(folder / "service.log", **variables) as service,
            running(folder / "worker.log", "worker", **variables),
        ):
            yield World(folder / "work", {**variables, "LOUPE_URL": service.url})
    finally:
        BentoMLContainer.model_store.reset()


def _write_files(folder: Path) -> None:
    shutil.copytree(ROOT / "examples", folder / "examples")
    shapes = pictures.shapes()
    for number, (image, label) in enumerate(
        zip(shapes.train.images, shapes.train.labels, strict=True)
    ):
        path = folder / "photos" / shapes.class_names[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures.png(image))
    for name in ("test", "incoming"):
        shutil.copytree(folder / "photos", folder / name)
    shutil.make_archive(str(folder / "photos"), "zip", folder / "photos")
    table = {"image": [pictures.png(image) for image in shapes.test.images[:9]]}
    columns = {"label": [0] * 9, "camera": ["a"] * 9, "taken_at": ["today"] * 9}
    pyarrow.parquet.write_table(pa.table(table | columns), folder / "test.parquet")


def runnable(page: Path) -> list[Command]:
    """Return the commands of a page that can run here."""
    patterns = [*NOT_RUN, RUN_ELSEWHERE.get(page.name, "^$")]
    return [
        command
        for command in commands(page)
        if not command.synopsis and not any(re.search(each, command.text) for each in patterns)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_there_is(page: Path) -> None:
    for command in commands(page):
        if "modles" not in command.text:  # an example of an error
            check(command)
    for words in inline_commands(page):
        check_loupe(words, synopsis=True)


@pytest.mark.timeout(400)  # some train
@pytest.mark.parametrize(
    "page", [page for page in PAGES if runnable(page)], ids=lambda page: page.name
)
def test_commands_run(
    world: World, page: Path, loupe: Loupe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(world.folder)
    home = Path(world.variables["BENTOML_HOME"])
    shutil.copytree(home.with_name("before"), home, dirs_exist_ok=True)
    for name, value in world.variables.items():
        monkeypatch.setenv(name, value)
    for command in runnable(page):
        if re.search(NEW_RESULT, command.text):
            for result in world.folder.glob("results*"):
                shutil.rmtree(result) if result.is_dir() else result.unlink()
        ended = _run(_filled_in(command.text, loupe), world, loupe)
        code = next((code for start, code in REFUSED.items() if command.text.startswith(start)), "")
        assert (ended.code == 0) == (not code), f"{command.text}: {ended}"
        assert code in ended.out + ended.err, f"{command.text}: {ended}"


def _filled_in(text: str, loupe: Loupe) -> str:
    """Return a command with the names of the tests instead of placeholders."""
    for placeholder, value in PLACEHOLDERS.items():
        text = re.sub(rf"(?<![\w/]){placeholder}(?!\w)", value, text)
    if re.search(r"\bID\b", text):
        newest = json.loads(loupe("jobs", "list", "--json").out)[0]
        text = re.sub(r"\bID\b", newest["id"], text)
    return text


def _run(text: str, world: World, loupe: Loupe) -> Ended:
    """Run a command of Loupe in this process, which saves a second, or any other in a shell."""
    if text.startswith("loupe ") and not re.search(r"[|;&$*<>]", text):
        return loupe(*shlex.split(text, comments=True)[1:])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    script = text.replace("localhost:3000", world.variables["LOUPE_URL"].removeprefix("http://"))
    ended = subprocess.run(
        ["bash", "-euc", script.replace("curl ", "curl --silent --show-error --fail-with-body ")],
        env=environment(**world.variables, PATH=path),
        capture_output=True,
        text=True,
    )
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.mark.skipif(shutil.which("node") is None, reason="Node is not installed")
@pytest.mark.parametrize("code", code_of(ROOT / "docs" / "javascript.md", "js"))
def test_javascript_runs(world: World, code: str) -> None:
    command = ["node", "--input-type=module", "--eval", code]
    ended = subprocess.run(
        command,
        cwd=world.folder,
        env=environment(**world.variables),
        capture_output=True,
        text=True,
    )

    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.strip()


def test_notebook_runs(
    world: World, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT / "docs")
    notebook = json.loads(Path("tutorial.ipynb").read_text(encoding="utf-8"))
    names: dict[str, object] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []
            exec("".join(cell["source"]), names)  # noqa: S102

    assert "test images are right" in capsys.readouterr().out


def test_slices_of_the_examples_name_what_there_is() -> None:
    page = ROOT / "docs" / "slices.md"
    job = yaml.safe_load(code_of(page, "yaml")[0])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    index = container["args"][-1].replace("$(JOB_COMPLETION_INDEX)", "7")
    assert index == f"--slice={job['spec']['completions'] - 1}/{job['spec']['completions']}"
    check_loupe([*container["args"][:-1], index])
    code = code_of(page, "python")[0].replace("{{ ds }}", "today")
    values = {node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)}
    (command,) = (text for text in map(str, values) if text.startswith("loupe"))
    check(command_of(f"{command} --finish"))
    scripts = "".join(code_of(page, "bash")).replace('"$SLURM_ARRAY_TASK_ID/64"', "63/64")
    for found in re.findall(r"loupe (score [^\"\n]*)", scripts):
        check_loupe(shlex.split(found))


def test_airflow_example_names_what_there_is() -> None:
    (code,) = code_of(ROOT / "docs" / "schedule.md", "python")
    (command,) = (
        ast.literal_eval(node.value)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.keyword) and node.arg == "bash_command"
    )

    check(command_of(command))


@pytest.mark.parametrize(
    "text",
    [
        "loupe scoer photos/ --out results/",
        "loupe score photos/ --outt results/",
        "loupe score photos/ --format xlsx",
        "loupe serve --port many",
        "LOUPE_PROT=8080 loupe serve",
        "LOUPE_PORT=many loupe serve",
        "docker compose run --rm worker score /data --out=/x --formt csv",
        "make demoo",
        "curl localhost:3000/predicted",
        "curl 'localhost:3000/predict?modle=digits'",
        "pip install -e '.[workers]'",
    ],
)
def test_wrong_commands_are_found(text: str) -> None:
    with pytest.raises((AssertionError, TyperException, ValueError, InvalidSetting)):
        check(command_of(text))
