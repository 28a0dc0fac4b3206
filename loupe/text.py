"""Text from strangers on its way to a terminal or a log.

Names of files, columns, classes, models, jobs and hosts, and the messages that quote them, may hold
anything: colours, cursor movements, line breaks, letters that run backwards.
"""

import json
import logging
import unicodedata


def one_line(text: str) -> str:
    r"""Escape what is not visible, such as line breaks, as JSON does: `\n`, `\u001b`.

    JSON text keeps its meaning, because what is escaped occurs only within its strings.
    """
    if text.isprintable():
        return text
    return "".join(
        letter
        if letter.isprintable() or unicodedata.category(letter) == "Zs"  # spaces of any width
        else json.dumps(letter)[1:-1]
        for letter in text
    )


def visible(text: str) -> str:
    """Escape what is not visible, but keep line breaks."""
    return "\n".join(map(one_line, text.split("\n")))


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


def log_to_stderr() -> None:
    """Show the log, and only warnings of noisy libraries."""
    handler = logging.StreamHandler()
    handler.setFormatter(LogFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("tf2onnx", "absl", "tensorflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
