"""Examples in other languages than the shell, and commands inside them."""

import ast
import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.documentation.world import ROOT, World
from tests.support.command_checks import check, check_loupe
from tests.support.programs import environment
from tests.support.shell_examples import code_of, command_of


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
