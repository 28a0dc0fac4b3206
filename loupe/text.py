"""Text for people: foreign text, made safe for a terminal or a log, and durations.

Names of files, columns, classes, models, jobs and hosts, and the messages that quote them, may hold
anything: colours, cursor movements, line breaks, letters that run backwards.
"""

import json
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


def duration(seconds: float) -> str:
    """Return a duration in the two largest units, rounded: `4 s`, `3 min 20 s`, `2 h 5 min`."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, left = divmod(minutes, 60)
    return f"{hours} h {left} min" if hours else f"{minutes} min {rest} s"
