"""`loupe train --resume`: the images, the options and the files of the run, and its lock."""

import os
import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.main import get_group

from loupe.errors import ProgramFailed
from loupe.files import lock
from loupe.models.store import find_model, list_models
from tests.support.command import Ended, Loupe
from tests.support.pictures import digits, png, sort_into_folders
from tests.support.programs import running, until
from train.cli import RESUMED, app
from train.config import recipe
from train.data.source import DataSource
from train.runs import Run, train_run

COUNTS = {"cat": 20, "dog": 20}
EPOCH = re.compile(r"^epoch +(\d+)/5000", re.MULTILINE)
OPTIONS = ("--look", "ink", "--architecture", "softmax", "--epochs", "2")

pytestmark = pytest.mark.timeout(120)  # TensorFlow is imported


def picture(path: Path, seed: int = 99) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(digits(1, seed)[0]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a home with a run that is trained, but below its minimum accuracy."""
    home = tmp_path_factory.mktemp("trained") / "home"
    source = DataSource(
        dataset=f"folder:{sort_into_folders(home / 'pets', COUNTS)}",
        look="ink",
        extra=str(sort_into_folders(home / "mine", COUNTS, seed=5)),
    )
    images = source.load()
    with (
        Run.start(
            home / "data", source, images, recipe("softmax", epochs=2), min_accuracy=1.0
        ) as run,
        pytest.raises(ProgramFailed),
    ):
        train_run(run, images, Console(quiet=True))
    shutil.copytree(home, home.with_name("copy"))
    return home


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: Path) -> Path:
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


@pytest.fixture
def run(home: Path, trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of that run, as it was after the training."""
    shutil.rmtree(trained)
    shutil.copytree(trained.with_name("copy"), trained)
    monkeypatch.setenv("LOUPE_DATA_DIR", str(trained / "data"))
    (folder,) = (trained / "data" / "runs").glob("folder-pets-softmax-*")
    return folder


def assert_refused(ended: Ended, code: str, exit_code: int = 1) -> None:
    """Assert that a command printed one line and saved nothing."""
    assert ended.code == exit_code
    assert ended.err.startswith(f"error: {code}: ")
    assert "Traceback" not in ended.err
    assert list_models() == []


def test_a_run_below_its_minimum_accuracy_is_saved_with_a_lower_minimum(
    home: Path, loupe: Loupe
) -> None:
    ended = loupe("train", "--dataset", "digits", "--min-accuracy", "1", *OPTIONS[2:])
    assert_refused(ended, "accuracy_too_low")
    (run,) = (home / "data" / "runs").glob("digits-*")
    assert f"--resume {run.name} --min-accuracy" in ended.err
    saved = loupe("train", "--resume", run.name, "--min-accuracy", "0")

    assert saved.code == 0, saved.err
    assert not re.search(r"^epoch +\d", saved.out, re.MULTILINE)  # nothing is trained again
    assert len(list_models()) == 1
    assert {path.name for path in run.iterdir()} == {"tensorboard"}
    assert "run_not_found" in loupe("train", "--resume", run.name).err


def swap_first_pictures(home: Path) -> None:
    cat, dog = home / "pets/cat/0.png", home / "pets/dog/0.png"
    cat_bytes = cat.read_bytes()
    cat.write_bytes(dog.read_bytes())
    dog.write_bytes(cat_bytes)


def give_test_folder(home: Path) -> None:
    (home / "pets" / "train").mkdir()
    for name in COUNTS:
        (home / "pets" / name).rename(home / "pets" / "train" / name)
        picture(home / "pets" / "test" / name / "0.png")


def rename_class(home: Path) -> None:
    for folder in ("pets", "mine"):
        (home / folder / "cat").rename(home / folder / "bird")


CHANGES: dict[str, Callable[[Path], None]] = {
    "added": lambda home: picture(home / "pets/cat/zzz.png"),
    "removed": lambda home: (home / "pets/dog/3.png").unlink(),
    "changed": lambda home: picture(home / "pets/dog/3.png"),
    "swapped": swap_first_pictures,
    "extra": lambda home: picture(home / "mine/cat/zzz.png"),
    "class": rename_class,
    "split": give_test_folder,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_run_is_not_resumed_over_other_images(
    run: Path, trained: Path, loupe: Loupe, change: str
) -> None:
    request = (run / "request.json").read_bytes()
    CHANGES[change](trained)
    ended = loupe("train", "--resume", run.name, "--min-accuracy", "0", "--epochs", "3")

    assert_refused(ended, "source_changed")
    assert (run / "request.json").read_bytes() == request


def test_a_relative_path_means_the_same_in_another_working_directory(
    home: Path, loupe: Loupe, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, elsewhere = home / "here", home / "elsewhere"
    for folder, seed in ((here, 0), (elsewhere, 7)):
        sort_into_folders(folder / "pets", COUNTS, seed)
        sort_into_folders(folder / "mine", COUNTS, seed + 2)
    monkeypatch.chdir(here)
    options = ("--extra", "mine", "--min-accuracy", "1", *OPTIONS)
    assert_refused(loupe("train", "--dataset", "folder:pets", *options), "accuracy_too_low")
    (run,) = (home / "data" / "runs").glob("folder-pets-softmax-*")
    monkeypatch.chdir(elsewhere)
    saved = loupe("train", "--resume", run.name, "--min-accuracy", "0")

    assert saved.code == 0, saved.err
    test = DataSource(dataset=f"folder:{here / 'pets'}", look="ink").load().test
    assert list_models()[0].card.measured.test_digest == test.digest()


def test_model_has_the_name_of_the_start_after_a_link_has_replaced_the_folder(
    home: Path, loupe: Loupe
) -> None:
    pets = sort_into_folders(home / "pets", COUNTS)
    options = ("--min-accuracy", "1", *OPTIONS)
    assert_refused(loupe("train", "--dataset", f"folder:{pets}", *options), "accuracy_too_low")
    (run,) = (home / "data" / "runs").glob("folder-pets-softmax-*")
    pets.rename(home / "moved")
    pets.symlink_to(home / "moved")
    saved = loupe("train", "--resume", run.name, "--min-accuracy", "0")

    assert saved.code == 0, saved.err
    assert [model.tag.partition(":")[0] for model in list_models()] == ["pets"]


def test_epochs_beside_resume_continue_the_training(run: Path, loupe: Loupe) -> None:
    saved = loupe("train", "--resume", run.name, "--min-accuracy", "0", "--epochs", "4")

    tag = re.search(r"saved (\S+:\w+)", saved.out)
    assert tag, saved.err
    config = find_model(tag[1]).card.config
    assert config["epochs"] == 4
    assert "epoch 4/4" in saved.out
    assert "epoch 2/4" not in saved.out


def test_fewer_epochs_than_are_done_are_refused(run: Path, loupe: Loupe) -> None:
    ended = loupe("train", "--resume", run.name, "--min-accuracy", "0", "--epochs", "1")

    assert_refused(ended, "invalid_training", exit_code=2)


VALUES = {
    "architecture": "mlp",
    "batch_size": "7",
    "data_dir": "/data",
    "dataset": "digits",
    "extra": "folder:mine",
    "extra_classes": "classes.csv",
    "hidden": "7",
    "initializer": "zeros",
    "look": "object",
    "fit": "pad",
    "optimizer": "sgd",
    "relabel": "check.csv",
    "schedule": "cosine",
}


@pytest.mark.parametrize(
    "option",
    sorted(
        str(parameter.name)
        for parameter in get_group(app).params
        if parameter.name not in (*RESUMED, "help")
    ),
)
def test_every_other_option_beside_resume_is_refused(run: Path, loupe: Loupe, option: str) -> None:
    parameter = next(each for each in get_group(app).params if each.name == option)
    is_flag = getattr(parameter, "is_flag", False)
    value = () if is_flag else (VALUES.get(option, "0.5" if "fraction" in option else "1"),)
    ended = loupe("train", "--resume", run.name, parameter.opts[0], *value)

    assert_refused(ended, "invalid_training", exit_code=2)
    assert parameter.opts[0] in ended.err


def test_options_before_a_subcommand_are_refused(loupe: Loupe) -> None:
    ended = loupe("train", "--epochs", "3", "classics", "--quick")

    assert ended.code == 2
    assert "invalid_training" in ended.err


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"[]", b"null", b"\xff\xfe", b'{"source": 1}', b'{"config": {}}', None]
)
@pytest.mark.parametrize("name", ["request.json", "checkpoints/state.json"])
def test_a_damaged_file_of_a_run_is_one_clear_line(
    run: Path, loupe: Loupe, name: str, content: bytes | None
) -> None:
    file = run / name
    file.unlink()
    if content is None:
        file.mkdir()
    else:
        file.write_bytes(content)
    if (name, content) == ("checkpoints/state.json", b"{}"):
        pytest.skip("the state of a training before its first epoch")

    assert_refused(loupe("train", "--resume", run.name, "--min-accuracy", "0"), "run_damaged")


@pytest.mark.parametrize("content", [b"", b"no weights", None, "half"])
def test_damaged_weights_are_one_clear_line(
    run: Path, loupe: Loupe, content: bytes | str | None
) -> None:
    for file in (run / "checkpoints").glob("*.h5"):
        whole = file.read_bytes()
        file.unlink()
        if content is not None:
            file.write_bytes(whole[: len(whole) // 2] if isinstance(content, str) else content)

    assert_refused(loupe("train", "--resume", run.name, "--min-accuracy", "0"), "run_damaged")


def test_weights_of_another_data_set_are_one_clear_line(run: Path, loupe: Loupe) -> None:
    loupe("train", "--dataset", "digits", "--min-accuracy", "1", *OPTIONS[2:])
    (other,) = run.parent.glob("digits-softmax-*")
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")

    assert_refused(loupe("train", "--resume", run.name, "--min-accuracy", "0"), "run_damaged")


def test_a_run_has_one_process_at_a_time(run: Path, loupe: Loupe) -> None:
    with lock(run / "lock"):
        ended = loupe("train", "--resume", run.name, "--min-accuracy", "0")

    assert_refused(ended, "run_in_use")
    assert loupe("train", "--resume", run.name, "--min-accuracy", "0").code == 0


def test_a_running_training_is_locked_until_it_is_killed(home: Path, loupe: Loupe) -> None:
    log, data = home / "log", sort_into_folders(home / "pets", COUNTS)
    options = ("--look", "ink", "--architecture", "softmax", "--epochs", "5000", "--patience", "0")
    with running(
        log, "train", "--dataset", f"folder:{data}", *options, LOUPE_DATA_DIR=home / "data"
    ) as training:
        until(lambda: EPOCH.search(log.read_text()))
        (run,) = (home / "data" / "runs").glob("folder-pets-*/")
        assert_refused(loupe("train", "--resume", run.name), "run_in_use")
        os.kill(training.pid, signal.SIGKILL)
        training.wait()
    epochs = int(EPOCH.findall(log.read_text())[-1]) + 100
    saved = loupe("train", "--resume", run.name, "--epochs", epochs, "--min-accuracy", "0")

    assert saved.code == 0, saved.err
