"""The documented commands of a checkout, in a fresh clone: install it, test it, build from it."""

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import yaml

from loupe.models.store import StoredModel
from tests.documentation.conftest import using_store
from tests.documentation.places import CHECKOUT, commands_at
from tests.documentation.test_servers import BENTO, started
from tests.documentation.world import ROOT, answers, shell_environment
from tests.support.programs import free_port
from tests.support.stores import copied

CLONE = "git clone URL-OF-THIS-REPOSITORY loupe && cd loupe"
UP = "make up"
BUILD_BENTO = "make bento"
SERVING_ONLY = "make install-serve"  # replaces the environment, so it comes last
# The steps of the installation: the fixture `clone` runs them.
INSTALLATION = [CLONE, "make install", "source .venv/bin/activate"]
OTHERS = dict.fromkeys(
    command.text for command in commands_at(CHECKOUT) if "git clone" not in command.text
)
ONE_FILE = "tests/loupe/test_text.py"  # instead of all tests
pytestmark = [pytest.mark.docs, pytest.mark.timeout(1200)]


def bash(script: str, folder: Path, **variables: object) -> str:
    """Run commands in a folder, with another home, and return their output."""
    environment = shell_environment(folder, **variables)
    environment["PATH"] = os.environ["PATH"].replace(f"{Path(sys.executable).parent}:", "")
    environment.pop("VIRTUAL_ENV", None)
    environment.pop("PYTHONPATH", None)
    ended = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ended.returncode == 0, f"{script}\n{ended.stdout[-5000:]}\n{ended.stderr[-5000:]}"
    return ended.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install a clone as documented; return its folder."""
    folder = tmp_path_factory.mktemp("clone")
    assert {*INSTALLATION} <= {command.text for command in commands_at(CHECKOUT)}
    script = "\n".join([*INSTALLATION, "loupe"])
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser()
    output = bash(script.replace("URL-OF-THIS-REPOSITORY", str(ROOT)), folder, XDG_CACHE_HOME=cache)
    assert "loupe up" in output
    return folder / "loupe"


@pytest.mark.parametrize(
    "text", [each for each in OTHERS if each not in (*INSTALLATION, UP, BUILD_BENTO, SERVING_ONLY)]
)
def test_command_runs(clone: Path, tmp_path: Path, text: str) -> None:
    before = "source .venv/bin/activate"
    if text.startswith("pip"):
        venv.create(tmp_path / "other", with_pip=True)
        before = f"source {tmp_path}/other/bin/activate"

    bash(f"{before}\n{text}", clone, PYTEST_ADDOPTS=ONE_FILE)


def test_up_runs(clone: Path, tmp_path: Path, digits_model: StoredModel) -> None:
    port = free_port()
    variables = {
        "LOUPE_DATA_DIR": str(tmp_path / "data"),
        "LOUPE_PORT": str(port),
        "PYTHONPATH": "",
    }

    with started(UP, tmp_path, variables, answers(f"http://127.0.0.1:{port}"), clone):
        pass


def test_bento_is_built_and_served(clone: Path, tmp_path: Path, digits_model: StoredModel) -> None:
    home = tmp_path / "home"
    (home / "models").mkdir(parents=True)
    with using_store(home):
        model = copied(digits_model, home, "fashion-mnist:first")
    about = yaml.safe_load((model.folder / "model.yaml").read_text())
    about |= {"name": "fashion-mnist", "version": "first"}
    (model.folder / "model.yaml").write_text(yaml.safe_dump(about))
    bash(BUILD_BENTO, clone, BENTOML_HOME=home)
    port = str(free_port())
    variables = {"BENTOML_HOME": str(home), "BENTOML_PORT": port, "BENTOML_HOST": "127.0.0.1"}
    variables |= {
        "LOUPE_DATA_DIR": str(tmp_path / "data"),
        "PROMETHEUS_MULTIPROC_DIR": str(tmp_path / "metrics"),
    }

    with started(BENTO, tmp_path, variables, answers(f"http://127.0.0.1:{port}")):
        pass


def test_serving_installation_replaces_the_other(clone: Path) -> None:
    help_text = bash(f"{SERVING_ONLY}\nsource .venv/bin/activate\nloupe --help", clone)
    assert "serve" in help_text
