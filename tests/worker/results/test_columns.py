"""The columns of a result: the same in every part and every format, whatever a shard holds."""

import csv
import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pyarrow as pa
import pyarrow.dataset
import pyarrow.parquet as pq
import pytest

from loupe.jobs import ScoringOptions
from loupe.models.store import StoredModel
from loupe.results import Format, merge_files, read_columns
from loupe.settings import Settings
from tests.support import pictures
from worker.process import running_locally
from worker.queue.submission import prepare
from worker.sources.source import id_type

KINDS: tuple[Format, ...] = get_args(Format)
GOOD, BAD = pictures.png(pictures.digits(1)[0]), b"not a picture"
SHARD = 2
FILES = [BAD, BAD, GOOD, BAD, GOOD, GOOD, GOOD]  # in four shards: none, one, two, the last
KEPT = {
    "shop": pa.array(["é", None, "", 'a "b"', "1", "x\ny", "null"]),
    "price": pa.array([1.5, None, float("nan"), 2.0, float("inf"), -float("inf"), 0.1]),
    "half": pa.array([1.5, None, float("nan"), 2.0, float("inf"), 3.0, 0.5], pa.float16()),
    "count": pa.array([1, None, 2**64 - 1, 3, 0, 5, 6], pa.uint64()),
    "sold": pa.array([True, None, False, True, False, True, None]),
    "day": pa.array([date(2026, 1, 1)] * 7),
    "at": pa.array([datetime(2026, 1, 2, 3, 4, tzinfo=UTC)] * 7, pa.timestamp("ms", "UTC")),
    "cost": pa.array([Decimal("1.50")] * 7),
    "spent": pa.array([timedelta(seconds=3)] * 7),
    "kind": pa.array(list("abcabca")).dictionary_encode(),
    "nothing": pa.nulls(7),
    "view": pa.array(list("abcabca"), pa.string_view()),
    "p_code": pa.array(["x1", None, "", "y", "z", "0.5", "1"]),
    "index_2": pa.array([2**40 + number for number in range(7)]),
}
IDS = {
    "int": pa.array([-3, -2, -1, 0, 1, 2, 2**40]),
    "small": pa.array(range(7), pa.uint8()),
    "uint64": pa.array([2**64 - 1 - number for number in range(7)], pa.uint64()),
    "text": pa.array(["1", "02", "é", 'a,"b"', "x\ny", "null", "-1"]),
    "float": pa.array([0.5, 1.0, 2.5, 3.0, 4.0, 5.0, 6.0]),
    "day": pa.array([date(2026, 1, 1 + number) for number in range(7)]),
    "missing": pa.array(["a", "b", None, "d", "e", None, "g"]),
}


def score(
    folder: Path, columns: dict[str, pa.Array], model: StoredModel, options: ScoringOptions
) -> Path:
    """Score a table of `FILES` with these columns, and return the output folder."""
    folder.mkdir()
    table = pa.table({**columns, "image": pa.array(FILES)})
    pq.write_table(table, folder / "images.parquet")
    request = prepare(
        lambda _: None, folder / "images.parquet", folder / "out", model.tag, SHARD, options
    ).request
    with running_locally(Settings(data_dir=folder / "data"), request) as queue:
        pass
    job = queue.get(request.job_id)
    assert (job.state, job.error) == ("done", None)
    assert (job.done or 0) + (job.failed or 0) == len(FILES)
    return folder / "out"


def rows_of(content: bytes, kind: Format) -> list[dict[str, object]]:
    """Return the rows of a file as other programs read them."""
    if kind == "parquet":
        return list(pq.read_table(io.BytesIO(content)).to_pylist())
    text = content.decode()
    if kind == "csv":
        return list(csv.DictReader(io.StringIO(text, newline="")))

    def refuse(constant: str) -> object:
        raise AssertionError(f"{constant} is not JSON")

    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


def files(out: Path, kind: Format) -> list[Path]:
    """Return the prediction files of a result in their order."""
    return sorted(out.glob(f"predictions*.{kind}"))


def shown(value: object) -> str:
    """Return a value as CSV shows it; JSON has no NaN and no infinity."""
    if value is None or str(value) in ("nan", "inf", "-inf"):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value).removesuffix("+00:00")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ids", IDS.values(), ids=IDS)
def test_ids_are_the_same_in_every_format(
    tmp_path: Path, digits_model: StoredModel, kind: Format, ids: pa.Array
) -> None:
    out = score(tmp_path / "job", {"id": ids}, digits_model, ScoringOptions(format=kind))
    parts = files(out, kind)
    expected = [
        str(name)
        for name, file in zip(ids.to_pylist(), FILES, strict=True)
        if file is GOOD and name is not None
    ]

    assert len(parts) == 4
    for to in KINDS:
        rows = rows_of(b"".join(merge_files(parts, kind, to, read_columns(out))), to)
        assert [str(row["id"]) for row in rows] == expected
        if to != "csv":
            assert {type(row["id"]) for row in rows} == (
                {int} if id_type(ids.type) == pa.int64() else {str}
            )


@pytest.mark.parametrize("single", [False, True], ids=["parts", "single"])
@pytest.mark.parametrize("kind", KINDS)
def test_kept_columns_are_the_same_in_every_format(
    tmp_path: Path, digits_model: StoredModel, kind: Format, single: bool
) -> None:
    options = ScoringOptions(
        format=kind, single=single, keep=tuple(KEPT), labels="column:sold", probabilities=False
    )
    columns = {"id": IDS["int"], **KEPT}
    out = score(tmp_path / "job", columns, digits_model, options)
    names = ["id", "label", "index", "confidence", "familiarity", "reason", "label_true", *KEPT]
    assert [*(read_columns(out) or ())] == names
    if kind == "parquet":
        assert pyarrow.dataset.dataset(out).to_table().num_rows == FILES.count(GOOD)
        assert len({pq.read_schema(part) for part in files(out, kind)}) == 1

    exact = ["shop", "price", "count", "sold", "day", "cost", "kind", "nothing"]
    exact += ["view", "p_code", "index_2"]
    expected = [
        [shown(KEPT[name][row].as_py()) for name in exact]
        for row, file in enumerate(FILES)
        if file is GOOD
    ]
    for to in KINDS:
        content = b"".join(merge_files(files(out, kind), kind, to, read_columns(out)))
        rows = rows_of(content, to)
        assert all([*row] == names for row in rows)
        assert [[shown(row[name]) for name in exact] for row in rows] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_result_without_any_row_names_all_columns_in_every_format(
    tmp_path: Path, digits_model: StoredModel, kind: Format
) -> None:
    options = ScoringOptions(format=kind, keep=("shop",), labels="column:shop")
    ids = pa.nulls(len(FILES), pa.string())
    out = score(tmp_path / "job", {"id": ids, **KEPT}, digits_model, options)
    parts, columns = files(out, kind), read_columns(out)
    table = pq.read_table(io.BytesIO(b"".join(merge_files(parts, kind, "parquet", columns))))
    (header,) = csv.reader([b"".join(merge_files(parts, kind, "csv", columns)).decode()])

    assert table.num_rows == 0
    assert table.column_names == header == [*(columns or ())]
    assert header[-2:] == ["label_true", "shop"]
    assert len(header) == 6 + 10 + 2


def test_missing_and_fractional_numbers_are_labels_as_in_a_column_of_integers(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    labels = pa.array([0.0, 1.0, 2.0, 3.0, None, float("nan"), 6.0])
    options = ScoringOptions(labels="column:class", probabilities=False)
    out = score(tmp_path / "job", {"class": labels}, digits_model, options)

    assert pq.read_table(out)["label_true"].to_pylist() == ["2", None, None, "6"]
