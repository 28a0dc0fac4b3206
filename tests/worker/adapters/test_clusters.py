"""`loupe score --on` in real Ray and Spark, and clusters that do not answer."""

import socket
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from loupe.models.store import StoredModel
from loupe.settings import Settings
from tests.support.command import Ended, Loupe
from tests.support.programs import environment, free_port
from tests.worker.conftest import IMAGES, SHARD
from worker.process import running_locally
from worker.queue.submission import prepare
from worker.results.outputs import read_summary

START_SECONDS = 120.0  # of Java and Spark, on a busy machine

engines = pytest.mark.engines
pytestmark = [pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore")]


@pytest.fixture
def score_on(source: Path, tmp_path: Path, digits_model: StoredModel) -> Callable[..., Ended]:
    """Return a function that runs `loupe score --on`, after a line of Python."""

    def run(engine: str, *options: object, first: str = "", **variables: object) -> Ended:
        script = f"{first}\nfrom loupe.cli.main import main\nmain()"
        command = ["score", source, "--out", tmp_path / "out", "--model", digits_model.tag]
        ended = subprocess.run(
            [sys.executable, "-c", script, *map(str, [*command, "--on", engine, *options])],
            env=environment(LOUPE_SHARD_IMAGES=SHARD, PYSPARK_PYTHON=sys.executable, **variables),
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)

    return run


@pytest.fixture
def check_result(
    settings: Settings, source: Path, tmp_path: Path, digits_model: StoredModel
) -> Callable[[Ended], None]:
    """Return a function that compares the result with that of one process."""

    def check(ended: Ended) -> None:
        assert ended.code == 0, ended.err
        assert f"{IMAGES - 1} scored, errors: 1" in ended.out
        out, alone = tmp_path / "out", tmp_path / "alone"
        request = prepare(lambda _: None, source, alone, digits_model.tag, SHARD).request
        with running_locally(settings, request):
            pass
        assert {path.name for path in out.iterdir()} == {path.name for path in alone.iterdir()}
        for part in alone.glob("predictions-*"):
            assert (out / part.name).read_bytes() == part.read_bytes()
        summary = read_summary(out)
        assert (summary["done"], summary["failed"]) == (IMAGES - 1, 1)
        assert all(worker.startswith(socket.gethostname()) for worker in summary["workers"][1:])

    return check


def check_refused(ended: Ended, out: Path, *facts: str) -> None:
    lines = [line for line in ended.err.splitlines() if line.startswith("error: ")]
    assert ended.code == 1, ended.err
    assert len(lines) == 1
    assert lines[0].startswith("error: cluster_unreachable: ")
    for fact in facts:
        assert fact in lines[0]
    assert not out.exists()


@engines
@pytest.mark.parametrize("starts", [False, True], ids=["there", "here"])
def test_ray_scores_a_job(
    ray: Any, score_on: Callable[..., Ended], check_result: Callable[[Ended], None], starts: bool
) -> None:
    address = "local" if starts else ray.get_runtime_context().gcs_address
    check_result(score_on("ray", RAY_ADDRESS=address))


@engines
def test_spark_scores_a_job(
    java: None, score_on: Callable[..., Ended], check_result: Callable[[Ended], None]
) -> None:
    pytest.importorskip("pyspark")
    check_result(score_on("spark", "--master", "local[2]"))


@engines
def test_ray_of_another_version_is_refused(
    ray: Any, score_on: Callable[..., Ended], tmp_path: Path
) -> None:
    address = ray.get_runtime_context().gcs_address
    ended = score_on("ray", first="import ray\nray.__version__ = '2.0.0'", RAY_ADDRESS=address)
    check_refused(ended, tmp_path / "out", "2.0.0", ray.__version__)


@engines
@pytest.mark.parametrize("engine", ["ray", "spark"])
@pytest.mark.parametrize("listens", [False, True], ids=["closed", "silent"])
def test_cluster_that_does_not_answer_is_given_up(
    java: None, score_on: Callable[..., Ended], tmp_path: Path, engine: str, listens: bool
) -> None:
    pytest.importorskip({"ray": "ray", "spark": "pyspark"}[engine])
    first = "from worker.adapters import clusters\nclusters.CONNECT_SECONDS = 8.0"
    with socket.create_server(("127.0.0.1", 0 if listens else free_port())) as server:
        port = server.getsockname()[1]
        if not listens:
            server.close()
        address = f"127.0.0.1:{port}"
        if engine == "ray":
            ended = score_on("ray", first=first, RAY_ADDRESS=address)
        else:
            ended = score_on("spark", "--master", f"spark://{address}", first=first)
    check_refused(ended, tmp_path / "out", address)


@pytest.mark.parametrize("engine", ["ray", "spark"])
def test_engine_that_is_not_installed_is_named_in_one_line(
    loupe: Loupe, source: Path, tmp_path: Path, digits_model: StoredModel, engine: str
) -> None:
    if find_spec({"ray": "ray", "spark": "pyspark"}[engine]):
        pytest.skip("it is installed")
    ended = loupe("score", source, "--out", tmp_path / "out", "--on", engine)
    assert ended.code == 1
    assert ended.err.startswith("error: program_failed: ")
    assert "pip install" in ended.err
    assert not (tmp_path / "out").exists()
