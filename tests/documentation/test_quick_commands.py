"""The documented commands that take seconds, page by page."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.documentation.places import FIRST_STEPS, QUICK, commands_at
from tests.documentation.world import World, shell_environment, terminal
from tests.support.command import Loupe
from tests.support.shell_examples import Command

DELETE = "loupe models delete TAG"
PAGES = sorted({command.page for command in commands_at(QUICK)})
# Commands that need a new folder; further slices add to one.
NEW_RESULT = r"^loupe score (?!.*(--slice [1-9]|--finish)).*--out|^loupe models export"
# Commands that end with an error, and its code.
REFUSED = {
    "loupe predict --model fashion-mnist": "Not a PNG",
    "loupe jobs cancel": "job_ended",
    "loupe jobs retry": "job_",
    "loupe score --resume": "nothing_to_resume",  # the job before is done
    "loupe models promote digits:g4": "not_better",
}


def quick_commands(page: str) -> list[Command]:
    """Return the commands of a page, without the one that runs the world."""
    return [
        command
        for command in commands_at(QUICK)
        if command.page == page and command.text not in (FIRST_STEPS, DELETE)
    ]


@pytest.mark.timeout(400)  # some train
@pytest.mark.parametrize("page", [page for page in PAGES if quick_commands(page)])
def test_commands_run(world: World, page: str, loupe: Loupe) -> None:
    for command in quick_commands(page):
        if re.search(NEW_RESULT, command.text):
            for result in world.folder.glob("results*"):
                shutil.rmtree(result) if result.is_dir() else result.unlink()
        ended = world.run(command, loupe)
        code = next((code for start, code in REFUSED.items() if command.text.startswith(start)), "")
        assert (ended.code == 0) == (not code), f"{command.text}: {ended}"
        assert code in ended.out + ended.err, f"{command.text}: {ended}"


def test_models_are_deleted_after_a_question(world: World) -> None:
    (command,) = (each for each in commands_at(QUICK) if each.text == DELETE)
    spare = Path(world.variables["BENTOML_HOME"], "models", "digits", "spare")
    assert spare.is_dir()

    with terminal("y\n") as answers:
        subprocess.run(
            ["bash", "-euc", command.text.replace("TAG", "digits:spare")],
            env=shell_environment(world.folder, **world.variables),
            stdin=answers,
            check=True,
        )

    assert not spare.exists()
