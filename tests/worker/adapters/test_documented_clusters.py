"""The documented commands that score on a cluster, here one of this machine."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from loupe.models.store import StoredModel
from tests.documentation.places import ENGINES, commands_at
from tests.documentation.world import shell_environment

RAY, SPARK = sorted(commands_at(ENGINES), key=lambda command: command.text)
pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(300),
    pytest.mark.filterwarnings("ignore"),  # Ray leaves sockets to the end of the process
]


@pytest.fixture
def photos(source: Path) -> Path:
    """Name the source as the documentation does; return its folder."""
    shutil.copytree(source, source.with_name("photos"))
    return source.parent


def run(text: str, folder: Path, model: StoredModel) -> None:
    """Run a command in a folder."""
    variables = {"LOUPE_DATA_DIR": folder / "data", "LOUPE_MODEL": model.tag}
    environment = shell_environment(Path.home(), **variables)  # with the token of Ray's cluster
    subprocess.run(["bash", "-euc", text], cwd=folder, env=environment, check=True)


def test_ray_scores_as_documented(ray: Any, photos: Path, digits_model: StoredModel) -> None:
    address = ray.get_runtime_context().gcs_address
    run(RAY.text.replace("head:6379", address), photos, digits_model)
    assert (photos / "results" / "_SUCCESS").exists()


@pytest.mark.usefixtures("java")
def test_spark_scores_as_documented(photos: Path, digits_model: StoredModel) -> None:
    pytest.importorskip("pyspark")
    run(SPARK.text.replace("spark://head:7077", "'local[2]'"), photos, digits_model)
    assert (photos / "results" / "_SUCCESS").exists()
