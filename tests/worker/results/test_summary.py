"""The summary of a job: counted from its parts, printed on a terminal."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import InvalidImage
from loupe.jobs import ScoringOptions
from loupe.results import Format
from tests.worker.results.test_outputs import CLASSES, JOB, finished
from worker.results.outputs import Part, write_part
from worker.results.statistics import StepStatistics
from worker.results.summary import count, print_summary, summarize


def rows(*confidences: float) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """Return probabilities with the first class as the best one."""
    best = np.array(confidences, np.float32)
    return np.stack([best, (1 - best) * 0.6, (1 - best) * 0.4], axis=1)


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_confidences_are_counted_in_ten_bins(tmp_path: Path, kind: Format) -> None:
    probabilities = rows(0.5, 0.55, 0.65, 0.999, 1.0, np.nextafter(np.float32(1), np.float32(2)))
    write_part(
        tmp_path,
        0,
        1,
        Part(list("abcdef"), probabilities, []),
        CLASSES,
        ScoringOptions(format=kind),
    )
    counts = count(
        [tmp_path / f"predictions-00000-of-00001.{kind}"], [], ScoringOptions(format=kind)
    )

    assert counts.histogram == [0, 0, 0, 0, 0, 2, 1, 0, 0, 3]


@pytest.fixture
def ended(tmp_path: Path) -> dict[str, object]:
    """Return the summary of a job of two shards and two workers."""
    write_part(tmp_path, 0, 2, Part(["a", "b", "c"], rows(0.95, 0.65, 0.75), []), CLASSES)
    write_part(tmp_path, 1, 2, Part(["d"], rows(0.95), [("e", InvalidImage("text"))]), CLASSES)
    return finished(
        tmp_path,
        figures=StepStatistics(["a", "b"], {"plan": 0.25, "read": 3, "score": 4, "write": 0.25}),
    )


def test_summary_contains_workers_and_times(ended: dict[str, object]) -> None:
    assert ended["workers"] == ["a", "b"]
    assert ended["seconds"] == {"plan": 0.25, "read": 3.0, "score": 4.0, "write": 0.25}
    assert (ended["shards"], ended["parts"]) == (2, 2)
    assert ended["confidence_histogram"] == [0, 0, 0, 0, 0, 0, 1, 1, 0, 2]


def test_summary_fits_a_narrow_terminal(
    ended: dict[str, object], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    print_summary(ended)

    shown = capsys.readouterr().out
    assert shown == (
        "  model       shapes:1\n"
        "  source      /images\n"
        "  images      5 of 5\n"
        "  errors      1 (invalid_image: 1)\n"
        "  shards      2 of 2, workers: 2\n"
        "  seconds     plan 0.2, read 3.0, score 4.0, write 0.2;\n"
        "              summed over threads\n"
        "  confidence  0.8250 on average\n"
        "\n"
        "class        images\n"
        "T-shirt/top       4  ████████████████████████\n"
        "Ankle boot        0\n"
        "Ärmel             0\n"
        "\n"
        "confidence  images\n"
        + "".join(f"{place / 10} to {(place + 1) / 10}       0\n" for place in range(6))
        + "0.6 to 0.7       1  ████████████\n"
        "0.7 to 0.8       1  ████████████\n"
        "0.8 to 0.9       0\n"
        "0.9 to 1.0       2  ████████████████████████\n"
    )


def test_summary_with_true_labels_shows_accuracy_and_confusion_matrix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ScoringOptions(labels="folder")
    names = [
        f"{label}/{place}.png"
        for place, label in enumerate(["Ärmel", "T-shirt", "Ankle boot", "Ärmel", "sock"])
    ]
    probabilities = rows(0.9, 0.9, 0.9, 0.0, 0.9)[:, [0, 2, 1]]  # the fourth is an Ärmel
    write_part(tmp_path, 0, 1, Part(names, probabilities, []), CLASSES, options)
    print_summary(finished(tmp_path, replace(JOB, shards=1, options=options)))

    shown = capsys.readouterr().out
    assert "  accuracy    0.3333 of 3 labelled\n" in shown
    assert (
        "true \\ given  T-shirt/top  Ankle boot  Ärmel\n"
        "T-shirt/top             ·           ·      ·\n"
        "Ankle boot              1           ·      ·\n"
        "Ärmel                   1           ·      1\n"
    ) in shown


def test_escaped_labels_are_counted_by_their_class(tmp_path: Path) -> None:
    options = ScoringOptions(labels="folder", escape_formulas=True)
    names = ["=a", "b", "c"]
    write_part(tmp_path, 0, 1, Part(["=a/1.png", "b/2.png"], rows(0.9, 0.9), []), names, options)
    counts = count([tmp_path / "predictions-00000-of-00001.parquet"], [], options)
    job = replace(JOB, shards=1, options=options)
    summary = summarize(job, names, [0], counts, StepStatistics())

    assert summary["labels"] == {"=a": 2, "b": 0, "c": 0}
    assert summary["accuracy"] == 0.5


def test_summary_is_json_whatever_the_model_answers_and_the_clock_says(tmp_path: Path) -> None:
    write_part(tmp_path, 0, 2, Part(["a"], rows(0.9), []), CLASSES)
    write_part(tmp_path, 1, 2, Part(["b"], np.full_like(rows(0.9), np.nan), []), CLASSES)
    job = replace(JOB, total=2, done=2, failed=0, started=time.time() + 60)
    finished(tmp_path, job)
    text = (tmp_path / "_summary.json").read_text()

    assert json.loads(text, parse_constant=pytest.fail)["mean_confidence"] is None
    assert json.loads(text)["images_per_second"] > 0
