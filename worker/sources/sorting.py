"""Names in order, more of them than memory should hold."""

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import IO

NAMES = 50_000  # in memory at a time


def in_order(names: Iterable[str], at_a_time: int = NAMES) -> Iterator[str]:
    """The names, sorted; all but some are kept in temporary files meanwhile.

    Args:
        names: In any order.
        at_a_time: How many are held in memory.
    """
    names = iter(names)
    chunk = sorted(islice(names, at_a_time))
    if len(chunk) < at_a_time:
        yield from chunk
        return
    with ExitStack() as stack:
        runs = []
        while chunk:
            runs.append(_kept(chunk, stack.enter_context(tempfile.TemporaryFile("w+"))))
            chunk = sorted(islice(names, at_a_time))
        yield from heapq.merge(*runs)


def _kept(names: list[str], file: IO[str]) -> Iterator[str]:
    file.writelines(
        json.dumps(name) + "\n" for name in names
    )  # a name may have line breaks, and bytes that are no text
    file.seek(0)
    return map(json.loads, file)
