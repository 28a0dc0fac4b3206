"""Memory without the garbage collector.

Objects that only the collector can free stay long in a program that allocates little.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect garbage once, then disable the collector while the block runs."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
