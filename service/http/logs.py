"""The service's log, as text or JSON, with the ID of the request in each line."""

import json
import logging
from contextvars import ContextVar
from datetime import UTC, datetime

from loupe.text import LogFormatter, one_line

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
TRACE_ID: ContextVar[str | None] = ContextVar("trace_id", default=None)  # if requests are traced


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `message`, and what else is known.

    That is `request_id`, `trace_id`, `error`, and the fields of the access log.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request_id := REQUEST_ID.get()) is not None:
            line["request_id"] = request_id
        if (trace_id := TRACE_ID.get()) is not None:
            line["trace_id"] = trace_id
        line |= getattr(record, "fields", {})
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return one_line(json.dumps(line, ensure_ascii=False))


class TextFormatter(LogFormatter):
    """A line of text that ends with the ID of the request."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line = super().format(record)
        request_id = REQUEST_ID.get()
        return line if request_id is None else f"{line} [{one_line(request_id)}]"


def set_up_log(style: str) -> None:
    """Write all logs, also BentoML's and uvicorn's, to standard error as `text` or `json`."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    for name in ("service", "bentoml"):
        logging.getLogger(name).setLevel(logging.INFO)
    logging.getLogger("bentoml.serve").setLevel(logging.WARNING)  # it logs every step of a start
    formatter = JsonFormatter() if style == "json" else TextFormatter()
    for name in ("bentoml", "uvicorn.error", ""):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
