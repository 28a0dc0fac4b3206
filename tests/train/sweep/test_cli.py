"""`loupe train sweep`: refused options, tables and files."""

from pathlib import Path

import pytest

from tests.support.command import Loupe

SMALL = ["train", "sweep", "--dataset", "digits-8x8", "--architecture", "mlp-small"]


@pytest.mark.parametrize(
    ("options", "code", "facts"),
    [
        pytest.param("--lr 0.1,fast", "invalid_training", ["learning rate", "fast"], id="rate"),
        pytest.param("--lr 0.1,-1", "invalid_training", ["learning rate", "-1"], id="negative"),
        pytest.param("--epochs 10,1.5", "invalid_training", ["epochs", "1.5"], id="epochs"),
        pytest.param("--hidden 32,a", "invalid_training", ["hidden", "a"], id="hidden"),
        pytest.param("--hidden=", "invalid_training", ["hidden"], id="no hidden"),
        pytest.param(
            "--batch-size 32,half", "invalid_training", ["batch size", "half"], id="batch size"
        ),
        pytest.param("--optimizer sgd,adm", "invalid_training", ["adm", "adam"], id="optimizer"),
        pytest.param(
            "--schedule linear", "invalid_training", ["linear", "constant"], id="schedule"
        ),
        pytest.param(
            "--test-fraction 0.2,2", "invalid_training", ["test fraction", "'2'"], id="fraction"
        ),
        pytest.param(
            "--test-fraction half", "invalid_training", ["test fraction", "half"], id="no fraction"
        ),
        pytest.param(
            "--one-at-a-time --trials 3",
            "invalid_training",
            ["--one-at-a-time", "--trials"],
            id="both plans",
        ),
        pytest.param(
            "--trials 3 --validation 0", "invalid_training", ["validation split"], id="trials"
        ),
        pytest.param("--dataset digit", "unknown_dataset", ["digit", "digits"], id="data set"),
        pytest.param(
            "--architecture softmax --hidden 8",
            "invalid_training",
            ["hidden", "softmax"],
            id="softmax",
        ),
    ],
)
def test_impossible_sweep_is_refused_in_one_line(
    loupe: Loupe, tmp_path: Path, options: str, code: str, facts: list[str]
) -> None:
    refused = loupe(*SMALL, *options.split(), "--out", tmp_path / "sweep")

    assert refused.code == 2
    assert refused.err.startswith(f"error: {code}: ")
    for fact in facts:
        assert fact in refused.err
    assert refused.err.count("\n") == 1
    assert not (tmp_path / "sweep").exists()


@pytest.mark.timeout(150)
def test_sweep_prints_tables_and_writes_its_files(loupe: Loupe, tmp_path: Path) -> None:
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
        "--jobs",
        "1",
    ]
    shown = loupe(*SMALL, *options, "--out", out)

    assert shown.code == 0, shown.err
    assert "learning rate, all else as in the base" in shown.out
    assert "best validation accuracy first, over 2 seeds" in shown.out
    assert shown.out.splitlines()[-1] == f"→ {out}/summary.csv, {out}/learning_rate.png"
    assert "failed: " in shown.err
    assert {file.name for file in out.iterdir()} == {
        "sweep.json",
        "study.journal",
        "results.csv",
        "summary.csv",
        "learning_rate.png",
    }
    assert loupe(*SMALL, *options, "--out", out) == shown

    other = loupe(*SMALL, *options, "--weight-decay", "0.1", "--out", out)
    assert other.code == 2
    assert other.err.startswith("error: sweep_mismatch: ")
    assert "weight_decay: null there, [0.1] now" in other.err
