"""Imports go one way, and neither the service nor the worker imports TensorFlow."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import environment

ROOT = Path(__file__).parents[2]


def imported_of(names: set[str], by: str) -> list[str]:
    """Return those of the packages that importing some modules imports."""
    script = f"import sys, {by}; print(*sorted({names} & set(sys.modules)))"
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, env=environment(), capture_output=True, text=True, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.split()


def test_imports_keep_their_direction() -> None:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    linted = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    assert linted.returncode == 0, linted.stdout
    assert "0 broken" in linted.stdout


@pytest.mark.parametrize(
    "modules",
    [
        pytest.param(
            "service.bento, worker.scoring.consumer, worker.queue.submission", id="programs"
        ),
        pytest.param("loupe.cli.main", id="command line"),
    ],
)
def test_serving_and_scoring_do_not_import_tensorflow(modules: str) -> None:
    assert imported_of({"tensorflow", "keras", "train", "onnx"}, by=modules) == []


def test_command_line_imports_no_program_before_it_runs() -> None:
    heavy = {"bentoml", "onnxruntime", "service", "worker", "redis"}
    assert imported_of(heavy, by="loupe.cli.main") == []


def test_client_side_of_the_queue_is_light() -> None:
    heavy = {"bentoml", "onnxruntime", "pyarrow", "PIL"}
    assert imported_of(heavy, by="worker.queue.jobs") == []


def test_package_imports_neither_client_nor_models() -> None:
    heavy = {"bentoml", "onnxruntime", "httpx", "numpy", "PIL"}
    assert imported_of(heavy, by="loupe") == []


def test_predicting_with_a_service_loads_no_model() -> None:
    assert imported_of({"bentoml", "onnxruntime"}, by="loupe.client.client, loupe.client.cli") == []
