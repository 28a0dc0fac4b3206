"""What every subcommand writes to: results to standard output, notices and the log to standard error."""

import logging

from rich.console import Console

console = Console()
notices = Console(stderr=True)


def log_to_stderr() -> None:
    """Show the log, without the chatter of the libraries."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    for name in ("tf2onnx", "absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
