"""The shell commands in Markdown pages."""

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

PROGRAMS = {"bentoml", "brew", "cp", "curl", "docker", "export", "find", "git", "helm", "kubectl"}
PROGRAMS |= {"loupe", "make", "mkdir", "node", "perf_analyzer", "pip", "promtool", "python"}
PROGRAMS |= {"source", "sudo"}
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INDENTED = re.compile(r"(?<=\n\n)(?:    .*\n)+")
VARIABLE = re.compile(r"([A-Z_]+)=(.*)", re.DOTALL)
OF_THE_SHELL = ("export ", "source ")  # commands that matter to the next ones


@dataclass(frozen=True)
class Command:
    """A command of a page.

    Attributes:
        text: As the page has it, without a comment.
        variables: Those that it sets in front of the program.
        words: The program and its arguments, up to a pipe or a list of commands.
        page: The name of the page.
        before: The `export` and `source` commands above it in its block, one per line.
    """

    text: str
    variables: dict[str, str]
    words: list[str]
    page: str = ""
    before: str = ""

    @property
    def synopsis(self) -> bool:
        """Return whether it describes choices rather than being a command."""
        return bool(re.search(r"(^| )\[|…", self.text)) and "'" not in self.text


def commands(page: Path) -> Iterator[Command]:
    """Yield the shell commands of a page in its order."""
    text = page.read_text(encoding="utf-8")
    blocks = [(found.start(), found[1], found[2]) for found in FENCED.finditer(text)]
    plain = FENCED.sub(lambda found: "x" * len(found[0]), text)
    for found in INDENTED.finditer(plain):
        blocks.append((found.start(), "", re.sub(r"^    ", "", found[0], flags=re.MULTILINE)))
    for _, language, code in sorted(blocks):
        if language == "sh" or (not language and _is_shell(code)):
            lines = list(_lines(code))
        elif language == "cron":
            entries = (line for line in code.splitlines() if not line.startswith("#"))
            lines = [entry.split(maxsplit=5)[5] for entry in entries]
        else:
            continue
        before = ""
        for line in lines:
            yield replace(command_of(line), page=page.name, before=before)
            if line.startswith(OF_THE_SHELL):
                before += f"{line}\n"


def code_of(page: Path, language: str) -> list[str]:
    """Return the fenced code of a language on a page."""
    blocks = FENCED.findall(page.read_text(encoding="utf-8"))
    return [code for found, code in blocks if found == language]


def inline_commands(page: Path) -> Iterator[list[str]]:
    """Yield the arguments of `loupe` in the text and the tables of a page."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    for found in re.findall(r"`loupe ([a-z][^`]*)`", text):
        yield found.split()


def _is_shell(code: str) -> bool:
    first = code.splitlines()[0]
    words = [word for word in first.removeprefix("$ ").split() if not VARIABLE.fullmatch(word)]
    return bool(words) and words[0] in PROGRAMS


def _lines(code: str) -> Iterator[str]:
    """Yield whole commands; those of a transcript follow a dollar sign."""
    lines = code.splitlines()
    if any(line.startswith("$ ") for line in lines):
        yield from (line[2:] for line in lines if line.startswith("$ "))
        return
    whole = ""
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if not whole and line.startswith("{"):  # an answer
            continue
        whole += f"{line}\n"
        try:
            words = shlex.split(whole, comments=True)
        except ValueError:  # within quotation marks
            continue
        if not line.endswith("\\") and not following.startswith("  ") and words:
            yield whole.strip()
            whole = ""


def command_of(text: str) -> Command:
    """Return a command from its text."""
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    words: list[str] = []
    for word in lexer:
        if set(word) <= set("|;&<>"):
            break
        words.append(word)
    variables = {}
    while words and (found := VARIABLE.fullmatch(words[0])):
        variables[found[1]] = found[2]
        words.pop(0)
    return Command(re.sub(r" +# .*", "", text), variables, words)
