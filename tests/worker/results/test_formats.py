"""Files of a result: the same rows in Parquet, CSV and JSON lines."""

import csv
import json
from datetime import datetime
from pathlib import Path
from typing import get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.conversion import plain_schema, read_rows
from loupe.errors import InvalidRequest
from loupe.images.spec import Float32Array
from loupe.jobs import ScoringOptions
from loupe.results import Format
from worker.results import formats
from worker.sources.source import ColumnTypes

KINDS: tuple[Format, ...] = get_args(Format)
CLASSES = ("T-shirt/top", 'Ankle "boot", left', "Ärmel")
NUMBERED = ColumnTypes(pa.int64())
TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)


def probabilities(count: int, seed: int = 0) -> Float32Array:
    found = np.random.default_rng(seed).random((count, len(CLASSES)), dtype=np.float32)
    return np.asarray(found / found.sum(axis=1, keepdims=True), np.float32)


def rows_in(path: Path, kind: Format) -> list[dict[str, object]]:
    """Return the rows as other programs read them."""
    if kind == "parquet":
        return list(pq.read_table(path).to_pylist())
    with path.open(encoding="utf-8", newline="") as lines:
        return (
            list(csv.DictReader(lines)) if kind == "csv" else [json.loads(line) for line in lines]
        )


def labels_in(path: Path, kind: Format) -> list[tuple[str | None, object]]:
    return [
        (row["label"], pytest.approx(row["confidence"], abs=1e-6))
        for batch in read_rows(path, kind, plain_schema({"label": "", "confidence": ""}))
        for row in batch.to_pylist()
    ]


@pytest.mark.parametrize("threshold", [None, 0.0])
def test_rows_of_blank_pictures_have_no_label(threshold: float | None) -> None:
    options = ScoringOptions(threshold=threshold)
    rows = formats.table(
        ["a", "b"], probabilities(2), CLASSES, options, blank=np.array([True, False])
    )

    assert [label is None for label in rows["label"].to_pylist()] == [True, False]
    assert [index is None for index in rows["index"].to_pylist()] == [True, False]
    assert rows["reason"].to_pylist() == ["blank", None]


def test_rows_have_their_familiarity_and_no_label_below_the_minimum() -> None:
    familiarity = np.array([0.5, 0.25, np.nan], np.float32)
    rows = formats.table(
        ["a", "b", "c"],
        probabilities(3),
        CLASSES,
        ScoringOptions(min_familiarity=0.3),
        familiarity=familiarity,
    )

    assert rows.column_names[:6] == ["id", "label", "index", "confidence", "familiarity", "reason"]
    assert rows["familiarity"].to_pylist() == [0.5, 0.25, None]
    assert [label is None for label in rows["label"].to_pylist()] == [False, True, False]


@pytest.mark.parametrize("kind", KINDS)
@given(ids=st.lists(TEXT, max_size=5, unique=True), threshold=st.none() | st.floats(0, 1))
def test_rows_are_read_back(
    tmp_path_factory: pytest.TempPathFactory, kind: Format, ids: list[str], threshold: float | None
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows"
    table = formats.table(
        ids, probabilities(len(ids)), CLASSES, ScoringOptions(threshold=threshold)
    )
    formats.write(table, path, kind)

    assert [row["id"] for row in rows_in(path, kind)] == ids
    assert labels_in(path, kind) == list(
        zip(table["label"].to_pylist(), table["confidence"].to_pylist(), strict=True)
    )


@pytest.mark.parametrize("kind", KINDS)
def test_all_formats_have_the_same_columns(tmp_path: Path, kind: Format) -> None:
    formats.write(
        formats.table(["1", "2"], probabilities(2), CLASSES, ScoringOptions(top_k=2)),
        tmp_path / "rows",
        kind,
    )
    (row, _) = rows_in(tmp_path / "rows", kind)

    best = ["id", "label", "index", "confidence", "familiarity", "reason"]
    second = ["label_2", "index_2", "confidence_2"]
    assert [*row] == [*best, *second, *(f"p_{name}" for name in CLASSES)]


def test_labels_of_a_row_start_with_the_most_probable() -> None:
    found = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], np.float32)
    table = formats.table(["a", "b"], found, CLASSES, ScoringOptions(top_k=9, probabilities=False))

    assert table.column_names[-3:] == ["label_3", "index_3", "confidence_3"]
    assert [table[name].to_pylist() for name in ("index", "index_2", "index_3")] == [
        [1, 0],
        [2, 2],
        [0, 1],
    ]
    np.testing.assert_allclose(table["confidence_2"], [0.3, 0.3])


def test_one_label_is_the_first_of_several() -> None:
    nan = np.nan
    rows = [[0.2, 0.4, 0.4], [nan, 0.3, 0.7], [nan, nan, nan], [0.5, nan, 0.5], [0, 0, 0]]
    one, three = (
        formats.table(list("abcde"), np.array(rows, np.float32), CLASSES, ScoringOptions(top_k=k))
        for k in (1, 3)
    )

    assert one["index"].to_pylist() == [1, 2, 0, 0, 0]
    for column in ("label", "index", "confidence"):
        assert str(one[column]) == str(three[column])


def test_row_below_the_threshold_has_a_confidence_but_no_label() -> None:
    found = np.array([[0.2, 0.5, 0.3], [0.6, 0.1, 0.3]], np.float32)
    table = formats.table(["a", "b"], found, CLASSES, ScoringOptions(threshold=0.55, top_k=2))

    assert table["label"].to_pylist() == [None, CLASSES[0]]
    assert table["index"].to_pylist() == [None, 0]
    np.testing.assert_allclose(table["confidence"], [0.5, 0.6])
    assert table["label_2"].null_count == 0


@pytest.mark.parametrize("kind", KINDS)
def test_true_label_and_kept_columns_come_last(tmp_path: Path, kind: Format) -> None:
    kept = pa.table(
        {"shop": ["é", None], "when": [datetime(2026, 1, 2, 3, 4), None], "class": [2, None]}
    )
    options = ScoringOptions(labels="column:class", keep=("when", "shop"), format=kind)
    formats.write(
        formats.table(["1", "2"], probabilities(2), CLASSES, options, kept), tmp_path / "rows", kind
    )
    first, second = rows_in(tmp_path / "rows", kind)

    assert [*first][-4:] == ["p_Ärmel", "label_true", "when", "shop"]
    assert [first["label_true"], first["shop"]] == ["Ärmel", "é"]
    assert str(first["when"]).startswith("2026-01-02 03:04:00")
    assert not any([second["label_true"], second["when"], second["shop"]])
    read = [
        row
        for rows in read_rows(tmp_path / "rows", kind, plain_schema({"label_true": ""}))
        for row in rows.to_pylist()
    ]
    assert [row["label_true"] for row in read] == ["Ärmel", None]


@pytest.mark.parametrize("name", ["id", "label", "p_Ärmel", "label_true"])
def test_columns_of_the_result_cannot_be_kept(name: str) -> None:
    formats.check_kept_columns(CLASSES, ScoringOptions(keep=("other", "label_2"), labels="folder"))
    with pytest.raises(InvalidRequest, match=rf"'{name}'.*id, label, index, confidence"):
        formats.check_kept_columns(CLASSES, ScoringOptions(keep=("other", name), labels="folder"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sizes", [[3], [2, 3, 1], [0, 2], [2, 0], [0]])
def test_merged_parts_equal_one_file(tmp_path: Path, kind: Format, sizes: list[int]) -> None:
    found, ids = probabilities(sum(sizes)), list(range(sum(sizes)))
    parts, start = [], 0
    for number, size in enumerate(sizes):
        parts.append(tmp_path / f"part-{number}")
        rows = slice(start, start + size)
        formats.write(
            formats.table(ids[rows], found[rows], CLASSES, ScoringOptions(), types=NUMBERED),
            parts[-1],
            kind,
        )
        start += size
    formats.merge(parts, tmp_path / "merged", kind)
    whole = formats.table(ids, found, CLASSES, ScoringOptions(), types=NUMBERED)
    formats.write(whole, tmp_path / "whole", kind)

    assert rows_in(tmp_path / "merged", kind) == rows_in(tmp_path / "whole", kind)


@pytest.mark.parametrize("kind", KINDS)
def test_empty_part_of_an_older_version_is_merged(tmp_path: Path, kind: Format) -> None:
    parts = [tmp_path / "0", tmp_path / "1"]
    empty = formats.table([], probabilities(0), CLASSES, ScoringOptions())  # with ids of text
    formats.write(empty, parts[0], kind)
    rows = formats.table([7], probabilities(1), CLASSES, ScoringOptions(), types=NUMBERED)
    formats.write(rows, parts[1], kind)
    formats.merge(parts, tmp_path / "merged", kind)

    assert [str(row["id"]) for row in rows_in(tmp_path / "merged", kind)] == ["7"]


def test_empty_part_has_all_columns() -> None:
    table = formats.table([], np.empty((0, 3), np.float32), CLASSES, ScoringOptions())
    assert table.num_rows == 0
    assert pa.types.is_float32(table.schema.field("p_Ärmel").type)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_that_look_like_formulas_are_escaped_on_request(tmp_path: Path, kind: Format) -> None:
    ids = ["=1+1", "+a", "-a", "@a", "\ta", "\ra", "a=b", "'=a"]
    notes = pa.array(["=2", None, "x", "", "-1", "@", "y", "z"])
    kept = pa.table({"=note": notes, "category": notes.dictionary_encode()})
    names = ("=T", "b", "c")
    for escape in (False, True):
        options = ScoringOptions(keep=("=note", "category"), escape_formulas=escape)
        path = tmp_path / f"rows-{escape}"
        formats.write(formats.table(ids, probabilities(8), names, options, kept), path, kind)
        rows = rows_in(path, kind)
        mark = "'" if escape else ""

        assert [row["id"] for row in rows] == [f"{mark}{name}" for name in ids[:6]] + ids[6:]
        assert {row["label"] for row in rows} <= {f"{mark}=T", "b", "c"}
        assert rows[0][f"{mark}=note"] == rows[0]["category"] == f"{mark}=2"
        assert "p_=T" in rows[0]


def test_columns_whose_names_have_line_breaks_are_merged(tmp_path: Path) -> None:
    names = ("a\nb", 'c"\r\n"d', "e")
    options = ScoringOptions(format="csv", keep=("x\ny",))
    paths = [tmp_path / "0.csv", tmp_path / "1.csv"]
    for number, path in enumerate(paths):
        rows = formats.table(
            [f"r\n{number}"], probabilities(1), names, options, pa.table({"x\ny": ["1"]})
        )
        formats.write(rows, path, "csv")
    formats.merge(paths, tmp_path / "merged.csv", "csv")

    rows_found = rows_in(tmp_path / "merged.csv", "csv")
    assert [row["id"] for row in rows_found] == ["r\n0", "r\n1"]
    assert len(labels_in(tmp_path / "merged.csv", "csv")) == 2
    assert {"p_a\nb", 'p_c"\r\n"d', "x\ny"} <= set(rows_found[0])
