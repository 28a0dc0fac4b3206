"""Work that runs ahead of its results, but not far."""

from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor

import pytest

from worker.scoring.lookahead import map_ahead


@pytest.fixture
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


def test_results_come_in_the_order_of_the_items(executor: Executor) -> None:
    assert list(map_ahead(executor, lambda item: item * item, range(100), 7)) == [
        item * item for item in range(100)
    ]


def test_nothing_comes_of_nothing(executor: Executor) -> None:
    assert list(map_ahead(executor, str, [], 7)) == []


def test_no_more_items_are_taken_than_may_be_ahead(executor: Executor) -> None:
    taken = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    results = map_ahead(executor, str, items(), 7)
    for count in range(1, 50):
        next(results)
        assert len(taken) <= count + 7


def test_what_an_item_raises_is_raised_in_its_turn(executor: Executor) -> None:
    results = map_ahead(executor, lambda item: 1 / (item - 2), range(10), 7)

    assert [next(results), next(results)] == [-0.5, -1.0]
    with pytest.raises(ZeroDivisionError):
        next(results)
