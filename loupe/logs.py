"""The log of every program, on standard error as text or as JSON."""

import json
import logging
import sys
import threading
from datetime import UTC, datetime
from types import TracebackType

from loupe.runtime.stray_lines import filter_stderr
from loupe.settings import LogFormat
from loupe.text import one_line, visible

logger = logging.getLogger(__name__)


class LogFormatter(logging.Formatter):
    """A formatter that writes a message as one line, and indents the lines of a traceback."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of the message, and the traceback if there is one."""
        lines = super().format(record)
        message = self.formatMessage(record)
        traceback = lines.removeprefix(message)
        return one_line(message) + visible(traceback.replace("\n", "\n  "))


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `message` and further fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **self.fields(record),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return one_line(json.dumps(line, ensure_ascii=False))

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """Return further fields of the line."""
        return {}


def log_to_stderr(style: LogFormat = "text") -> None:
    """Show the log, and only warnings of noisy libraries."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else LogFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("tf2onnx", "absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    if style == "json":
        log_everything()


def log_everything() -> None:
    """Put what is not logged into the JSON log: errors that end a thread, warnings, stray lines."""
    logging.captureWarnings(True)
    sys.excepthook = _log_crash
    threading.excepthook = lambda crash: _log_crash(
        crash.exc_type, crash.exc_value or crash.exc_type(), crash.exc_traceback
    )
    filter_stderr()


def _log_crash(
    kind: type[BaseException], error: BaseException, traceback: TracebackType | None
) -> None:
    logger.critical("%s: %s", kind.__name__, error, exc_info=(kind, error, traceback))
