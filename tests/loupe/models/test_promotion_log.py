"""The log of promotions: lines are read in order, never half written, and never lost."""

import resource
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.errors import NotWritable
from loupe.models.promotion_log import (
    Kind,
    PromotedFigures,
    Promotion,
    pointers,
    read,
    standing,
    writing,
)

FIGURES = PromotedFigures(accuracy=0.9, loss=0.3, calibration_error=0.01, test_digest="same")


def moved(
    to: str, kind: Kind = "promote", *, name: str = "letters", label: str = "production"
) -> Promotion:
    return Promotion(
        time=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        kind=kind,
        name=name,
        label=label,
        from_version=None,
        to_version=to,
        from_figures=None,
        to_figures=FIGURES,
        forced=False,
    )


def log(path: Path, *promotions: Promotion) -> None:
    with writing(path) as opened:
        for promotion in promotions:
            opened.append(promotion)


def test_appended_lines_are_read_in_order(tmp_path: Path) -> None:
    path = tmp_path / "loupe" / "promotions.jsonl"
    assert read(path) == []
    log(path, moved("a"))
    log(path, moved("b"), moved("a", "rollback"))

    assert read(path) == [moved("a"), moved("b"), moved("a", "rollback")]
    with writing(path) as opened:
        assert opened.history == read(path)
    assert path.read_text().count("\n") == 3


def test_line_is_json_that_anyone_can_read(tmp_path: Path) -> None:
    log(tmp_path / "log", moved("a"))

    assert (tmp_path / "log").read_text() == (
        '{"time":"2026-01-02T03:04:05Z","kind":"promote","name":"letters","label":"production",'
        '"from_version":null,"to_version":"a","from_figures":null,"to_figures":{"accuracy":0.9,'
        '"loss":0.3,"calibration_error":0.01,"test_digest":"same"},"forced":false}\n'
    )


@given(st.lists(st.text("ab", min_size=1, max_size=2), max_size=4), st.integers(0, 400))
def test_truncated_log_keeps_whole_lines_and_accepts_new_ones(
    tmp_path_factory: pytest.TempPathFactory, versions: list[str], cut: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "log"
    log(path, *map(moved, versions))
    data = path.read_bytes()
    path.write_bytes(data[: max(0, len(data) - cut)])

    whole = path.read_bytes().count(b"\n")
    assert read(path) == [moved(version) for version in versions[:whole]]
    log(path, moved("new"))
    assert read(path) == [*(moved(version) for version in versions[:whole]), moved("new")]
    assert path.read_bytes().endswith(b"\n")


def test_invalid_lines_are_skipped_and_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "log"
    log(path, moved("a"))
    path.write_bytes(b'{"time": 3}\n\xff\xfe\n' + path.read_bytes() + b'{"time":"2026')

    assert read(path) == [moved("a")]
    assert caplog.messages == [
        f"{path}: skipped line 1, which is not a promotion",
        f"{path}: skipped line 2, which is not a promotion",
        f"{path}: skipped the last line, which is incomplete",
    ]


def test_last_line_of_a_name_and_label_decides_where_it_points() -> None:
    history = [moved("a"), moved("z", name="digits"), moved("b"), moved("a", label="trial")]

    assert {key: promotion.to_version for key, promotion in pointers(history).items()} == {
        ("letters", "production"): "b",
        ("digits", "production"): "z",
        ("letters", "trial"): "a",
    }


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        pytest.param([], "", id="nothing"),
        pytest.param([moved("a"), moved("b"), moved("c")], "abc", id="promotions"),
        pytest.param([moved("a"), moved("b"), moved("a", "rollback")], "a", id="a rollback"),
        pytest.param(
            [moved("a"), moved("b"), moved("a", "rollback"), moved("c")],
            "ac",
            id="another after a rollback",
        ),
        pytest.param(
            [moved("a"), moved("b"), moved("c"), moved("a", "rollback")],
            "a",
            id="two steps at once",
        ),
        pytest.param([moved("a"), moved("b"), moved("a")], "aba", id="there and back by promotion"),
        pytest.param(
            [moved("b"), moved("a", "rollback")],
            "a",
            id="a rollback to a version that no line names",
        ),
        pytest.param(
            [moved("a"), moved("b", name="digits"), moved("c", label="trial")], "a", id="others"
        ),
    ],
)
def test_standing_excludes_rolled_back_versions(history: list[Promotion], expected: str) -> None:
    assert standing(history, "letters", "production") == list(expected)


def test_processes_that_promote_at_once_lose_no_line(tmp_path: Path) -> None:
    path = tmp_path / "log"
    code = (
        "import sys; from pathlib import Path\n"
        "from tests.loupe.models.test_promotion_log import log, moved\n"
        "for number in range(25): log(Path(sys.argv[1]), moved(f'{sys.argv[2]}{number}'))"
    )
    writers = [subprocess.Popen([sys.executable, "-c", code, str(path), letter]) for letter in "ab"]

    assert [writer.wait(50) for writer in writers] == [0, 0]
    written = [promotion.to_version for promotion in read(path)]
    assert sorted(written) == sorted(f"{letter}{number}" for letter in "ab" for number in range(25))


def test_full_disk_leaves_the_log_unchanged(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log(path, moved("a"))
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with writing(path) as opened:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (len(before) + 20, limits[1])
        )  # a part of the next line fits
        try:
            with pytest.raises(NotWritable) as raised:
                opened.append(moved("b"))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert raised.value.code == "store_unwritable"
    for fact in (str(path), "File too large", "BENTOML_HOME"):
        assert fact in raised.value.message
    assert path.read_bytes() == before
    log(path, moved("b"))
    assert read(path) == [moved("a"), moved("b")]


def test_unreadable_log_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "log").mkdir()

    with pytest.raises(NotWritable, match="Is a directory"):
        read(tmp_path / "log")
    with (
        pytest.raises(NotWritable, match="Is a directory"),
        writing(tmp_path / "log"),
    ):
        pass
