"""Imports go one way, and neither the service nor the worker imports TensorFlow."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.programs import environment

ROOT = Path(__file__).parents[2]


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
        pytest.param("loupe.cli", id="command line"),
    ],
)
def test_serving_and_scoring_do_not_import_tensorflow(modules: str) -> None:
    script = f"import sys, {modules}; print(sorted({{'tensorflow', 'keras', 'train', 'onnx'}} & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, cwd=ROOT
    )

    assert ended.stdout == "[]\n", ended.stderr


def test_command_line_imports_no_program_before_it_runs() -> None:
    script = "import sys, loupe.cli; print(sorted({'bentoml', 'onnxruntime', 'service', 'worker', 'redis'} & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, cwd=ROOT
    )

    assert ended.stdout == "[]\n", ended.stderr


def test_client_side_of_the_queue_is_light() -> None:
    script = "import sys, worker.queue.jobs; print(sorted({'bentoml', 'onnxruntime', 'pyarrow', 'PIL'} & set(sys.modules)))"
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, cwd=ROOT
    )

    assert ended.stdout == "[]\n", ended.stderr
