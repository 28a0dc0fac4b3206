"""Pages of the rows of a job, in every format."""

from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
import pytest
from pydantic import ValidationError

from loupe.conversion import encode_rows
from loupe.results import Format
from service.jobs.rows import ErrorsRequest, RowsRequest, read_errors, read_page

COLUMNS = {
    "id": "string",
    "label": "string",
    "index": "int16",
    "confidence": "float",
    "label_true": "string",
    "p_cat": "float",
}
ROWS = 40_000  # more than one batch


def write(folder: Path, kind: Format) -> list[Path]:
    """Write rows in two files; every tenth has no label, every hundredth is wrong."""
    paths = []
    for part in range(2):
        numbers = range(part * ROWS // 2, (part + 1) * ROWS // 2)
        table = pa.table(
            {
                "id": [f"{number}.png" for number in numbers],
                "label": [None if number % 10 == 5 else "cat" for number in numbers],
                "index": pa.array([0 for _ in numbers], pa.int16()),
                "confidence": pa.array([(number * 7919 % ROWS) / ROWS for number in numbers], "f4"),
                "label_true": ["dog" if number % 100 == 0 else "cat" for number in numbers],
                "p_cat": pa.array([0.5 for _ in numbers], pa.float32()),
            }
        )
        path = folder / f"predictions-{part}.{kind}"
        path.write_bytes(b"".join(encode_rows(iter(table.to_batches()), table.schema, kind)))
        paths.append(path)
    return paths


@pytest.fixture(params=["parquet", "csv", "jsonl"])
def result(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[list[Path], Format]:
    return write(tmp_path, request.param), request.param


def page(result: tuple[list[Path], Format], **asked: object) -> tuple[list[str], int]:
    """Return the ids of a page, and how many rows match."""
    found: Any = read_page(*result, COLUMNS, RowsRequest.model_validate(asked), lambda: None)
    assert found["total"] == ROWS
    return [row["id"] for row in found["rows"]], found["matched"]


def test_rows_are_paged_in_the_order_of_the_source(result: tuple[list[Path], Format]) -> None:
    assert page(result, limit=2) == (["0.png", "1.png"], ROWS)
    middle = [f"{number}.png" for number in range(19_998, 20_003)]
    assert page(result, offset=19_998, limit=5) == (middle, ROWS)
    assert page(result, offset=ROWS, limit=5) == ([], ROWS)


def test_rows_are_filtered(result: tuple[list[Path], Format]) -> None:
    assert page(result, label="", limit=2) == (["5.png", "15.png"], ROWS // 10)
    assert page(result, label="dog") == ([], 0)
    assert page(result, wrong=True, offset=1, limit=1) == (["100.png"], ROWS // 100)
    assert page(result, max_familiarity=1) == ([], 0)
    assert page(result, min_confidence=0.5, max_confidence=0.5) == (["20000.png"], 1)


def test_least_sure_rows_come_first_and_pages_do_not_overlap(
    result: tuple[list[Path], Format],
) -> None:
    inverse = pow(7919, -1, ROWS)
    lowest = [f"{rank * inverse % ROWS}.png" for rank in range(6)]
    assert page(result, sort="confidence", limit=3)[0] == lowest[:3]
    assert page(result, sort="confidence", offset=3, limit=3)[0] == lowest[3:]


def test_rows_contain_kept_columns_but_not_the_probabilities_of_all_classes(
    result: tuple[list[Path], Format],
) -> None:
    row = {"id": "0.png", "label": "cat", "index": 0, "confidence": 0.0, "label_true": "dog"}
    for kept, rows in (((), [row]), (("p_cat",), [{**row, "p_cat": 0.5}])):
        found: Any = read_page(*result, COLUMNS, RowsRequest(limit=1), lambda: None, kept)

        assert found["rows"] == rows


def test_only_the_first_rows_are_sorted() -> None:
    with pytest.raises(ValidationError, match="10,000"):
        RowsRequest(sort="confidence", offset=9_990, limit=20)


def test_reading_ends_when_nobody_waits(result: tuple[list[Path], Format]) -> None:
    def check() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        read_page(*result, COLUMNS, RowsRequest(), check)


def test_errors_of_all_parts_are_one_list(tmp_path: Path) -> None:
    paths = [tmp_path / f"_errors-{part}.jsonl" for part in range(3)]
    for part, path in enumerate(paths):
        lines = [orjson.dumps({"id": f"{part}-{number}"}) + b"\n" for number in range(part)]
        path.write_bytes(b"".join(lines))

    found: Any = read_errors(paths, ErrorsRequest(offset=1, limit=2))
    assert [row["id"] for row in found["rows"]] == ["2-0", "2-1"]
    assert found["matched"] == 3
