"""The output folder: parts, the summary, and complete files only."""

import json
import os
from dataclasses import replace
from pathlib import Path
from uuid import uuid4

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from loupe.errors import InvalidImage, InvalidOutput, LoupeError
from loupe.images.spec import Float32Array
from loupe.jobs import DEFAULT_OPTIONS
from worker.queue.records import Job
from worker.results import outputs
from worker.results.claims import claim_folder, release_folder
from worker.results.outputs import Part, write_part, write_summary
from worker.results.statistics import StepStatistics
from worker.sources.source import ColumnTypes
from worker.storage import publish

CLASSES = ("T-shirt/top", "Ankle boot", "Ärmel")
JOB = Job(
    id="abc",
    state="finishing",
    model="shapes:1",
    model_digest="0",
    source="/images",
    output="/out",
    shard_images=3,
    shards=2,
    total=5,
    done=4,
    failed=1,
    created=1000.0,
    started=1001.0,
    finished=None,
    revision="revision",
    error=None,
)


def probabilities(count: int, seed: int = 0) -> Float32Array:
    found = np.random.default_rng(seed).random((count, len(CLASSES)), dtype=np.float32)
    return np.asarray(found / found.sum(axis=1, keepdims=True), np.float32)


def part(
    ids: list[str] | list[int], errors: list[tuple[str, LoupeError]] | None = None, seed: int = 0
) -> Part:
    return Part(ids, probabilities(len(ids), seed), errors or [])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# Parts


def test_part_holds_id_label_index_confidence_and_all_probabilities(tmp_path: Path) -> None:
    written = part(["a.png", "b/ü.png", "c.png"])
    write_part(tmp_path, 1, 12, written, CLASSES)
    table = pq.read_table(tmp_path / "predictions-00001-of-00012.parquet")

    assert table.schema.equals(
        pa.schema(
            [
                ("id", pa.string()),
                ("label", pa.string()),
                ("index", pa.int16()),
                ("confidence", pa.float32()),
                ("familiarity", pa.float32()),
                ("reason", pa.string()),
                *((f"p_{name}", pa.float32()) for name in CLASSES),
            ]
        )
    )
    best = written.probabilities.argmax(axis=1)
    assert table["id"].to_pylist() == ["a.png", "b/ü.png", "c.png"]
    assert table["index"].to_pylist() == best.tolist()
    assert table["label"].to_pylist() == [CLASSES[index] for index in best]
    np.testing.assert_array_equal(table["confidence"], written.probabilities.max(axis=1))
    for column, name in enumerate(CLASSES):
        np.testing.assert_array_equal(table[f"p_{name}"], written.probabilities[:, column])


def test_rows_of_an_array_have_numeric_ids(tmp_path: Path) -> None:
    types = ColumnTypes(pa.int64())
    write_part(tmp_path, 0, 1, part([7, 2**40]), CLASSES, DEFAULT_OPTIONS, types)
    table = pq.read_table(tmp_path / "predictions-00000-of-00001.parquet")

    assert table.schema.field("id").type == pa.int64()
    assert table["id"].to_pylist() == [7, 2**40]


def test_errors_are_written_to_a_separate_file(tmp_path: Path) -> None:
    write_part(
        tmp_path,
        0,
        1,
        part(
            ["a.png"],
            [
                ("ü.png", InvalidImage("text")),
                ("c.gif", InvalidImage("GIF", code="animated_image")),
            ],
        ),
        CLASSES,
    )

    text = (tmp_path / "_errors-00000-of-00001.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == [
        {"id": "ü.png", **InvalidImage("text").to_json()},
        {"id": "c.gif", **InvalidImage("GIF", code="animated_image").to_json()},
    ]


def test_part_without_errors_has_no_error_file(tmp_path: Path) -> None:
    write_part(tmp_path, 0, 1, part(["a.png"]), CLASSES)

    assert names(tmp_path) == ["predictions-00000-of-00001.parquet"]


def test_part_of_broken_files_has_all_columns(tmp_path: Path) -> None:
    write_part(tmp_path, 0, 2, part([], [("a.png", InvalidImage("text"))]), CLASSES)
    write_part(tmp_path, 1, 2, part(["b.png"]), CLASSES)
    empty, full = (
        pq.read_table(tmp_path / f"predictions-0000{shard}-of-00002.parquet") for shard in (0, 1)
    )

    assert empty.num_rows == 0
    assert empty.schema.equals(full.schema)


def test_part_written_twice_is_the_same(tmp_path: Path) -> None:
    write_part(tmp_path, 0, 1, part(["a", "b"]), CLASSES)
    before = (tmp_path / "predictions-00000-of-00001.parquet").read_bytes()
    write_part(tmp_path, 0, 1, part(["a", "b"]), CLASSES)

    assert (tmp_path / "predictions-00000-of-00001.parquet").read_bytes() == before
    assert names(tmp_path) == ["predictions-00000-of-00001.parquet"]


def test_failed_part_leaves_no_file(tmp_path: Path) -> None:
    broken = Part(["a", "b"], probabilities(3), [])
    with pytest.raises(ValueError, match="length"):
        write_part(tmp_path, 0, 1, broken, CLASSES)

    assert names(tmp_path) == []


def test_two_writers_of_a_part_use_different_temporary_files(tmp_path: Path) -> None:
    with publish(tmp_path / "part") as one:
        one.write_text("whole")
        with publish(tmp_path / "part") as other:
            other.write_text("as good")
        assert (tmp_path / "part").read_text() == "as good"

    assert (tmp_path / "part").read_text() == "whole"
    assert names(tmp_path) == ["part"]


def test_unfinished_file_is_hidden_from_readers_of_the_folder(tmp_path: Path) -> None:
    write_part(tmp_path, 0, 1, part(["a"]), CLASSES)
    with publish(tmp_path / "predictions-00001-of-00002.parquet") as path:
        path.write_bytes(b"half a fi")
        assert path.name.startswith(".")
        assert pq.read_table(tmp_path).num_rows == 1
        assert not (tmp_path / "predictions-00001-of-00002.parquet").exists()
    assert (tmp_path / "predictions-00001-of-00002.parquet").read_bytes() == b"half a fi"


# The summary


def finished(
    folder: Path, job: Job = JOB, figures: StepStatistics | None = None
) -> dict[str, object]:
    write_summary(folder, job, CLASSES, range(job.shards), figures or StepStatistics())
    summary: dict[str, object] = json.loads((folder / "_summary.json").read_text(encoding="utf-8"))
    return summary


def test_summary_counts_the_rows_of_the_parts(tmp_path: Path) -> None:
    first, second = part(["a", "b", "c"]), part(["d"], [("e", InvalidImage("text"))], seed=1)
    write_part(tmp_path, 0, 2, first, CLASSES)
    write_part(tmp_path, 1, 2, second, CLASSES)
    summary = finished(tmp_path)

    rows = np.concatenate([first.probabilities, second.probabilities])
    assert summary["labels"] == {
        name: int((rows.argmax(axis=1) == index).sum()) for index, name in enumerate(CLASSES)
    }
    assert summary["errors"] == {"invalid_image": 1}
    assert (summary["total"], summary["done"], summary["failed"], summary["parts"]) == (5, 4, 1, 2)
    assert summary["mean_confidence"] == pytest.approx(rows.max(axis=1).mean(), rel=1e-6)
    assert (summary["job"], summary["model"], summary["source"]) == ("abc", "shapes:1", "/images")


@pytest.mark.parametrize("name", ["a\u2028b.png", "a\x85b.png", "a\nb.png", "a\x0b.png", 'a"b.png'])
def test_file_names_with_line_separators_are_counted_once(tmp_path: Path, name: str) -> None:
    write_part(tmp_path, 0, 1, part(["a"], [(name, InvalidImage("text"))]), CLASSES)
    summary = finished(tmp_path, replace(JOB, shards=1, total=2))

    assert summary["errors"] == {"invalid_image": 1}
    with (tmp_path / "_errors-00000-of-00001.jsonl").open(encoding="utf-8") as lines:
        assert [json.loads(line)["id"] for line in lines] == [name]


def test_success_is_written_last_and_temporary_files_are_removed(tmp_path: Path) -> None:
    claim_folder(tmp_path, JOB.request)
    outputs.index_path(tmp_path, JOB.revision).mkdir()
    name = f".predictions-00000-of-00001.parquet.{uuid4().hex}.tmp"
    (tmp_path / name).touch()  # of a worker that died
    write_part(tmp_path, 0, 1, part(["1", "2"]), CLASSES)
    finished(tmp_path, replace(JOB, shards=1, total=2))

    assert names(tmp_path) == ["_SUCCESS", "_summary.json", "predictions-00000-of-00001.parquet"]
    ages = [
        (tmp_path / name).stat().st_mtime_ns
        for name in ("predictions-00000-of-00001.parquet", "_summary.json")
    ]
    assert max(ages) <= (tmp_path / "_SUCCESS").stat().st_mtime_ns


def test_repeated_last_step_keeps_the_first_summary(tmp_path: Path) -> None:
    write_part(tmp_path, 0, 1, part(["1", "2"]), CLASSES)
    job = replace(JOB, shards=1, total=2)

    first = finished(tmp_path, job, StepStatistics(["a"]))
    assert first["workers"] == ["a"]
    assert finished(tmp_path, job) == first
    assert finished(tmp_path, replace(job, revision="other"))["workers"] == []


def test_source_of_broken_files_has_no_mean_confidence(tmp_path: Path) -> None:
    write_part(tmp_path, 0, 1, part([], [("a", InvalidImage("text"))]), CLASSES)
    summary = finished(tmp_path, replace(JOB, shards=1, total=1))

    assert summary["mean_confidence"] is None
    assert set(summary["labels"].values()) == {0}  # type: ignore[attr-defined]


def test_incomplete_parts_are_not_a_success(tmp_path: Path) -> None:
    write_part(tmp_path, 0, 1, part(["1", "2"], [("e", InvalidImage("text"))]), CLASSES)
    with pytest.raises(
        ValueError, match=r"^the parts hold 2 rows and 1 errors, the source 5 records$"
    ):
        finished(tmp_path, replace(JOB, shards=1))

    assert not (tmp_path / "_SUCCESS").exists()
    assert not (tmp_path / "_summary.json").exists()


def test_folder_is_readable_by_other_programs(tmp_path: Path) -> None:
    claim_folder(tmp_path, JOB.request)
    first, second = part(["a", "b", "c"]), part(["d"], [("e", InvalidImage("text"))], seed=1)
    write_part(tmp_path, 0, 2, first, CLASSES)
    write_part(tmp_path, 1, 2, second, CLASSES)

    def read_by_others() -> list[list[str]]:
        return [
            pd.read_parquet(tmp_path)["id"].to_list(),
            pyarrow.dataset.dataset(tmp_path).to_table()["id"].to_pylist(),
            [row[0] for row in duckdb.read_parquet(f"{tmp_path}/*.parquet").fetchall()],
        ]

    assert read_by_others() == [["a", "b", "c", "d"]] * 3  # while the job runs
    finished(tmp_path)
    assert read_by_others() == [["a", "b", "c", "d"]] * 3


# Claiming the folder


def test_new_folder_is_created_and_claimed(tmp_path: Path) -> None:
    claim_folder(tmp_path / "a" / "b", JOB.request)

    assert names(tmp_path / "a" / "b") == ["_RUNNING"]


def test_folder_is_claimed_once(tmp_path: Path) -> None:
    claim_folder(tmp_path, JOB.request)
    with pytest.raises(InvalidOutput, match=r"1 entries \(_RUNNING"):
        claim_folder(tmp_path, JOB.request)

    release_folder(tmp_path)
    claim_folder(tmp_path, JOB.request)


def test_folder_with_files_is_refused_and_not_changed(tmp_path: Path) -> None:
    for name in "dcba":
        (tmp_path / name).touch()
    with pytest.raises(InvalidOutput) as raised:
        claim_folder(tmp_path, JOB.request)

    assert f"'{tmp_path}'" in raised.value.message
    assert "4 entries (a, b, c …)" in raised.value.message
    assert names(tmp_path) == ["a", "b", "c", "d"]


def test_file_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InvalidOutput, match=f"'{tmp_path}/file' is a file"):
        claim_folder(tmp_path / "file", JOB.request)
    with pytest.raises(InvalidOutput, match="Not a directory"):
        claim_folder(tmp_path / "file" / "below", JOB.request)


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_unwritable_folder_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(InvalidOutput, match="Permission denied"):
        claim_folder(tmp_path / "new", JOB.request)
