"""The service's log, as text or JSON, with the ID of the request in each line."""

import logging
from contextvars import ContextVar

import loupe.logs
from loupe.logs import LogFormatter
from loupe.text import one_line

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
TRACE_ID: ContextVar[str | None] = ContextVar("trace_id", default=None)  # if requests are traced


class JsonFormatter(loupe.logs.JsonFormatter):
    """One JSON object per line, with the IDs of the request and the trace."""

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """Return the IDs that are known, and the fields of the access log."""
        ids = {"request_id": REQUEST_ID.get(), "trace_id": TRACE_ID.get()}
        known = {name: value for name, value in ids.items() if value is not None}
        return known | getattr(record, "fields", {})


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
