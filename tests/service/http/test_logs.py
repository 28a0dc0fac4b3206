"""Lines of the log."""

import json
import logging
import sys

import pytest

from service.http.logs import REQUEST_ID, JsonFormatter, TextFormatter


def record(message: str, **about: object) -> logging.LogRecord:
    made = logging.LogRecord("bentoml.loupe", logging.INFO, "", 0, message, (), None)
    for name, value in about.items():
        setattr(made, name, value)
    return made


def test_a_line_of_json_holds_time_level_logger_message_and_request_id() -> None:
    token = REQUEST_ID.set("7")
    line = json.loads(JsonFormatter().format(record("größer\nals", fields={"status": 200})))
    REQUEST_ID.reset(token)

    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "info",
        "logger": "bentoml.loupe",
        "message": "größer\nals",
        "request_id": "7",
        "status": 200,
    }


def test_an_error_has_its_traceback_within_the_line() -> None:
    try:
        raise ValueError("no")
    except ValueError:
        line = JsonFormatter().format(record("failed", exc_info=sys.exc_info()))

    assert "\n" not in line
    assert json.loads(line)["error"].endswith("ValueError: no")
    assert "request_id" not in json.loads(line)


def test_a_line_for_people_ends_with_the_request_id() -> None:
    formatter = TextFormatter()
    assert formatter.format(record("ready")).endswith(" ready")
    token = REQUEST_ID.set("7")
    assert formatter.format(record("ready")).endswith(" ready [7]")
    REQUEST_ID.reset(token)


@pytest.mark.parametrize("formatter", [TextFormatter(), JsonFormatter()])
def test_names_cannot_write_lines_or_control_a_terminal(formatter: logging.Formatter) -> None:
    try:
        raise ValueError("x\nERROR forged \x1b[2J")
    except ValueError:
        line = formatter.format(record("a\n2026 ERROR forged \x9b\u202e", exc_info=sys.exc_info()))

    assert not {"\x1b", "\x9b", "\u202e"} & set(line)
    assert all(each.startswith("  ") for each in line.split("\n")[1:])
