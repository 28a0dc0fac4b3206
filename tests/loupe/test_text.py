"""Text from strangers: nothing of it is obeyed by a terminal, and JSON keeps its meaning."""

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.text import duration, one_line, visible


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("shirt", "shirt"),
        ("シャツ\u3000大 é\xa0€", "シャツ\u3000大 é\xa0€"),
        ("\x1b[31mred\x07", r"\u001b[31mred\u0007"),
        ("a\nb\r\tc", r"a\nb\r\tc"),
        ("\x9b2J", r"\u009b2J"),
        ("\u202egpj.exe\u2069", r"\u202egpj.exe\u2069"),
        ("zero\u200bwidth\ufeff", r"zero\u200bwidth\ufeff"),
        ("line\u2028paragraph\u2029", r"line\u2028paragraph\u2029"),
        ("\udce9", r"\udce9"),
        ("[bold]x[/]", "[bold]x[/]"),
    ],
)
def test_what_is_not_visible_is_escaped(text: str, expected: str) -> None:
    assert one_line(text) == expected


@given(st.text(st.characters()))
def test_nothing_invisible_is_left_and_json_keeps_its_meaning(text: str) -> None:
    escaped = one_line(json.dumps({"name": text}, ensure_ascii=False))

    assert json.loads(escaped) == {"name": text}
    assert not {unicodedata.category(letter) for letter in escaped} & {"Cc", "Cf", "Zl", "Zp", "Cs"}
    assert one_line(escaped) == escaped


def test_line_breaks_can_be_kept() -> None:
    assert visible("a\n\x1bb") == "a\n\\u001bb"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 0 s"),
        (200, "3 min 20 s"),
        (3_600, "1 h 0 min"),
        (7_510, "2 h 5 min"),
    ],
)
def test_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
