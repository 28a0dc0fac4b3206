"""Names that are sorted with only some of them in memory."""

from hypothesis import given
from hypothesis import strategies as st

from worker.sources.sorting import in_order


@given(st.lists(st.text(st.characters(), max_size=5), max_size=40), st.integers(1, 50))
def test_names_come_in_their_order_however_few_are_held(names: list[str], at_a_time: int) -> None:
    assert list(in_order(names, at_a_time)) == sorted(names)


def test_names_that_are_no_text_stay_what_they_are() -> None:
    names = ["b\udcff.png", "a\nb.png", "ü.png"]

    assert list(in_order(names, 1)) == sorted(names)
