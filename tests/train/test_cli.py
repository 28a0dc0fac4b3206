"""`loupe train`: options, wrong usage, and Ctrl-C."""

import re
import signal
from pathlib import Path

import psutil
import pytest

from loupe.models.store import StoredModel, find_model, list_models
from tests.support import pictures
from tests.support.command import Loupe
from tests.support.programs import running, until
from tests.support.stores import copied
from train.familiarity.outliers import SHARE


@pytest.mark.parametrize(
    ("options", "code", "facts"),
    [
        ([], "invalid_training", ["loupe train fashion-mnist", "--resume"]),
        (["mnits"], "unknown_dataset", ["Did you mean mnist?"]),
        (["pictures.zip"], "unknown_dataset", ["Unpack"]),
        (["--dataset", "mnits"], "unknown_dataset", ["'mnits'", "mnist"]),
        (["--dataset", "digits", "--architecture", "cn"], "invalid_training", ["'cn'", "cnn"]),
        (["--dataset", "digits", "--hidden", "64"], "invalid_training", ["hidden", "cnn"]),
        (["--dataset", "digits", "--hidden", "64;32"], "invalid_training", ["'64;32'"]),
        (["--dataset", "digits", "--batch-size", "0"], "invalid_training", ["'full'", "'0'"]),
        (["--dataset", "digits", "--lr", "nan"], "invalid_training", ["learning rate", "nan"]),
        (["--dataset", "digits-8x8", "--epochs", "1"], "invalid_training", ["16", "not 8"]),
        (["--dataset", "digits", "--seed", "-1"], "invalid_training", ["seed", "-1"]),
        (["--dataset", "digits", "--epochs", "1" * 20], "invalid_training", ["epochs", "1" * 20]),
        (["--dataset", "digits", "--bias", "1e300"], "invalid_training", ["bias", "1e+300"]),
        (["--resume", "yesterday"], "run_not_found", ["'yesterday'"]),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_wrong_usage_prints_one_line_and_exits_with_2(
    loupe: Loupe,
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    code: str,
    facts: list[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path))
    ended = loupe("train", *options)

    assert ended.code == 2
    assert f"error: {code}: " in ended.err
    assert all(fact in ended.err for fact in facts)
    assert "Traceback" not in ended.err
    assert not list(tmp_path.glob("runs/*"))


def test_help_lists_every_hyperparameter_once(
    loupe: Loupe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = loupe("train", "--help").out

    options = re.findall(r"^│[ *]+(--[a-z-]+)", shown, re.MULTILINE)
    assert len(options) == len(set(options))
    assert {"--hidden", "--learning-rate", "--validation", "--augmentation"} <= set(options)
    assert "--lr" in shown
    assert "constant, cosine, one-cycle" in shown


def test_if_empty_does_nothing_if_the_store_has_a_model(
    loupe: Loupe, store: Path, digits_model: StoredModel
) -> None:
    there = copied(digits_model, store)
    told = loupe("train", "--if-empty", "--dataset", "digits")

    assert (told.code, told.out) == (0, f"The store has {there.tag}: nothing to train.\n")
    assert [model.tag for model in list_models()] == [there.tag]


@pytest.mark.timeout(120)  # TensorFlow is imported
def test_if_empty_trains_a_model_for_an_empty_store(
    loupe: Loupe, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path))
    options = (
        "--dataset",
        "digits",
        "--architecture",
        "softmax",
        "--epochs",
        "2",
        "--min-accuracy",
        "0",
    )
    told = loupe("train", "--if-empty", *options)

    assert told.code == 0, told.err
    assert "\ntest accuracy 0." in told.out
    assert "INFO" not in told.err
    assert [model.name for model in list_models()] == ["digits"]


@pytest.mark.timeout(240)  # TensorFlow is imported
def test_quick_model_is_saved_and_a_better_one_promoted_once(
    loupe: Loupe, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path))
    mlp = ("--architecture", "mlp", "--epochs", "2")
    quick = loupe("train", "digits", "--quick", *mlp, "--min-accuracy", "1")

    assert quick.code == 0, quick.err
    (first,) = list_models()
    assert (first.card.config["architecture"], first.card.config["epochs"]) == ("cnn-small", 6)
    assert first.card.config["outliers"] == SHARE  # as the default of the data set
    for fact in ("verdict", "loupe up", str(first.folder / "report.html"), " ± "):
        assert fact in quick.out

    worse = loupe("train", "digits", *mlp, "--promote", "--min-accuracy", "0")
    assert worse.code == 0
    assert "is not better than" in worse.err
    assert f"loupe models compare {first.tag} {list_models()[0].tag}" in " ".join(worse.out.split())
    again = loupe("train", "digits", *mlp, "--if-missing")
    assert (again.code, len(list_models())) == (0, 2)
    assert "nothing to train" in again.out


@pytest.mark.timeout(120)  # TensorFlow is imported
def test_ctrl_c_keeps_the_best_epoch_and_prints_how_to_continue(
    loupe: Loupe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: Path
) -> None:
    log = tmp_path / "log"
    options = (
        "--dataset",
        "digits",
        "--architecture",
        "mlp",
        "--patience",
        "0",
        "--epochs",
        "5000",
        "--schedule",
        "constant",
    )
    with running(log, "train", *options, LOUPE_DATA_DIR=tmp_path) as training:
        until(lambda: "epoch    2/5000" in log.read_text())
        training.send_signal(signal.SIGINT)
        assert until(training.poll) == 130
    told = re.search(
        r"Or save the best so far: loupe train (--resume \S+) (--epochs \d+)", log.read_text()
    )
    assert told, log.read_text()

    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path))
    saved = loupe("train", *told[1].split(), *told[2].split())

    tag = re.search(r"saved (digits:\w+)", saved.out)
    assert tag, saved.err
    assert find_model(tag[1]).card.config["epochs"] == int(told[2].split()[1])
    assert loupe("train", *told[1].split()).code == 2  # the run is finished


@pytest.mark.timeout(120)  # TensorFlow is imported
@pytest.mark.usefixtures("little_memory", "store")
def test_a_training_that_needs_too_much_memory_is_one_line(
    loupe: Loupe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path))
    options = ("--architecture", "mlp", "--hidden", f"{2**14},{2**20}", "--epochs", "1")
    ended = loupe("train", "--dataset", "digits", *options)

    assert ended.code == 1
    assert ended.err.startswith("error: out_of_memory: ")
    assert "Traceback" not in ended.err


@pytest.mark.timeout(120)  # TensorFlow and TensorBoard are imported
def test_sigterm_stops_a_training_and_its_tensorboard_and_says_how_to_continue(
    tmp_path: Path, store: Path
) -> None:
    log = tmp_path / "log"
    options = "--dataset digits --architecture mlp --epochs 5000 --patience 0 --tensorboard"
    variables = {"LOUPE_DATA_DIR": tmp_path, "BENTOML_HOME": store, "BROWSER": "true"}
    with running(log, "train", *options.split(), **variables) as training:
        until(lambda: "epoch    2/5000" in log.read_text())
        board = re.search(r"TensorBoard: (http://\S+)", log.read_text())
        children = psutil.Process(training.pid).children(recursive=True)
        training.send_signal(signal.SIGTERM)
        assert until(training.poll) == 130

    assert board
    assert "loupe train --resume" in log.read_text()
    until(lambda: not any(child.is_running() for child in children))


# Names


def picture_folder(folder: Path, *class_names: str) -> Path:
    """Make a folder with ten pictures of each class, which differ between the classes."""
    for number, name in enumerate(class_names):
        for index in range(10):
            path = folder / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(pictures.png(pictures.shapes().train.images[number + 3 * index]))
    return folder


@pytest.mark.timeout(120)  # TensorFlow is imported
def test_models_of_other_classes_need_another_name_or_permission(
    loupe: Loupe, store: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path / "data"))
    first = picture_folder(tmp_path / "a" / "photos", "cat", "dog")
    second = picture_folder(tmp_path / "b" / "photos", "cat", "horse")
    quick = ("--architecture", "softmax", "--epochs", "1", "--min-accuracy", "0")

    assert loupe("train", "--dataset", f"folder:{first}", *quick).code == 0
    refused = loupe("train", "--dataset", f"folder:{second}", *quick)
    named = loupe("train", "--dataset", f"folder:{second}", "--name", "farm", *quick)
    replaced = loupe("train", "--dataset", f"folder:{second}", "--replace-classes", *quick)

    assert refused.code == 1
    assert "error: name_in_use: " in refused.err
    assert all(fact in refused.err for fact in ("photos:", "dog", "horse", "--name"))
    assert not list(tmp_path.glob("data/runs/*/request.json"))
    assert (named.code, replaced.code) == (0, 0)
    assert find_model("farm").card.class_names == ("cat", "horse")
    assert find_model("photos:latest").card.class_names == ("cat", "horse")
    assert find_model("photos").card.class_names == ("cat", "dog")


@pytest.mark.parametrize("name", ["", "Farm", "a/b", "a:b", "-a", "a.", "a b", "é", "a" * 64])
def test_impossible_name_of_a_model_is_wrong_usage(
    loupe: Loupe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path))
    ended = loupe("train", "--dataset", "digits", "--name", name)

    assert ended.code == 2
    assert "error: invalid_model_name: " in ended.err
