"""Tables: what is left out of a narrow terminal, and lines that are not broken."""

import io
import json
import re
from collections.abc import Callable

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text

from loupe.errors import InvalidUsage, ProgramFailed
from loupe.terminal import (
    Column,
    Terminal,
    console,
    fitting,
    notices,
    print_error,
    print_sections,
    print_table,
    progress_bar,
    styled,
    table_lines,
)

COLUMNS = [
    Column("tag", ["digits:1", "mnist:22"]),  # 8 wide
    Column("data set", ["digits", "mnist"], rank=2),  # 8
    Column("test\naccuracy", ["0.9", "0.95"], rank=1, justify="right"),  # 8
    Column("size", ["1 MB", "大 MB"], rank=3),  # 5
]


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (100, ["tag", "data set", "test\naccuracy", "size"]),
        (35, ["tag", "data set", "test\naccuracy", "size"]),
        (34, ["tag", "data set", "test\naccuracy"]),
        (27, ["tag", "test\naccuracy"]),
        (17, ["tag"]),
        (1, ["tag"]),
    ],
)
def test_columns_of_the_highest_rank_are_left_out_first(width: int, expected: list[str]) -> None:
    assert [column.header for column in fitting(COLUMNS, width)] == expected


def test_columns_are_aligned_and_lines_have_no_trailing_spaces() -> None:
    header, rows = table_lines(COLUMNS)

    assert header == [
        "                        test",
        "tag       data set  accuracy  size",
    ]
    assert rows == [
        "digits:1  digits         0.9  1 MB",
        "mnist:22  mnist         0.95  大 MB",
    ]


def test_narrow_terminal_shows_which_columns_are_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table(COLUMNS, "See elsewhere.")

    words = capsys.readouterr()
    assert (
        words.out
        == "              test\ntag       accuracy\ndigits:1       0.9\nmnist:22      0.95\n"
    )
    assert words.err == "Too narrow for: data set, size. See elsewhere.\n"


def test_text_of_any_length_can_replace_the_cells_of_a_row(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table([COLUMNS[0], COLUMNS[2]], instead={0: "error: it could not be looked at"})

    assert capsys.readouterr().out.splitlines()[2:] == [
        "digits:1  error: it could not be looked at",
        "mnist:22      0.95",
    ]


def test_pipe_gets_all_columns_and_whole_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    print_table([Column("a", ["x" * 200]), Column("b", ["[bold]y[/]"], rank=1)])

    assert capsys.readouterr() == (f"a{' ' * 201}b\n{'x' * 200}  [bold]y[/]\n", "")


def test_long_values_wrap_between_words_only(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    print_sections(
        {
            "": {"folder": "/a/very/long/path/that-is-not-broken"},
            "data": {"class": "one two three four five", "no": ""},
        }
    )

    assert capsys.readouterr().out == (
        "  folder  /a/very/long/path/that-is-not-broken\n\n"
        "data\n  class   one two three four\n          five\n  no\n"
    )


@pytest.mark.parametrize("width", [80, 100, 140])
def test_progress_bar_shows_all_figures_with_labelled_times(width: int) -> None:
    console = Console(width=width, force_terminal=True, file=io.StringIO())
    bar = progress_bar("rate", "details", console=console)
    bar.add_task("  running", total=5000, completed=1700, rate="1,234/s", details="errors: 0")
    with console.capture() as captured:
        console.print(bar.get_renderable())

    line = " ".join(Text.from_ansi(captured.get()).plain.split())
    assert "1700/5000 1,234/s errors: 0 elapsed 0:00:00 left -:--:--" in line
    assert ("━" in line) == (width >= 90)


HOSTILE = "\x1b]0;title\x07[bold]a[/b]\n\x9b2J\u202e\u200b:smile:"
SHOWN = r"\u001b]0;title\u0007[bold]a[/b]\n\u009b2J\u202e\u200b:smile:"


def rich_table() -> Table:
    table = Table(HOSTILE, title=HOSTILE)
    table.add_row(HOSTILE)
    return table


def hostile_bar() -> None:
    with progress_bar("rate", console=notices) as bar:
        bar.add_task(HOSTILE, rate=HOSTILE)


def hostile_status() -> None:
    with notices.status(HOSTILE):
        pass


@pytest.mark.parametrize(
    "show",
    [
        lambda: console.print(HOSTILE),
        lambda: console.print(styled("a ", (HOSTILE, "bold"))),
        lambda: console.print(Text(HOSTILE)),
        lambda: print_table([Column(HOSTILE, [HOSTILE])], instead={0: HOSTILE}),
        lambda: print_sections({HOSTILE: {HOSTILE: HOSTILE}}),
        lambda: print_error(InvalidUsage(HOSTILE, code=HOSTILE)),
        lambda: print_error(ProgramFailed(f"{HOSTILE}\n{HOSTILE}")),
        lambda: console.print(rich_table()),
        hostile_bar,
        hostile_status,
    ],
)
def test_names_are_shown_as_they_are_and_control_nothing(
    show: Callable[[], None], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    show()

    shown = "".join(capsys.readouterr())
    assert not {"\x1b", "\x07", "\x9b", "\u202e", "\u200b"} & set(shown)
    assert "[bold]a[/b]" in shown or not shown


def test_names_on_a_terminal_are_shown_in_the_style_of_loupe_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    terminal._force_terminal = True
    with terminal.capture() as captured:
        terminal.print(styled("model ", (HOSTILE, "bold")))

    shown = captured.get()
    assert SHOWN in shown
    assert re.findall("\x1b.*?m", shown) in ([], ["\x1b[1m", "\x1b[0m"])


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_json(data={"name": HOSTILE})

    shown = capsys.readouterr().out
    assert not {"\x1b", "\x9b", "\u202e"} & set(shown)
    assert json.loads(shown) == {"name": HOSTILE}
