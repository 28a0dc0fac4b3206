"""Work in a pool of threads that runs ahead of whoever takes its results, but not far."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(
    executor: Executor, work: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
    """Results in the order of the items, as `Executor.map` gives them, which however takes all items at once.

    Args:
        executor: What runs the work.
        work: What is done with an item.
        items: They are taken one by one.
        ahead: Most items whose results nobody has taken yet.
    """
    under_way: deque[Future[R]] = deque()
    try:
        for item in items:
            if len(under_way) == ahead:
                yield under_way.popleft().result()
            under_way.append(executor.submit(work, item))
        while under_way:
            yield under_way.popleft().result()
    finally:
        for future in under_way:
            future.cancel()
