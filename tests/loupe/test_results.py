"""Results as one file of any format, with the same rows as if written in that format."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loupe.images.spec import Float32Array
from loupe.jobs import ScoringOptions
from loupe.results import Format, find_result, merge_files
from worker.results import formats
from worker.sources.source import ColumnTypes

CLASSES = ["T-shirt/top", "Ärmel, lang", '"0"', "label_2"]
KINDS: list[Format] = ["parquet", "csv", "jsonl"]
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)


def probabilities(count: int) -> Float32Array:
    return np.random.default_rng(count).dirichlet(np.ones(len(CLASSES)), count).astype(np.float32)


def types_of(ids: list[str] | list[int]) -> ColumnTypes:
    return ColumnTypes(pa.int64() if ids and isinstance(ids[0], int) else pa.string())


def in_parts(
    folder: Path,
    kind: Format,
    ids: list[str] | list[int],
    sizes: list[int],
    options: ScoringOptions,
) -> tuple[list[Path], Float32Array]:
    """Write the rows of a result into several files; return them and the probabilities."""
    found, paths, start = probabilities(len(ids)), [], 0
    for number, size in enumerate([*sizes, len(ids) - sum(sizes)]):
        paths.append(folder / f"predictions-{number:05}-of-{len(sizes) + 1:05}.{kind}")
        rows = slice(start, start + size)
        table = formats.table(ids[rows], found[rows], CLASSES, options, types=types_of(ids))
        formats.write(table, paths[-1], kind)
        start += size
    return paths, found


def assert_same_rows(
    one: bytes, kind: Format, folder: Path, ids: list[str] | list[int], options: ScoringOptions
) -> None:
    """Check that a file has the rows as if all were written at once in its format."""
    table = formats.table(ids, probabilities(len(ids)), CLASSES, options, types=types_of(ids))
    formats.write(table, folder / "whole", kind)
    if kind != "parquet":
        assert one == (folder / "whole").read_bytes()
        return
    (folder / "one").write_bytes(one)
    assert pq.read_table(folder / "one").equals(pq.read_table(folder / "whole"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", KINDS)
@given(
    ids=st.lists(TEXTS, min_size=1, max_size=9)
    | st.lists(st.integers(0, 2**40), min_size=1, max_size=9),
    threshold=st.none() | st.floats(0, 1),
    top_k=st.integers(1, 5),
    with_probabilities=st.booleans(),
    cut=st.integers(0, 9),
)
@settings(max_examples=30)
def test_rows_are_the_same_in_every_format(
    tmp_path_factory: pytest.TempPathFactory,
    kind: Format,
    to: Format,
    ids: list[str] | list[int],
    threshold: float | None,
    top_k: int,
    with_probabilities: bool,
    cut: int,
) -> None:
    folder = tmp_path_factory.mktemp("results")
    options = ScoringOptions(
        format=kind, top_k=top_k, probabilities=with_probabilities, threshold=threshold
    )
    paths, _ = in_parts(folder, kind, ids, [0, min(cut, len(ids))], options)

    assert_same_rows(b"".join(merge_files(paths, kind, to)), to, folder, ids, options)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("to", KINDS)
def test_result_without_rows_is_an_empty_file_of_its_format(
    tmp_path: Path, kind: Format, to: Format
) -> None:
    paths, _ = in_parts(tmp_path, kind, [], [0], ScoringOptions(format=kind))
    columns = formats.column_names(CLASSES, ScoringOptions(), ColumnTypes())
    one = b"".join(merge_files(paths, kind, to, columns))

    assert_same_rows(one, to, tmp_path, [], ScoringOptions(format=kind))


def test_many_rows_are_sent_in_chunks(tmp_path: Path) -> None:
    ids = [f"images/{number}.png" for number in range(40_000)]
    paths, _ = in_parts(tmp_path, "parquet", ids, [15_000], ScoringOptions())
    for to in KINDS:
        chunks = list(merge_files(paths, "parquet", to))
        assert len(chunks) >= 3
        assert_same_rows(b"".join(chunks), to, tmp_path, ids, ScoringOptions())


def found(folder: Path, wanted: Format) -> tuple[Format, list[str]]:
    kind, files = find_result({path.name: path for path in folder.iterdir()}, wanted)
    return kind, [file.name for file in files]


def test_files_of_a_result_are_found_in_their_order(tmp_path: Path) -> None:
    assert found(tmp_path, "csv") == ("csv", [])
    paths, _ = in_parts(tmp_path, "csv", list(range(5)), [2, 2], ScoringOptions(format="csv"))
    names = [path.name for path in paths]
    assert found(tmp_path, "csv") == found(tmp_path, "parquet") == ("csv", names)
    (tmp_path / "predictions.csv").touch()
    assert found(tmp_path, "csv") == ("csv", ["predictions.csv"])


def test_concatenation_does_not_import_pyarrow(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('"id"\n1\n')
    script = (
        "import sys; from pathlib import Path; from loupe.results import merge_files;"
        f"paths = [Path({str(tmp_path / 'a.csv')!r})] * 2;"
        "print(*merge_files(paths, 'csv', 'csv'), 'pyarrow' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)

    assert ended.stdout == "b'\"id\"\\n1\\n' b'1\\n' False\n", ended.stderr
