"""CSV files with a column for each pixel."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.errors import InvalidSource, SourceChanged
from loupe.images.arrays.tables import read_layout
from loupe.images.spec import ImageSpec
from loupe.jobs import ScoringOptions
from tests.support import pictures
from tests.worker.conftest import MAX_PIXELS, scored
from worker.sources.opening import check_source, open_source
from worker.sources.source import Records

IMAGES = pictures.digits(11)
ROWS = IMAGES.reshape(-1, 784).tolist()
NUMBERED = [f"pixel{number}" for number in range(784)]


def csv(names: Sequence[object], rows: Sequence[Sequence[object]], delimiter: str = ",") -> str:
    return "".join(delimiter.join(map(str, row)) + "\n" for row in [names, *rows])


def labelled(names: Sequence[str] = NUMBERED) -> str:
    rows = [[label, *row] for label, row in enumerate(ROWS)]
    return csv(["label", *names], rows)


def ids(seen: Sequence[Records]) -> list[str | int]:
    return [name for records in seen for name in records.ids]


def images(seen: Sequence[Records]) -> list[list[int]]:
    return [image.reshape(784).tolist() for records in seen for image in records.images]


def errors(seen: Sequence[Records]) -> list[tuple[str, str]]:
    return [(name, error.code) for records in seen for name, error in records.errors]


@pytest.mark.parametrize(
    "text",
    [
        labelled(),
        labelled([f"pixel{number + 1}" for number in range(784)]),
        labelled([f"{number // 28 + 1}x{number % 28 + 1}" for number in range(784)]),
        csv(sorted(NUMBERED), [[row[int(name[5:])] for name in sorted(NUMBERED)] for row in ROWS]),
        labelled().replace(",", ";"),
        labelled().replace(",", "\t"),
        labelled().replace("\n", "\r\n"),
        re.sub(r"(?m)(\d+)(?=[,\n])", r"\1.0", labelled()),
        labelled().partition("\n")[2],
        csv(ROWS[0], ROWS[1:]),
    ],
    ids=["kaggle", "from-1", "grid", "sorted", ";", "tab", "crlf", "floats", "bare", "pixels"],
)
@pytest.mark.parametrize("name", ["a.csv", "upload"])
def test_rows_are_images_however_the_file_is_written(
    tmp_path: Path, index_folder: Path, text: str, name: str
) -> None:
    (tmp_path / name).write_text(text)
    check_source(tmp_path / name, ImageSpec("ink"))
    seen = scored(tmp_path / name, index_folder)

    assert images(seen) == ROWS
    assert ids(seen) == list(range(len(ROWS)))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_file_may_have_any_encoding_that_spreadsheets_write(
    tmp_path: Path, index_folder: Path, encoding: str
) -> None:
    (tmp_path / "a.csv").write_text(labelled(), encoding=encoding)

    assert images(scored(tmp_path / "a.csv", index_folder)) == ROWS


def test_other_columns_are_labels_ids_and_kept_values(tmp_path: Path, index_folder: Path) -> None:
    rows = [[f"é{number}", *row, "a", number] for number, row in enumerate(ROWS)]
    rows[3][0] = ""
    (tmp_path / "a.csv").write_text(csv(["id", *NUMBERED, "image", "label"], rows))
    options = ScoringOptions(labels="column:label", keep=("image", "pixel0"))
    with pytest.raises(InvalidSource) as raised:
        check_source(tmp_path / "a.csv", ImageSpec("ink"), options)
    assert raised.value.code == "column_not_found"
    options = ScoringOptions(labels="column:label", keep=("image",))
    seen = scored(tmp_path / "a.csv", index_folder, options=options)

    good = [number for number in range(len(ROWS)) if number != 3]
    assert ids(seen) == [f"é{number}" for number in good]
    assert errors(seen) == [("row 3", "invalid_record")]
    columns = [row for records in seen if records.columns for row in records.columns.to_pylist()]
    assert columns == [{"image": "a", "label": str(number)} for number in good]


def test_row_with_a_wrong_value_is_an_error_and_the_others_are_read(
    tmp_path: Path, index_folder: Path
) -> None:
    rows: list[list[object]] = [list(row) for row in ROWS]
    rows[1][5], rows[2][7], rows[3][783], rows[4][0] = 256, -1, "", "abc"
    rows[5][3], rows[6][3] = 0.5, " 3 "
    (tmp_path / "a.csv").write_text(csv(NUMBERED, rows))
    seen = scored(tmp_path / "a.csv", index_folder)

    assert ids(seen) == [0, *range(6, 11)]
    assert errors(seen) == [(str(number), "invalid_pixels") for number in range(1, 6)]


@given(
    lengths=st.lists(st.sampled_from([784, 784, 784, 783, 785, 1]), min_size=1, max_size=30),
    block=st.integers(4_000, 30_000),
)
@settings(max_examples=30)
def test_rows_of_a_wrong_length_are_errors_at_their_place(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], block: int
) -> None:
    folder = tmp_path_factory.mktemp("csv")
    rows = [[number] * length for number, length in enumerate(lengths)]
    (folder / "a.csv").write_text(csv(NUMBERED, rows))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("loupe.images.arrays.tables.BLOCK_BYTES", block + 8_000)
        seen = scored(folder / "a.csv", folder)

    good = [number for number, length in enumerate(lengths) if length == 784]
    assert ids(seen) == good
    assert [image[0] for image in images(seen)] == good
    assert [name for name, _ in errors(seen)] == [
        str(number) for number in range(len(lengths)) if number not in good
    ]
    messages = [error.message for batch in seen for _, error in batch.errors]
    assert all("more or fewer values" in message for message in messages)


@pytest.mark.parametrize(
    ("names", "fact"),
    [
        ([*NUMBERED[:5], *NUMBERED[6:]], "missing: 5"),
        ([*NUMBERED, "pixel5"], "repeated: pixel5"),
        ([str(number) for number in range(785)], "785 columns"),
    ],
)
def test_header_with_missing_or_repeated_pixels_is_refused(
    tmp_path: Path, names: list[str], fact: str
) -> None:
    (tmp_path / "a.csv").write_text(csv(names, [[0] * len(names)]))
    with pytest.raises(InvalidSource, match=fact):
        check_source(tmp_path / "a.csv", ImageSpec("ink"))


def test_labels_in_the_last_column_without_a_header_are_refused(tmp_path: Path) -> None:
    """Read as labels before the pixels, they would move every pixel by one."""
    rows = [[0, *row[1:], label] for label, row in enumerate(ROWS)]
    (tmp_path / "a.csv").write_text(csv(rows[0], rows[1:]))
    with pytest.raises(InvalidSource, match="header"):
        check_source(tmp_path / "a.csv", ImageSpec("ink"))


def test_file_that_changes_after_the_plan_is_refused(tmp_path: Path, index_folder: Path) -> None:
    (tmp_path / "a.csv").write_text(labelled())
    source = open_source(tmp_path / "a.csv", ImageSpec("ink"), MAX_PIXELS)
    plan = source.plan(4, index_folder)
    (tmp_path / "a.csv").write_text(labelled() + "1\n")

    with pytest.raises(SourceChanged):
        list(source.batches(plan.shards[0], 3, index_folder, plan.revision))


def no_rows() -> str:
    return csv(NUMBERED, [])


def a_long_row() -> str:
    return csv(NUMBERED, [["0" * 40_000] * 784])


def a_long_label() -> str:
    return csv(["label", *NUMBERED], [["x" * 100_000, *ROWS[0]]])


def many_short_rows() -> str:
    return csv(NUMBERED, []) + "1\n" * 1_000_000


def an_open_quotation_mark() -> str:
    return csv(NUMBERED, [['"', *ROWS[0][1:]]]) + "1" * 2**23


@pytest.mark.parametrize(
    "make", [no_rows, a_long_row, a_long_label, many_short_rows, an_open_quotation_mark]
)
def test_file_that_claims_too_much_is_refused(
    tmp_path: Path, index_folder: Path, make: Callable[[], str]
) -> None:
    (tmp_path / "a.csv").write_text(make())
    options = ScoringOptions(keep=("label",) if make is a_long_label else ())
    with pytest.raises(InvalidSource) as raised:
        scored(tmp_path / "a.csv", index_folder, options=options)
    assert raised.value.code in {"invalid_source", "source_too_large"}


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"\0",
        b"\xff\xfe",
        b"\xff" * 100,
        b"path,label\na.png,1\n",
        b"1,2\n" * 1000,
        bytes(2**16),
    ],
    ids=range(7),
)
def test_other_files_are_not_taken_for_tables_of_pixels(head: bytes) -> None:
    assert read_layout(head, ImageSpec("ink")) is None


def test_layout_names_the_columns_that_are_not_pixels() -> None:
    layout = read_layout(labelled().encode()[: 2**14], ImageSpec("ink"))

    assert layout is not None
    assert layout.others == ["label"]
    assert layout.pixels == list(range(1, 785))
