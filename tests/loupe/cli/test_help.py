"""Help, versions, next steps and suggestions of the command line."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup

from loupe import __version__
from loupe.cli import start
from loupe.cli.commands import HELP_OPTIONS
from loupe.cli.examples import EXAMPLES
from loupe.cli.main import COMMANDS, root
from loupe.models.store import StoredModel
from tests.support.command import Loupe
from tests.support.programs import run
from tests.support.stores import copied


def commands(group: TyperGroup, path: str = "") -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    """Yield all commands below a group, with their paths."""
    context = typer.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert isinstance(command, TyperCommand | TyperGroup)
        yield f"{path} {name}".strip(), command
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{path} {name}".strip())


ALL = dict(commands(root()))


def test_every_command_has_an_example() -> None:
    assert ALL.keys() == EXAMPLES.keys()


@pytest.mark.parametrize(
    ("path", "example"), [(path, line) for path, lines in EXAMPLES.items() for line in lines]
)
def test_example_is_a_valid_command_line(path: str, example: str) -> None:
    command = ALL[path]
    words = example.removeprefix(f"loupe {path}").split()
    context = command.make_context(
        path, words, parent=typer.Context(TyperGroup(name="loupe")), help_option_names=HELP_OPTIONS
    )
    assert isinstance(command, TyperGroup) or not context.args


@pytest.mark.parametrize("path", ["", *EXAMPLES])
def test_help_names_no_types_of_python(path: str, loupe: Loupe) -> None:
    shown = loupe(*path.split(), "-h")

    assert shown.code == 0
    assert not re.search(r"<\w+>|list\[|range|{[A-Z]", shown.out)
    assert re.search(r"--help\s+-h", shown.out)
    assert all(example in shown.out for example in EXAMPLES.get(path, ()))


def test_help_lists_every_command_below_its_task(loupe: Loupe) -> None:
    shown = loupe("--help").out

    assert all(re.search(rf"^│ {name} ", shown, re.MULTILINE) for name in COMMANDS)
    assert all(f"─ {entry.panel} ─" in shown for entry in COMMANDS.values())


def test_version_is_printed(loupe: Loupe) -> None:
    assert loupe("--version").out == f"loupe {__version__}\n"
    assert run("-V").stdout == f"loupe {__version__}\n"


def test_next_step_in_an_empty_store_is_training(store: Path, loupe: Loupe) -> None:
    shown = loupe()
    assert shown.code == 0
    assert "loupe train" in shown.out
    assert "loupe predict" not in shown.out


def test_next_step_without_training_is_its_installation(
    store: Path, loupe: Loupe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "find_spec", lambda name: None)
    shown = loupe()
    assert shown.code == 0
    assert "[train]" in shown.out
    assert "loupe up" not in shown.out


def test_next_step_with_a_model_is_its_use(
    store: Path, loupe: Loupe, digits_model: StoredModel
) -> None:
    tag = copied(digits_model, store).tag
    shown = loupe().out
    assert tag in shown
    assert "loupe predict" in shown
    assert "loupe train" not in shown


@pytest.mark.parametrize(
    ("command", "meant"),
    [
        ("serv", "'serve'"),
        ("models compar mnist", "'compare'"),
        ("train swep", "'sweep'"),
        ("promote mnist", "'models promote'"),
        ("train mnits", "mnist"),
        ("train digits --architectur cnn", "--architecture"),
    ],
)
def test_mistyped_words_get_a_suggestion(command: str, meant: str, loupe: Loupe) -> None:
    ended = loupe(*command.split())

    assert ended.code == 2
    assert meant in ended.err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_offers_commands(shell: str) -> None:
    words = {"COMP_WORDS": "loupe mod", "COMP_CWORD": "1", "_TYPER_COMPLETE_ARGS": "loupe mod"}
    completed = run(
        _LOUPE_COMPLETE=f"complete_{shell}", _TYPER_COMPLETE_FISH_ACTION="get-args", **words
    )
    assert "models" in completed.stdout
