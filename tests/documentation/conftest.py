"""A service and a worker with the models of the examples, for all tests of commands."""

import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from loupe.models.promotion import promote
from loupe.models.store import StoredModel
from tests.documentation.places import FIRST_STEPS
from tests.documentation.world import World, answers, write_files
from tests.support.programs import free_port, running, until
from tests.support.stores import copied


@contextmanager
def using_store(home: Path) -> Iterator[None]:
    """Use another model store in this process."""
    BentoMLContainer.model_store.set(ModelStore(home / "models"))
    try:
        yield
    finally:
        BentoMLContainer.model_store.reset()


def worse(model: StoredModel) -> StoredModel:
    """Return a model whose card has a lower accuracy."""
    figures = model.card.figures
    assert figures is not None
    lower = figures.model_copy(update={"accuracy": figures.accuracy - 0.2})
    return replace(model, card=model.card.model_copy(update={"figures": lower}))


@pytest.fixture(scope="package")
def running_world(
    tmp_path_factory: pytest.TempPathFactory, digits_model: StoredModel, shapes_model: StoredModel
) -> Iterator[World]:
    """Run a service and a worker with models of digits and one of clothes.

    The command is that of the first page. The store has models, so it trains none.
    """
    folder = tmp_path_factory.mktemp("world")
    home, port, log = folder / "home", free_port(), folder / "log"
    (home / "models").mkdir(parents=True)
    write_files(folder / "work")
    with using_store(home):
        copied(digits_model, home, "digits:spare")
        promote(copied(worse(digits_model), home, "digits:old").tag)
        copied(digits_model, home, "digits:new")
        promote(copied(shapes_model, home, "fashion-mnist:first").tag)
    shutil.copytree(home, folder / "before")
    url = f"http://127.0.0.1:{port}"
    variables = {
        "BENTOML_HOME": str(home),
        "LOUPE_DATA_DIR": str(folder / "data"),
        "LOUPE_MODEL": "digits",
        "LOUPE_PORT": str(port),
    }
    with running(log, *FIRST_STEPS.split()[1:], **variables) as up:
        is_ready = answers(url)
        until(lambda: is_ready() or up.poll() is not None)
        assert up.poll() is None, log.read_text()
        yield World(folder / "work", {**variables, "LOUPE_URL": url}, url)
        up.send_signal(signal.SIGTERM)
        assert up.wait(30) == 0, log.read_text()


@pytest.fixture
def world(running_world: World, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Return the world with the models that it had in the beginning, for this process, too."""
    monkeypatch.chdir(running_world.folder)
    home = Path(running_world.variables["BENTOML_HOME"])
    shutil.copytree(home.with_name("before"), home, dirs_exist_ok=True)
    for name, value in running_world.variables.items():
        monkeypatch.setenv(name, value)
    with using_store(home):
        yield running_world
