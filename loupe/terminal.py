"""What every subcommand writes to: results to standard output, notices and the log to standard error."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

console = Console()
notices = Console(stderr=True)


def log_to_stderr() -> None:
    """Show the log, without the chatter of the libraries."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("tf2onnx", "absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def warnings_as_notices() -> Iterator[None]:
    """For commands that show no log: what it warns of in this block, each once and on a line of its own."""
    logger, handler = logging.getLogger("loupe"), _Notices(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Notices(logging.Handler):
    """Shows each message once."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._shown: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._shown:
            self._shown.add(message)
            notices.print("[yellow]notice:[/]", end=" ")
            notices.print(message, markup=False, highlight=False, soft_wrap=True)
