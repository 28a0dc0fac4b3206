"""Sorting of more names than memory should hold."""

import heapq
import json
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import islice
from typing import IO

MAX_NAMES = 50_000  # in memory


def sort_names(names: Iterable[str], max_names: int = MAX_NAMES) -> Iterator[str]:
    """Yield the names in order; keep at most `max_names` in memory, the others in files."""
    names = iter(names)
    chunk = sorted(islice(names, max_names))
    if len(chunk) < max_names:
        yield from chunk
        return
    with ExitStack() as stack:
        runs = []
        while chunk:
            runs.append(_store(chunk, stack.enter_context(tempfile.TemporaryFile("w+"))))
            chunk = sorted(islice(names, max_names))
        yield from heapq.merge(*runs)


def _store(names: list[str], file: IO[str]) -> Iterator[str]:
    # JSON, because names may contain line breaks and bytes that are not text.
    file.writelines(json.dumps(name) + "\n" for name in names)
    file.seek(0)
    return map(json.loads, file)
