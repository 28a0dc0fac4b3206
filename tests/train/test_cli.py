"""`loupe train`: wrong use, Ctrl-C, and going on."""

import re
import signal
from pathlib import Path

import pytest

from loupe.models.store import StoredModel, find_model, list_models
from tests.support.command import Loupe
from tests.support.programs import running, until
from tests.support.stores import copied


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            [],
            "--dataset: expected the name of a data set, or --resume and the name of a run. Received: neither.",
        ),
        (["--dataset", "mnits"], "There is no data set 'mnits'. Did you mean mnist?"),
        (["--dataset", "digits", "--architecture", "cn"], "nearest: cnn. Received: cn."),
        (
            ["--dataset", "digits", "--hidden", "64"],
            "hidden: expected an architecture with hidden sizes to choose",
        ),
        (
            ["--dataset", "digits", "--hidden", "64;32"],
            "hidden: expected whole numbers with commas between, as 128,64. Received: 64;32.",
        ),
        (
            ["--dataset", "digits", "--batch-size", "0"],
            "batch size: expected at least 1 image, or 'full'. Received: 0.",
        ),
        (
            ["--dataset", "digits", "--lr", "nan"],
            "learning rate: expected a number above 0. Received: nan.",
        ),
        (
            ["--dataset", "digits-8x8", "--epochs", "1"],
            "images of 28 × 28 pixels, which stored models take.",
        ),
        (["--resume", "yesterday"], "No unfinished training run 'yesterday' in"),
    ],
    ids=lambda value: " ".join(value) or "nothing" if isinstance(value, list) else "",
)
def test_wrong_use_is_told_in_one_line_with_exit_code_2(
    loupe: Loupe, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path))
    told = loupe("train", *options)

    assert told.code == 2
    assert message in told.err
    assert "Traceback" not in told.err
    assert not list(tmp_path.glob("runs/*"))


def test_a_store_that_has_a_model_is_left_as_it_is_where_only_a_first_one_is_wanted(
    loupe: Loupe, store: Path, digits_model: StoredModel
) -> None:
    there = copied(digits_model, store)
    told = loupe("train", "--if-empty", "--dataset", "digits")

    assert (told.code, told.out) == (0, f"The store has {there.tag}: nothing to train.\n")
    assert [model.tag for model in list_models()] == [there.tag]


@pytest.mark.timeout(120)  # TensorFlow is imported
def test_an_empty_store_gets_its_first_model(
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
    assert [model.name for model in list_models()] == ["digits"]


@pytest.mark.timeout(120)  # TensorFlow is imported
def test_ctrl_c_keeps_the_best_so_far_and_says_how_to_go_on(
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
    assert loupe("train", *told[1].split()).code == 2  # it has ended
