"""`loupe train sweep`: what it refuses, and what it shows."""

from pathlib import Path

import pytest

from tests.support.command import Loupe

SMALL = ["train", "sweep", "--dataset", "digits-8x8", "--architecture", "mlp-small"]


@pytest.mark.parametrize(
    ("options", "code", "text"),
    [
        pytest.param(
            "--lr 0.1,fast",
            "invalid_training",
            "learning rate: expected numbers with commas",
            id="rate",
        ),
        pytest.param("--lr 0.1,-1", "invalid_training", "-1.0", id="negative rate"),
        pytest.param(
            "--epochs 10,1.5",
            "invalid_training",
            "epochs: expected whole numbers with commas",
            id="epochs",
        ),
        pytest.param(
            "--hidden 32,a",
            "invalid_training",
            "hidden: expected whole numbers with commas",
            id="hidden",
        ),
        pytest.param(
            "--hidden=", "invalid_training", "as 128,64. Received: nothing.", id="no hidden"
        ),
        pytest.param(
            "--batch-size 32,half",
            "invalid_training",
            "batch size: expected at least 1",
            id="batch size",
        ),
        pytest.param(
            "--optimizer sgd,adm", "invalid_training", "Did you mean adam", id="optimizer"
        ),
        pytest.param(
            "--schedule linear",
            "invalid_training",
            "schedule: ",
            id="schedule",
        ),
        pytest.param(
            "--test-fraction 0.2,2",
            "invalid_training",
            "test fraction: expected a share",
            id="fraction",
        ),
        pytest.param(
            "--one-at-a-time --trials 3",
            "invalid_training",
            "expected it or --trials",
            id="both plans",
        ),
        pytest.param(
            "--trials 3 --validation 0",
            "invalid_training",
            "a validation split to choose by",
            id="trials",
        ),
        pytest.param("--dataset digit", "unknown_dataset", "Did you mean digits?", id="data set"),
        pytest.param(
            "--architecture softmax --hidden 8",
            "invalid_training",
            "hidden: softmax",
            id="softmax",
        ),
    ],
)
def test_a_sweep_that_cannot_be_is_refused_in_one_line(
    loupe: Loupe, tmp_path: Path, options: str, code: str, text: str
) -> None:
    refused = loupe(*SMALL, *options.split(), "--out", tmp_path / "sweep")

    assert refused.code == 2
    assert refused.err.startswith(f"error: {code}: ")
    assert text in refused.err
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


@pytest.mark.timeout(150)
def test_a_sweep_shows_tables_and_writes_its_files_and_another_is_refused_there(
    loupe: Loupe, tmp_path: Path
) -> None:
    out = tmp_path / "sweep"
    options = [
        "--lr",
        "0.01,1e30",
        "--optimizer",
        "sgd",
        "--epochs",
        "20",
        "--seeds",
        "2",
        "--one-at-a-time",
    ]
    shown = loupe(*SMALL, *options, "--out", out)

    assert shown.code == 0, shown.err
    assert "learning rate, all else as in the base" in shown.out
    assert "best validation accuracy first, over 2 seeds" in shown.out
    assert shown.out.splitlines()[-1] == f"→ {out}/summary.csv, {out}/learning_rate.png"
    assert shown.err.startswith("failed: The loss became NaN or infinite in epoch ")
    assert {file.name for file in out.iterdir()} == {
        "sweep.json",
        "results.csv",
        "summary.csv",
        "learning_rate.png",
    }
    assert loupe(*SMALL, *options, "--out", out) == shown

    other = loupe(*SMALL, *options, "--weight-decay", "0.1", "--out", out)
    assert other.code == 2
    assert other.err.startswith("error: sweep_mismatch: Expected the sweep that was begun in ")
    assert "weight_decay: nothing there, [0.1] asked for." in other.err
