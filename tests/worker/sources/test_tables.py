"""Tables: Parquet files with pictures or pixels in them, and manifests of paths."""

import csv
import gzip
import io
import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.errors import InvalidRequest, InvalidSource, SourceChanged
from loupe.images.spec import ImageSpec
from loupe.jobs import ScoringOptions
from tests.support import pictures
from tests.worker.conftest import MAX_PIXELS, scored
from worker.sources.opening import check_source, open_source
from worker.sources.source import Records

IMAGES = pictures.digits(11)
FILES = [pictures.png(image) for image in IMAGES]


def ids(batches: Sequence[Records]) -> list[str | int]:
    return [name for batch in batches for name in batch.ids]


def images(batches: Sequence[Records]) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.concatenate([batch.images for batch in batches])


def errors(batches: Sequence[Records]) -> dict[str, str]:
    return {name: error.message for batch in batches for name, error in batch.errors}


# Parquet


def of_files(**more: Sequence[object]) -> pa.Table:
    return pa.table({"image": FILES, "label": list(range(len(FILES))), **more})


def of_structs(**more: Sequence[object]) -> pa.Table:
    return pa.table({"image": [{"bytes": file, "path": "a.png"} for file in FILES], **more})


def of_pixels(**more: Sequence[object]) -> pa.Table:
    columns = {
        f"pixel{number + 1}": values
        for number, values in enumerate(IMAGES.reshape(len(IMAGES), -1).T)
    }
    return pa.table({"label": list(range(len(IMAGES))), **columns, **more})


@pytest.mark.parametrize("table", [of_files, of_structs, of_pixels])
@pytest.mark.parametrize("row_group_size", [1, 3, 5, 100])
def test_rows_of_a_table_are_read_shard_by_shard(
    tmp_path: Path, index_folder: Path, table: Any, row_group_size: int
) -> None:
    source = tmp_path / "table"
    pq.write_table(table(), source, row_group_size=row_group_size)
    check_source(source, ImageSpec("ink"))
    seen = scored(source, index_folder)

    assert ids(seen) == list(range(len(IMAGES)))
    np.testing.assert_array_equal(images(seen), IMAGES)


@given(
    rows=st.integers(1, 60),
    row_group_size=st.integers(1, 20),
    shard_images=st.integers(1, 25),
    batch_size=st.integers(1, 10),
)
@settings(max_examples=30)
def test_every_row_of_a_table_is_read_once(
    tmp_path_factory: pytest.TempPathFactory,
    rows: int,
    row_group_size: int,
    shard_images: int,
    batch_size: int,
) -> None:
    folder = tmp_path_factory.mktemp("table")
    names = [f"r{row}" for row in range(rows)]
    pq.write_table(
        pa.table({"image": FILES[:1] * rows, "id": names}),
        folder / "table",
        row_group_size=row_group_size,
    )

    assert ids(scored(folder / "table", folder, shard_images, batch_size)) == names


@pytest.mark.parametrize("table", [of_files, of_structs, of_pixels])
@pytest.mark.parametrize("names", [[f"é{row}" for row in range(11)], list(range(100, 111))])
def test_rows_may_have_ids(
    tmp_path: Path, index_folder: Path, table: Any, names: Sequence[object]
) -> None:
    pq.write_table(table(id=names), tmp_path / "table")

    assert ids(scored(tmp_path / "table", index_folder)) == list(names)


def test_row_with_a_missing_or_broken_picture_is_an_error(
    tmp_path: Path, index_folder: Path
) -> None:
    pq.write_table(pa.table({"image": [FILES[0], None, b"text", FILES[1]]}), tmp_path / "table")
    seen = scored(tmp_path / "table", index_folder)

    assert ids(seen) == [0, 3]
    assert list(errors(seen)) == ["1", "2"]
    assert "no picture file" in errors(seen)["1"]


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("name", ["pixel{0}", "{0}", "v2-px{0:03}", "{1}x{2}"])
def test_pixels_are_in_the_order_of_their_numbers_whatever_the_order_of_the_columns(
    tmp_path: Path, index_folder: Path, first: int, name: str
) -> None:
    columns = {
        name.format(place + first, place // 28 + first, place % 28 + first): values
        for place, values in enumerate(IMAGES.reshape(len(IMAGES), -1).T)
    }
    names = sorted(columns)
    table = pa.table({"count7": range(len(IMAGES)), **{name: columns[name] for name in names}})
    pq.write_table(table, tmp_path / "table")

    np.testing.assert_array_equal(images(scored(tmp_path / "table", index_folder)), IMAGES)


@pytest.mark.parametrize(
    ("numbers", "fact"),
    [
        ([*range(100), *range(101, 784)], "missing: 100"),
        ([*range(100), *range(101, 785)], "missing: 100"),
        ([*range(784), 783], "several|repeated: pixel783"),
        ([*range(1, 786)], "785 columns"),
    ],
)
def test_pixels_whose_numbers_are_missing_or_repeated_are_refused(
    tmp_path: Path, index_folder: Path, numbers: list[int], fact: str
) -> None:
    values = pa.array([1], pa.uint8())
    table = pa.table([values for _ in numbers], [f"pixel{number}" for number in numbers])
    pq.write_table(table, tmp_path / "table")
    for refuse in (
        lambda path: check_source(path, ImageSpec("ink")),
        lambda path: scored(path, index_folder),
    ):
        with pytest.raises(InvalidSource, match=fact):
            refuse(tmp_path / "table")


def test_row_of_floats_has_pixels_only_if_they_are_integers(
    tmp_path: Path, index_folder: Path
) -> None:
    columns = {f"p{number}": [0.0, 255.0, 0.0, None, 0.0] for number in range(784)}
    columns["p9"] = [7.0, 255.0, 0.5, None, float("nan")]
    pq.write_table(pa.table(columns), tmp_path / "table")
    seen = scored(tmp_path / "table", index_folder)

    assert ids(seen) == [0, 1]
    assert images(seen)[:, 0, 9].tolist() == [7, 255]
    assert list(errors(seen)) == ["2", "3", "4"]


@pytest.mark.parametrize("table", [of_files, of_pixels])
def test_ids_that_results_cannot_hold_as_numbers_are_text(
    tmp_path: Path, index_folder: Path, table: Any
) -> None:
    names = pa.array(range(2**64 - 11, 2**64), pa.uint64())
    pq.write_table(table(id=names), tmp_path / "table")

    assert ids(scored(tmp_path / "table", index_folder)) == [str(name) for name in names]


@pytest.mark.parametrize("table", [of_files, of_pixels])
@pytest.mark.parametrize("options", [ScoringOptions(), ScoringOptions(id="id")])
def test_ids_may_be_bytes(
    tmp_path: Path, index_folder: Path, table: Any, options: ScoringOptions
) -> None:
    names = [f"é{row}".encode() for row in range(len(IMAGES) - 1)]
    pq.write_table(table(id=[*names, b"\xff"]), tmp_path / "table")
    check_source(tmp_path / "table", ImageSpec("ink"), options)

    expected = [*(name.decode() for name in names), "\\xff"]
    assert ids(scored(tmp_path / "table", index_folder, options=options)) == expected


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_pictures_may_be_in_a_column_of_another_name(
    tmp_path: Path, index_folder: Path, kind: pa.DataType
) -> None:
    other = pa.array([b"no picture"] * len(FILES), kind)
    pq.write_table(pa.table({"image": other, "img": pa.array(FILES, kind)}), tmp_path / "a")
    fields = pa.struct([("bytes", kind), ("path", pa.string())])
    structs = pa.array([{"bytes": file, "path": None} for file in FILES], fields)
    pq.write_table(pa.table({"img": structs, "label": range(len(FILES))}), tmp_path / "b")
    for name in ("a", "b"):
        seen = scored(tmp_path / name, index_folder, options=ScoringOptions(image_column="img"))
        np.testing.assert_array_equal(images(seen), IMAGES)


def test_missing_image_column_is_named_with_those_that_hold_files(tmp_path: Path) -> None:
    pq.write_table(pa.table({"img": FILES[:1], "label": [1]}), tmp_path / "table")
    for options in (ScoringOptions(), ScoringOptions(image_column="label")):
        with pytest.raises(InvalidSource, match=r"--image-column: img;"):
            check_source(tmp_path / "table", ImageSpec("ink"), options)


def test_row_with_invalid_pixels_is_an_error(tmp_path: Path, index_folder: Path) -> None:
    columns: dict[str, list[int | None]] = {f"p{number}": [0, 0, 0, 255] for number in range(784)}
    columns["p5"] = [0, 256, None, 255]
    columns["p7"] = [0, 0, 0, -1]
    pq.write_table(pa.table(columns), tmp_path / "table")
    seen = scored(tmp_path / "table", index_folder)

    assert ids(seen) == [0]
    assert list(errors(seen)) == ["1", "2", "3"]
    assert all("0..255" in message for message in errors(seen).values())


@pytest.mark.parametrize("table", [of_files, of_structs, of_pixels])
@pytest.mark.parametrize("names", [[f"é{row}" for row in range(10)], list(range(100, 110))])
def test_row_without_an_id_is_an_error(
    tmp_path: Path, index_folder: Path, table: Any, names: Sequence[object]
) -> None:
    pq.write_table(table(id=[*names[:5], None, *names[5:]]), tmp_path / "table")
    seen = scored(tmp_path / "table", index_folder)

    assert ids(seen) == list(names)
    assert list(errors(seen)) == ["row 5"]
    assert "no id" in errors(seen)["row 5"]
    source = open_source(tmp_path / "table", ImageSpec("ink"), MAX_PIXELS)
    shard = source.plan(100, index_folder).shards[0]
    found = [source.record_id(shard, position, index_folder) for position in (4, 5)]
    assert found == [str(names[4]), "row 5"]


def test_missing_number_is_no_id(tmp_path: Path, index_folder: Path) -> None:
    names = pa.array([1.5, *[float("nan")] * (len(IMAGES) - 1)])
    pq.write_table(of_pixels(id=names), tmp_path / "table")
    seen = scored(tmp_path / "table", index_folder)

    assert ids(seen) == ["1.5"]
    assert len(errors(seen)) == len(IMAGES) - 1


@pytest.mark.parametrize("table", [of_files, of_structs, of_pixels])
def test_requested_columns_are_read_with_the_valid_rows(
    tmp_path: Path, index_folder: Path, table: Any
) -> None:
    names = [None if row == 5 else f"é{row}" for row in range(len(IMAGES))]
    times = [datetime(2026, 1, 1 + row) for row in range(len(IMAGES))]
    shops = pa.array(["a", "b"] * 5 + [None]).dictionary_encode()
    pq.write_table(
        table(name=names, count=list(range(len(IMAGES))), time=times, shop=shops),
        tmp_path / "table",
    )
    options = ScoringOptions(id="name", keep=("time", "shop"), labels="column:count")
    check_source(tmp_path / "table", ImageSpec("ink"), options)
    seen = scored(tmp_path / "table", index_folder, options=options)

    good = [row for row in range(len(IMAGES)) if row != 5]
    assert ids(seen) == [names[row] for row in good]
    columns = pa.concat_tables([batch.columns for batch in seen])
    assert columns.column_names == ["time", "shop", "count"]
    assert columns["time"].to_pylist() == [times[row] for row in good]
    assert columns["count"].to_pylist() == good
    assert columns["shop"].to_pylist() == [
        ["a", "b"][row % 2] if row < 10 else None for row in good
    ]


@pytest.mark.parametrize(
    "options",
    [
        ScoringOptions(id="x"),
        ScoringOptions(keep=("label", "x")),
        ScoringOptions(labels="column:x"),
    ],
)
def test_missing_column_is_named(tmp_path: Path, options: ScoringOptions) -> None:
    pq.write_table(of_files(), tmp_path / "table")
    (tmp_path / "manifest.csv").write_text("path,label\na.png,1\n")
    (tmp_path / "manifest.jsonl").write_text('{"path": "a.png", "label": 1}\n')
    for name, columns in (
        ("table", "image, label"),
        ("manifest.csv", "path, label"),
        ("manifest.jsonl", "path, label"),
    ):
        with pytest.raises(InvalidSource) as raised:
            check_source(tmp_path / name, ImageSpec("ink"), options)
        assert raised.value.code == "column_not_found"
        for fact in ("'x'", f"'{tmp_path / name}'", columns):
            assert fact in raised.value.message


def test_damaged_line_of_a_manifest_is_one_error(tmp_path: Path, index_folder: Path) -> None:
    (tmp_path / "a.png").write_bytes(FILES[0])
    lines = ['{"path": "a.png"}', '{"path": "a', "[]", '{"path": "a.png"}']
    (tmp_path / "manifest.jsonl").write_text("\n".join(lines))

    seen = scored(tmp_path / "manifest.jsonl", index_folder)

    assert ids(seen) == ["a.png", "a.png"]
    assert [(name, error.code) for batch in seen for name, error in batch.errors] == [
        ("line 2", "invalid_record"),
        ("line 3", "invalid_record"),
    ]


def test_row_of_a_manifest_with_more_or_fewer_values_is_an_error(
    folder: Path, index_folder: Path
) -> None:
    """A comma without quotes would cut a label, or a path."""
    rows = [",shoe", ",shoe,", ",T-shirt, top", "", ",shoe"]
    lines = [f'"{path}"{row}' for path, row in zip(PATHS, rows, strict=False)]
    (folder / "list.csv").write_text("\n".join(["path,label", *lines]))
    options = ScoringOptions(labels="column:label", keep=("label",))
    seen = scored(folder / "list.csv", index_folder, options=options)

    assert ids(seen) == [PATHS[0], PATHS[1], PATHS[4]]
    assert list(errors(seen)) == ["line 4", "line 5"]


def test_source_without_columns_has_no_requested_column(tmp_path: Path) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    for source in (tmp_path, tmp_path / "images.npy"):
        with pytest.raises(InvalidSource, match=r"'x': only tables") as raised:
            check_source(source, ImageSpec("ink"), ScoringOptions(keep=("x",)))
        assert raised.value.code == "column_not_found"


@pytest.mark.parametrize("name", ["images.npy", "table"])
def test_folder_labels_need_folders(tmp_path: Path, name: str) -> None:
    np.save(tmp_path / "images.npy", IMAGES)
    pq.write_table(of_files(), tmp_path / "table")
    with pytest.raises(InvalidRequest, match=name):
        check_source(tmp_path / name, ImageSpec("ink"), ScoringOptions(labels="folder"))


@pytest.fixture
def tables(tmp_path: Path) -> Path:
    """Parquet files in a folder of Hugging Face, one of them without rows."""
    folder = tmp_path / "set"
    (folder / "data" / "more").mkdir(parents=True)
    (folder / ".cache").mkdir()
    rows = of_structs(label=list(range(len(FILES))))
    for name, part in (
        ("data/test-00000-of-00003.parquet", rows.slice(0, 4)),
        ("data/test-00001-of-00003.parquet", rows.slice(0, 0)),
        ("data/test-00002-of-00003.parquet", rows.slice(4, 1)),
        ("data/more/test.parquet", rows.slice(5)),
    ):
        pq.write_table(part, folder / name, row_group_size=2)
    (folder / "README.md").write_text("text")
    (folder / ".cache" / "a.parquet").write_text("text")
    return folder


@pytest.mark.parametrize(
    ("pattern", "rows"),
    [
        (".", 11),
        ("**/*.parquet", 11),
        ("data/*.parquet", 5),
        ("data/test-{00000..00002}-of-00003.parquet", 5),
    ],
)
def test_parquet_files_of_a_folder_or_pattern_are_one_table(
    tables: Path, index_folder: Path, pattern: str, rows: int
) -> None:
    source, options = tables / pattern, ScoringOptions(labels="column:label")
    check_source(source, ImageSpec("ink"), options)
    seen = scored(source, index_folder, options=options)

    assert ids(seen) == list(range(rows))
    labels = pa.concat_tables([batch.columns for batch in seen if batch.columns])["label"]
    np.testing.assert_array_equal(images(seen), IMAGES[labels.to_numpy()])


def test_files_beside_parquet_files_are_counted(tables: Path, index_folder: Path) -> None:
    assert open_source(tables, ImageSpec("ink"), MAX_PIXELS).plan(4, index_folder).skipped == {
        "hidden": {".parquet": 1},
        "not_a_table": {".md": 1},
    }


def test_pictures_of_a_folder_are_scored_rather_than_its_tables(
    tables: Path, index_folder: Path
) -> None:
    (tables / "data" / "z.png").write_bytes(FILES[0])
    plan = open_source(tables, ImageSpec("ink"), MAX_PIXELS).plan(4, index_folder)

    assert plan.total == 1
    assert plan.skipped["not_a_picture"][".parquet"] == 4


def test_parquet_files_of_different_columns_are_refused(tables: Path, index_folder: Path) -> None:
    options = ScoringOptions(keep=("label",))
    pq.write_table(of_structs(label=["a"] * len(FILES)), tables / "data" / "zzz.parquet")
    with pytest.raises(InvalidSource, match=r"zzz\.parquet"):
        scored(tables, index_folder, options=options)


def test_parquet_file_that_is_added_after_the_plan_is_a_change(
    tables: Path, index_folder: Path
) -> None:
    plan = open_source(tables, ImageSpec("ink"), MAX_PIXELS).plan(4, index_folder)
    pq.write_table(of_structs(), tables / "data" / "zzz.parquet")
    source = open_source(tables, ImageSpec("ink"), MAX_PIXELS)

    with pytest.raises(SourceChanged):
        list(source.batches(plan.shards[0], 3, index_folder, plan.revision))


def test_rows_of_parquet_files_are_in_no_folders_of_labels(tables: Path) -> None:
    for source in (tables, tables / "data" / "*.parquet"):
        with pytest.raises(InvalidRequest):
            check_source(source, ImageSpec("ink"), ScoringOptions(labels="folder"))


def test_column_of_lists_or_bytes_is_refused(tmp_path: Path) -> None:
    pq.write_table(of_files(boxes=[[1, 2]] * len(FILES)), tmp_path / "table")
    for column in ("boxes", "image"):
        with pytest.raises(InvalidSource, match=f"Column '{column}' of '{tmp_path}/table'"):
            check_source(tmp_path / "table", ImageSpec("ink"), ScoringOptions(keep=(column,)))


@pytest.mark.parametrize(
    ("table", "received"),
    [
        (
            pa.table({"text": ["a"], "label": [1]}),
            r"'image'.* no 784 .*text, label",
        ),
        (pa.table({"image": ["a.png"]}), r"'image' of picture files.* image"),
        (pa.table({f"p{number}": [1] for number in range(783)}), "783 columns"),
        (pa.table({"image": pa.array([], pa.binary())}), "no rows"),
    ],
)
def test_table_without_pictures_is_refused(tmp_path: Path, table: pa.Table, received: str) -> None:
    pq.write_table(table, tmp_path / "table")
    with pytest.raises(InvalidSource, match=received):
        check_source(tmp_path / "table", ImageSpec("ink"))


def test_damaged_table_is_refused(tmp_path: Path) -> None:
    pq.write_table(of_files(), tmp_path / "table")
    data = (tmp_path / "table").read_bytes()
    (tmp_path / "table").write_bytes(data[: len(data) // 2])
    with pytest.raises(InvalidSource, match=f"'{tmp_path}/table' is damaged"):
        check_source(tmp_path / "table", ImageSpec("ink"))


def test_table_that_changes_after_the_plan_is_refused(tmp_path: Path, index_folder: Path) -> None:
    pq.write_table(of_files(), tmp_path / "table")
    source = open_source(tmp_path / "table", ImageSpec("ink"), MAX_PIXELS)
    plan = source.plan(4, index_folder)
    pq.write_table(of_structs(), tmp_path / "table")

    with pytest.raises(SourceChanged):
        list(source.batches(plan.shards[0], 3, index_folder, plan.revision))


# Manifests


def as_csv(records: Sequence[dict[str, str]]) -> str:
    lines = io.StringIO()
    writer = csv.DictWriter(lines, records[0])
    writer.writeheader()
    writer.writerows(records)
    return lines.getvalue()


def as_json_lines(records: Sequence[dict[str, str]]) -> str:
    return "\n\n".join(map(json.dumps, records)) + "\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "images" / "deep").mkdir(parents=True)
    for number, file in enumerate(FILES):
        (tmp_path / "images" / "deep" / f"{number}, é.png").write_bytes(file)
    return tmp_path / "images"


PATHS = [f"deep/{number}, é.png" for number in range(len(FILES))]


@pytest.mark.parametrize(
    ("write", "suffix"), [(as_csv, ".csv"), (as_json_lines, ".jsonl"), (as_json_lines, ".ndjson")]
)
def test_manifest_names_pictures_in_its_order(
    folder: Path, index_folder: Path, write: Any, suffix: str
) -> None:
    manifest = folder / f"manifest{suffix}"
    manifest.write_text(
        write([{"label": "x", "path": path} for path in reversed(PATHS)]), encoding="utf-8"
    )
    check_source(manifest, ImageSpec("ink"))
    seen = scored(manifest, index_folder)

    assert ids(seen) == PATHS[::-1]
    np.testing.assert_array_equal(images(seen), IMAGES[::-1])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize(
    ("delimiter", "suffix"), [(",", ".csv"), (";", ".csv"), ("\t", ".csv"), ("\t", ".tsv")]
)
def test_manifest_is_read_as_spreadsheets_export_it(
    folder: Path, index_folder: Path, encoding: str, delimiter: str, suffix: str
) -> None:
    lines = io.StringIO()
    writer = csv.writer(lines, delimiter=delimiter)
    writer.writerow(["label", "path", "size, in mm; or inches"])
    writer.writerows([number, path, "1,5"] for number, path in enumerate(PATHS))
    manifest = folder / f"manifest{suffix}"
    manifest.write_bytes(lines.getvalue().encode(encoding))
    options = ScoringOptions(labels="column:label", keep=("size, in mm; or inches",))
    check_source(manifest, ImageSpec("ink"), options)
    seen = scored(manifest, index_folder, options=options)

    assert ids(seen) == PATHS
    assert seen[0].columns is not None
    assert seen[0].columns.to_pylist()[1] == {"size, in mm; or inches": "1,5", "label": "1"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize(("write", "suffix"), [(as_csv, ".csv"), (as_json_lines, ".jsonl")])
@pytest.mark.parametrize("column", ["file_name", "picture"])
def test_column_of_paths_may_have_another_name(
    folder: Path, index_folder: Path, write: Any, suffix: str, column: str, encoding: str
) -> None:
    manifest = folder / f"metadata{suffix}"
    manifest.write_bytes(write([{column: path, "text": "é"} for path in PATHS]).encode(encoding))
    options = ScoringOptions(image_column="picture") if column == "picture" else ScoringOptions()
    check_source(manifest, ImageSpec("ink"), options)

    assert ids(scored(manifest, index_folder, options=options)) == PATHS


def test_manifest_of_windows_has_backslashes(folder: Path, index_folder: Path) -> None:
    (folder / "deep" / "a\\b.png").write_bytes(FILES[0])
    paths = [PATHS[0].replace("/", "\\"), "deep/a\\b.png"]
    (folder / "list.jsonl").write_text(as_json_lines([{"path": path} for path in paths]))

    assert ids(scored(folder / "list.jsonl", index_folder)) == paths


@pytest.mark.parametrize(("write", "suffix"), [(as_csv, ".csv"), (as_json_lines, ".jsonl")])
def test_manifest_may_have_ids_and_name_a_picture_twice(
    folder: Path, index_folder: Path, write: Any, suffix: str
) -> None:
    manifest = folder / f"manifest{suffix}"
    absolute = str(folder / PATHS[1])
    records = [
        {"id": "b", "path": absolute},
        {"id": "a", "path": PATHS[1]},
        {"id": "b", "path": PATHS[0]},
        {"id": "", "path": PATHS[0]},
    ]
    manifest.write_text(write(records), encoding="utf-8-sig")
    seen = scored(manifest, index_folder)

    assert ids(seen) == ["b", "a", "b", PATHS[0]]
    np.testing.assert_array_equal(images(seen), IMAGES[[1, 1, 0, 0]])


@pytest.mark.parametrize(("write", "suffix"), [(as_csv, ".csv"), (as_json_lines, ".jsonl")])
def test_requested_columns_of_a_manifest_are_text(
    folder: Path, index_folder: Path, write: Any, suffix: str
) -> None:
    manifest = folder / f"manifest{suffix}"
    records = [
        {"path": path, "key": f"k{place}", "shop": f"é{place}"} for place, path in enumerate(PATHS)
    ]
    manifest.write_text(
        write([*records[:3], {**records[3], "path": "gone.png"}, *records[4:]]), encoding="utf-8"
    )
    seen = scored(manifest, index_folder, options=ScoringOptions(id="key", keep=("shop", "path")))

    good = [place for place in range(len(PATHS)) if place != 3]
    assert ids(seen) == [f"k{place}" for place in good]
    columns = pa.concat_tables([batch.columns for batch in seen])
    assert columns.schema.equals(pa.schema([("shop", pa.string()), ("path", pa.string())]))
    assert columns["shop"].to_pylist() == [f"é{place}" for place in good]
    assert columns["path"].to_pylist() == [PATHS[place] for place in good]


def test_json_values_that_are_not_text_become_json(folder: Path, index_folder: Path) -> None:
    values = [1, "text", float("nan"), {"a": [True, float("inf")]}, "\ud800"]
    lines = [
        json.dumps({"path": path, "x": value}) for path, value in zip(PATHS, values, strict=False)
    ]
    (folder / "manifest.jsonl").write_text("\n".join([*lines, json.dumps({"path": PATHS[6]})]))
    seen = scored(folder / "manifest.jsonl", index_folder, options=ScoringOptions(keep=("x",)))

    columns = pa.concat_tables([batch.columns for batch in seen])
    assert columns["x"].to_pylist() == ["1", "text", None, '{"a": [true, null]}', "\\ud800", None]


def test_line_without_a_path_and_missing_file_are_errors(folder: Path, index_folder: Path) -> None:
    manifest = folder / "manifest.jsonl"
    records = [
        {"path": "gone.png"},
        {"name": "x"},
        ["path"],
        {"path": 5},
        {"path": "a\0b"},
        {"path": PATHS[0], "id": 7},
    ]
    manifest.write_text("\n".join(map(json.dumps, records)))
    seen = scored(manifest, index_folder)

    assert ids(seen) == ["7"]
    found = errors(seen)
    lines = ["line 2", "line 3", "line 4", "line 5"]
    assert list(found) == ["gone.png", *lines]
    assert "No such file or directory" in found["gone.png"]
    assert all("no 'path'" in found[line] for line in lines)


@pytest.mark.parametrize(
    ("name", "content", "fact"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"\n", "it has: none"),
        ("a.csv", pictures.png(pictures.digits(1)[0]), "one picture (PNG)"),
        ("a.tsv", gzip.compress(b"path\na.png\n", mtime=0), "is compressed"),
        ("a.csv", b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        ("a.csv", b"id,file\n1,a.png\n", "it has: id, file"),
        ("a.csv", b"path\n", "no records"),
        ("a.csv", b'path\n"a.png\n', "unexpected end of data"),
        ("a.jsonl", b'{\n"path": "a.png"\n}\n', "is damaged"),
        ("a.jsonl", b'{"path": "\xff"}\n', "'utf-8' codec"),
    ],
)
def test_damaged_or_incomplete_manifest_is_refused(
    tmp_path: Path, index_folder: Path, name: str, content: bytes, fact: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidSource) as raised:
        scored(tmp_path / name, index_folder)
    assert f"'{tmp_path / name}'" in raised.value.message
    assert fact in raised.value.message


# NumPy archives


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_file_of_one_array_is_read(tmp_path: Path, index_folder: Path, save: Any) -> None:
    save(tmp_path / "images.npz", IMAGES)
    check_source(tmp_path / "images.npz", ImageSpec("ink"))
    np.testing.assert_array_equal(images(scored(tmp_path / "images.npz", index_folder)), IMAGES)
