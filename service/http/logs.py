"""The service's log: lines for people, or JSON for programs; each with the id of the request that it belongs to."""

import json
import logging
from contextvars import ContextVar
from datetime import datetime, timezone

REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)
TRACE_ID: ContextVar[str | None] = ContextVar("trace_id", default=None)  # where requests are traced


class JsonFormatter(logging.Formatter):
    """One JSON object per line: `time`, `level`, `logger`, `message`, `request_id`, `trace_id`, `error`, and the fields of an access."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(
                timespec="milliseconds"
            ),
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
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """A line for people, with the id of its request at the end."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line = super().format(record)
        request_id = REQUEST_ID.get()
        return line if request_id is None else f"{line} [{request_id}]"


def set_up_log(style: str) -> None:
    """Have everything that is logged, by BentoML and uvicorn too, written to standard error as `text` or `json`."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(logging.StreamHandler())
    logging.getLogger("bentoml").setLevel(logging.INFO)
    logging.getLogger("bentoml.serve").setLevel(
        logging.WARNING
    )  # it tells every step of starting and stopping
    formatter = (
        JsonFormatter()
        if style == "json"
        else TextFormatter("%(asctime)s %(levelname)s %(name)s %(message)s")
    )
    for name in ("bentoml", "uvicorn.error", ""):
        for handler in logging.getLogger(name).handlers:
            handler.setFormatter(formatter)
