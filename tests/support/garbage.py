"""Memory without the garbage collector's help: what only that would find stays long in a program that makes little garbage."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Until the block ends, no garbage is collected; what there was before is."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
