"""Each documented command is run by one test or listed with a reason, and names what there is."""

from pathlib import Path

import pytest
from typer.exceptions import TyperException

from loupe.errors import InvalidSetting
from tests.documentation.places import (
    API_EXAMPLES,
    NONE,
    NOWHERE,
    PAGES,
    PLACES,
    ROOT,
    all_commands,
    commands_at,
)
from tests.e2e.service import test_http_api_docs
from tests.support.command_checks import check, check_loupe
from tests.support.shell_examples import command_of, commands, inline_commands


def test_every_command_is_run_or_listed() -> None:
    counts = {place: len(commands_at(place)) for place in PLACES}

    assert sum(counts.values()) == len(all_commands())
    assert [place.test for place, count in counts.items() if not count] == []
    assert {command.text for command in commands_at(NONE)} == NOWHERE.keys()
    assert [place.test for place in PLACES if not (ROOT / "tests" / place.test).exists()] == []


def test_examples_of_the_http_api_are_run() -> None:
    code = "".join(example.code for example in test_http_api_docs.EXAMPLES)
    assert [each.text for each in commands_at(API_EXAMPLES) if each.text not in code] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_there_is(page: Path) -> None:
    for command in commands(page):
        if "modles" not in command.text:  # an example of an error
            check(command)
    for words in inline_commands(page):
        check_loupe(words, synopsis=True)


@pytest.mark.parametrize(
    "text",
    [
        "loupe scoer photos/ --out results/",
        "loupe score photos/ --outt results/",
        "loupe score photos/ --format xlsx",
        "loupe serve --port many",
        "LOUPE_PROT=8080 loupe serve",
        "LOUPE_PORT=many loupe serve",
        "docker compose run --rm worker score /data --out=/x --formt csv",
        "make demoo",
        "curl localhost:3000/predicted",
        "curl 'localhost:3000/predict?modle=digits'",
        "pip install -e '.[workers]'",
    ],
)
def test_wrong_commands_are_found(text: str) -> None:
    with pytest.raises((AssertionError, TyperException, ValueError, InvalidSetting)):
        check(command_of(text))
