"""Sorting of names with few of them in memory."""

from hypothesis import given
from hypothesis import strategies as st

from worker.sources.folders import sort_names


@given(st.lists(st.text(st.characters(), max_size=5), max_size=40), st.integers(1, 50))
def test_names_are_sorted_with_any_memory(names: list[str], max_names: int) -> None:
    assert list(sort_names(names, max_names)) == sorted(names)


def test_names_that_are_not_text_do_not_change() -> None:
    names = ["b\udcff.png", "a\nb.png", "ü.png"]

    assert list(sort_names(names, 1)) == sorted(names)
