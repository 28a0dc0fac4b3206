"""Outputs of `loupe score`: folders, single files, and file systems without hard links."""

import json
import signal
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import pytest

from loupe.models.store import StoredModel
from loupe.results import Format, merge_files
from tests.support import pictures
from tests.support.command import Loupe
from tests.support.linkless import without_hard_links
from tests.support.programs import run, running, until


def test_results_are_written_to_a_file_system_without_hard_links(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    np.save(tmp_path / "images.npy", pictures.digits(20))
    command = ["score", tmp_path / "images.npy", "--local", "--model", digits_model.tag]
    linkless = without_hard_links(tmp_path)
    out = tmp_path / "out"

    ended = run(*command, "--out", out, **linkless)
    assert ended.returncode == 0, ended.stderr
    assert pq.read_table(out).num_rows == 20
    refused = run(*command, "--out", out, "--top-k", 2, **linkless)
    assert refused.stderr.startswith("error: invalid_output: ")


def test_stopped_command_ends_with_another_exit_code_than_a_finished_one(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    source, out = tmp_path / "images.npy", tmp_path / "out"
    np.save(source, np.tile(pictures.digits(500), (100, 1, 1)))
    command = ("score", source, "--out", out, "--local", "--model", digits_model.tag)

    with running(tmp_path / "log", *command, LOUPE_SHARD_IMAGES=500) as process:
        until(lambda: list(out.glob("predictions-*")))
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 130
    assert (out / "_CANCELLED").exists()


@pytest.fixture
def score(
    tmp_path: Path, digits_model: StoredModel, loupe: Loupe, monkeypatch: pytest.MonkeyPatch
) -> Loupe:
    """Return a function that scores three pictures, one of them unreadable."""
    source = tmp_path / "images"
    source.mkdir()
    for number, image in enumerate(pictures.digits(2)):
        (source / f"{number}.png").write_bytes(pictures.png(image))
    (source / "2.png").write_bytes(pictures.png(pictures.digits(1)[0])[:60])
    monkeypatch.setenv("LOUPE_SHARD_IMAGES", "1")
    command = ("score", source, "--local", "--model", digits_model.tag, "--no-probabilities")
    return lambda *options: loupe(*command, *options)


def rows(path: Path) -> list[dict[str, object]]:
    """Return the rows of a file."""
    kind = cast("Format", path.suffix[1:])
    found = b"".join(merge_files([path], kind, "jsonl", None))
    return [json.loads(line) for line in found.splitlines()]


@pytest.mark.parametrize("kind", ["parquet", "csv", "jsonl"])
def test_output_that_is_one_file_holds_all_rows(tmp_path: Path, score: Loupe, kind: str) -> None:
    out = tmp_path / f"results.{kind}"
    ended = score("--out", out)
    assert ended.code == 0, ended.err
    found = rows(out)
    assert [row["id"] for row in found] == ["0.png", "1.png"]
    assert "_SUCCESS" in {path.name for path in (tmp_path / f"results.{kind}.job").iterdir()}

    assert score("--out", out).code == 0
    out.unlink()
    assert score("--out", out).code == 0
    assert rows(out) == found
    assert score("--out", out, "--top-k", 2).code == 1
    assert score("--out", out, "--again", "--top-k", 2).code == 0
    assert "label_2" in rows(out)[0]


def test_output_file_of_somebody_else_is_overwritten_only_on_request(
    tmp_path: Path, score: Loupe
) -> None:
    out = tmp_path / "results.csv"
    out.write_text("precious")
    refused = score("--out", out)
    assert (refused.code, out.read_text()) == (1, "precious")
    assert refused.err.startswith("error: invalid_output: ")
    assert not (tmp_path / "results.csv.job").exists()

    assert score("--out", out, "--again").code == 0
    assert len(rows(out)) == 2
    (tmp_path / "folder.csv").mkdir()
    refused = score("--out", tmp_path / "folder.csv", "--again")
    assert refused.err.startswith("error: invalid_output: ")
    wrong = score("--out", tmp_path / "other.csv", "--format", "jsonl")
    assert wrong.code == 2
    assert wrong.err.startswith("error: invalid_usage: ")


def test_finished_job_is_converted_to_another_format(tmp_path: Path, score: Loupe) -> None:
    out = tmp_path / "out"
    assert score("--out", out).code == 0
    found: list[list[dict[str, object]]] = []
    for options in (["--format", "csv"], ["--format", "jsonl", "--single"], ["--single"], []):
        ended = score("--out", out, *options)
        assert ended.code == 0, ended.err
        files = sorted(out.glob("predictions*"))
        assert len({path.suffix for path in files}) == 1
        assert ("--single" in options) == (files[0].stem == "predictions")
        found.append([row for file in files for row in rows(file)])
        repeated = score("--out", out, *options)
        assert repeated.code == 0
    assert [row["id"] for row in found[0]] == ["0.png", "1.png"]
    assert all(other == found[0] for other in found)

    for name in ("predictions.csv", "predictions-00000-of-00002.jsonl"):
        (out / name).write_text("of a conversion that was killed")
    assert score("--out", out).code == 0
    assert sorted(out.glob("predictions*")) == files

    (tmp_path / "images" / "3.png").write_bytes(b"")
    changed = score("--out", out, "--format", "csv")
    assert changed.err.startswith("error: result_exists: ")
