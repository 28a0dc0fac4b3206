"""A lock for work that one process does at a time and another may continue."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from loupe.errors import Conflict, NotWritable
from loupe.files import lock


@contextmanager
def locked(file: Path, work: str, code: str) -> Iterator[None]:
    """Hold a lock on a file while the block runs; it ends with its process.

    Args:
        file: Created if it does not exist; its folder must exist.
        work: What another process would do, for the error.
        code: Code of that error.

    Raises:
        Conflict: If another process holds the lock.
        NotWritable: If the file cannot be opened.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(file, wait=False))
        except BlockingIOError:
            message = f"Another process {work}. Wait until it ends."
            raise Conflict(message, code=code) from None
        except OSError as error:
            raise NotWritable(f"'{file}' cannot be locked: {error}.") from error
        yield
