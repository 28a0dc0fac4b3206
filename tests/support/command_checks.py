"""Checks of documented commands that do not run them: programs, options, values and routes."""

import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import typer
import yaml

from loupe.cli.main import root
from loupe.settings import ENV_PREFIX, Settings
from tests.support.shell_examples import Command

ROOT = Path(__file__).parents[2]
OURS = ("service", "worker", "train")  # containers whose program is `loupe`
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
API = yaml.safe_load((ROOT / "service/web/openapi.yaml").read_text())
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def check(command: Command) -> None:
    """Raise an error if a command names something that there is not."""
    known = {
        name.removeprefix(ENV_PREFIX).lower(): value
        for name, value in command.variables.items()
        if name.startswith(ENV_PREFIX)
    }
    assert set(known) <= set(Settings.model_fields), command.text
    if "…" not in command.text:
        Settings.model_validate(known)
    program, *words = command.words or ["export"]
    if program == "loupe":
        check_loupe(words, command.synopsis)
    elif program == "make":
        assert set(words) <= TARGETS, command.text
    elif program == "curl":
        _check_curl(words)
    elif program == "docker" and "run" in words and words[0] == "compose":
        rest = [word for word in words[words.index("run") + 1 :] if not word.startswith("-")]
        if rest[0] in OURS:
            check_loupe(words[words.index(rest[0]) + 1 :])
    elif program in ("pip", "uv"):
        extras = re.findall(r"\[([a-z,0-9]+)\]", " ".join(words))
        assert {each for names in extras for each in names.split(",")} <= set(
            PROJECT["optional-dependencies"]
        ), command.text
    elif program == "python" and words[0] == "-m":
        assert importlib.util.find_spec(words[1]), command.text


def check_loupe(words: list[str], synopsis: bool = False) -> None:
    """Check the subcommand of `loupe`, the names of its options, and their values."""
    command: Any = root()
    context = typer.Context(command, info_name="loupe")
    words = list(words)
    while words and hasattr(command, "list_commands"):
        inner = command.get_command(context, words[0])
        if inner is None:
            break
        command, context = inner, typer.Context(inner, info_name=words.pop(0), parent=context)
    parameters = command.get_params(context)
    if synopsis:
        options = {name for each in parameters for name in (*each.opts, *each.secondary_opts)}
        named = set(re.findall(r"(?<![\w-])--[a-z-]+", " ".join(words)))
        assert named <= options, f"{named - options} of {context.command_path}"
        return
    if "--help" not in words and "completion" not in " ".join(words):
        with context.scope():
            command.parse_args(context, words)
        # A group keeps the name of a subcommand, which would have been found above.
        assert not getattr(context, "_protected_args", ()), f"{words} of {context.command_path}"


def _check_curl(words: list[str]) -> None:
    """Check the paths and the query parameters of a request."""
    for word in words:
        if not re.match(r"(http://)?localhost:3000", word):
            continue
        url = urlsplit(word if "//" in word else f"//{word}")
        routes = list(_routes(url.path or "/"))
        assert routes, f"no route for {word}"
        shared = API["components"]["parameters"]
        names = {
            (shared[each["$ref"].rpartition("/")[2]] if "$ref" in each else each)["name"]
            for route in routes
            for operation in route.values()
            if isinstance(operation, dict)
            for each in operation.get("parameters", ())
        }
        assert set(parse_qs(url.query)) <= names, word


def _routes(path: str) -> Iterator[dict[str, Any]]:
    for template, route in API["paths"].items():
        if re.fullmatch(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(template)), path):
            yield route
