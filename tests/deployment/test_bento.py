"""The Bento that `bentoml build` makes of the checkout: its contents, and that it answers."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import yaml

from loupe.models.store import StoredModel
from tests.deployment.engines import engine
from tests.support.programs import free_port, until
from tests.support.stores import copied

ROOT = Path(__file__).parents[2]
VERSION = "v1"


@pytest.fixture(scope="module")
def home(digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a temporary BentoML home with a small model, under the name in bentofile.yaml."""
    home = tmp_path_factory.mktemp("bentoml")
    folder = home / "models" / "fashion-mnist" / VERSION
    shutil.copytree(digits_model.folder, folder)
    about = yaml.safe_load((folder / "model.yaml").read_text())
    (folder / "model.yaml").write_text(
        yaml.safe_dump({**about, "name": "fashion-mnist", "version": VERSION})
    )
    (folder.parent / "latest").write_text(VERSION)
    return home


@pytest.fixture(scope="module")
def bento(home: Path) -> Path:
    """Build a Bento from the checkout and return its folder."""
    command = [sys.executable, "-m", "bentoml", "build", "--output", "tag", str(ROOT)]
    built = subprocess.run(command, env=_environment(home), capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    tag = re.search(r"loupe:(\w+)", built.stdout)
    assert tag is not None, built.stdout
    return home / "bentos" / "loupe" / tag[1]


@pytest.fixture(scope="module")
def url(
    home: Path, bento: Path, digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """Serve the Bento from a folder without access to the checkout.

    The store has a newer version of its model by now, and a model of another name.
    """
    copied(digits_model, home, "fashion-mnist:v2")
    copied(digits_model, home)
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        str(bento),
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    log = tmp_path_factory.mktemp("elsewhere") / "log"
    with log.open("wb") as words:
        process = subprocess.Popen(
            command, env=_environment(home), cwd=log.parent, stdout=words, stderr=words
        )
    try:
        until(lambda: process.poll() is not None or _ready(port))
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def test_bento_holds_the_service_and_names_its_model(bento: Path) -> None:
    about = yaml.safe_load((bento / "bento.yaml").read_text())
    folders = {path.name for path in (bento / "src").iterdir() if path.is_dir()}

    assert about["service"] == "service.bento:Loupe"
    assert [model["tag"] for model in about["models"]] == [f"fashion-mnist:{VERSION}"]
    assert {"name": "BENTOML_DO_NOT_TRACK", "value": "True", "stage": "all"} in about["envs"]
    assert {"loupe", "service"} <= folders
    assert not {"train", "tests", "bench"} & folders


def test_bento_serves_only_the_version_it_names(url: str) -> None:
    served = httpx.get(f"{url}/models").json()

    assert [model["model"] for model in served["models"]] == [f"fashion-mnist:{VERSION}"]
    answer = httpx.post(f"{url}/predict", json={"pixels": [[0] * 28] * 28}).json()
    assert answer["model"] == f"fashion-mnist:{VERSION}"


def test_bento_is_small_without_its_model(bento: Path) -> None:
    assert sum(path.stat().st_size for path in bento.rglob("*") if path.is_file()) < 30e6


def test_empty_store_says_what_to_do(tmp_path: Path) -> None:
    command = ["make", "--old-file", ".venv/.installed", "bento"]
    ended = subprocess.run(
        command, cwd=ROOT, env=_environment(tmp_path), capture_output=True, text=True
    )

    assert ended.returncode != 0
    assert "loupe train" in ended.stderr
    assert not (tmp_path / "bentos" / "loupe").exists()


def test_bento_packages_are_locked_and_exclude_tensorflow(bento: Path) -> None:
    locked = (bento / "env" / "python" / "requirements.txt").read_text()

    assert re.search(r"^onnxruntime==\S+", locked, re.MULTILINE)
    assert "--hash=sha256:" in locked
    assert not re.search(r"^(tensorflow|keras)\b", locked, re.MULTILINE)


def test_bento_code_needs_nothing_of_the_checkout(bento: Path) -> None:
    code = (
        "import sys; sys.path.insert(0, '.'); import service.bento\n"
        "for name, module in list(sys.modules.items()):\n"
        "    if name.partition('.')[0] in ('loupe', 'service', 'worker', 'train'):\n"
        "        print(module.__file__)"
    )
    command = [sys.executable, "-c", code]
    imported = subprocess.run(
        command, cwd=bento / "src", capture_output=True, text=True, check=True
    ).stdout.split()

    assert imported
    assert all(Path(path).resolve().is_relative_to(bento.resolve()) for path in imported)


def test_bento_answers(url: str) -> None:
    pixels = [[0] * 28 for _ in range(28)]
    answer = httpx.post(f"{url}/predict", json={"pixels": pixels})

    assert answer.status_code == 200
    assert answer.json()["model"] == f"fashion-mnist:{VERSION}"


@pytest.mark.containers
@pytest.mark.timeout(300)
def test_bento_image_answers_and_stops_on_sigterm(home: Path, bento: Path, tmp_path: Path) -> None:
    image = f"loupe-bento:{bento.name}"
    with engine(tmp_path, "loupe-bento") as containers:
        with containers.building():
            command = [
                sys.executable,
                "-m",
                "bentoml",
                "containerize",
                f"loupe:{bento.name}",
                "--image-tag",
                image,
            ]
            options = ["--opt", "network=host"] if containers.substitute else []
            variables = {**_environment(home), **containers.environment}
            made = subprocess.run(
                [*command, *options], env=variables, capture_output=True, text=True
            )
            assert made.returncode == 0, made.stderr[-5000:]
        containers.bash("docker network create loupe-bento")  # an engine may start without one
        run = f"docker run --detach --network loupe-bento --publish 127.0.0.1:3000:3000 {image}"
        container = containers.bash(run).strip()
        try:
            until(lambda: containers.try_bash("curl -sSf localhost:3000/readyz").returncode == 0)
            body = json.dumps({"pixels": [[0] * 28 for _ in range(28)]})
            predict = (
                f"curl -sSf -H 'Content-Type: application/json' -d '{body}' localhost:3000/predict"
            )
            assert json.loads(containers.bash(predict))["model"] == f"fashion-mnist:{VERSION}"

            containers.bash(f"docker stop --time 30 {container}")
            assert (
                containers.bash(
                    f"docker inspect --format '{{{{.State.ExitCode}}}}' {container}"
                ).strip()
                == "0"
            )
        finally:
            containers.try_bash(
                f"docker rm --force {container}; docker image rm {image}; "
                "docker network rm loupe-bento"
            )


def _environment(home: Path) -> dict[str, str]:
    return {**os.environ, "BENTOML_HOME": str(home), "BENTOML_DO_NOT_TRACK": "True"}


def _ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False
