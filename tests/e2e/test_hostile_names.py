"""Names that hold markup, escape sequences and line breaks, in every command that shows names."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from tests.support import pictures
from tests.support.command import Ended, Loupe
from tests.support.stores import stored

NAME = "[bold]a[/b]c\x1b[31m\x07\x9b2J\u202egnp\u200b\ninfo: all is well [link=x]"
MARKUP = "[bold]a[/b]:smile: [link=x]"


def assert_harmless(ended: Ended, *, shown: bool = True) -> None:
    """Check that nothing but lines of visible text was printed, with the name's markup."""
    output = ended.out + ended.err
    categories = {unicodedata.category(letter) for letter in output if letter != "\n"}
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}
    assert not any(line.startswith("info: ") for line in output.splitlines())
    assert "[bold]a[/b]" in output or not shown


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch, loupe: Loupe, tmp_path: Path) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path / "data"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder whose name, and whose files' names, are hostile."""
    folder = tmp_path / NAME
    folder.mkdir(parents=True)
    for number, image in enumerate(pictures.digits(3)):
        (folder / f"{number}{NAME.partition('/')[0]}\x1b\n.png").write_bytes(pictures.png(image))
    (folder / "broken\x1b[2J\n\u202e[red].png").write_text(NAME)
    return folder


@pytest.mark.usefixtures("digits_model")
def test_scoring_shows_names_as_they_are(loupe: Loupe, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / f"out {NAME}"
    scored = loupe("score", folder, "--model", "digits", "--out", out, "--local")

    assert scored.code == 0
    assert_harmless(scored)
    assert_harmless(loupe("score", folder, "--model", "digits", "--out", out, "--local"))
    assert_harmless(loupe("score", tmp_path / f"no {NAME}", "--out", out, "--local"))
    assert_harmless(loupe("score", folder, "--model", NAME, "--out", tmp_path / "x", "--local"))
    assert_harmless(loupe("score", folder, "--out", out, "--labels", f"column:{NAME}", "--local"))


@pytest.mark.usefixtures("digits_model")
def test_jobs_show_names_as_they_are(loupe: Loupe, folder: Path, tmp_path: Path) -> None:
    queued = loupe(
        "score", folder, "--model", "digits", "--out", tmp_path / f"out {NAME}", "--detach"
    )
    assert queued.code == 0
    assert_harmless(queued)
    assert_harmless(loupe("jobs"))
    listed = loupe("jobs", "list", "--json")
    assert_harmless(listed)
    job = json.loads(listed.out)[0]["id"]
    for arguments in (["show", job], ["show", job, "--json"], ["cancel", job]):
        assert_harmless(loupe("jobs", *arguments))
    for command in ("show", "follow", "errors", "retry"):
        assert_harmless(loupe("jobs", command, NAME))


def test_models_show_names_as_they_are(loupe: Loupe, store: Path) -> None:
    names: dict[str, Any] = {
        "dataset": NAME,
        "class_names": (MARKUP, "b"),
        "source": NAME,
        "config": {NAME: NAME},
    }
    first, second = stored(0.9, **names), stored(0.8, **{**names, "config": {NAME: f"{NAME}2"}})

    assert_harmless(loupe("models"))
    assert_harmless(loupe("models", "show", first.tag))
    as_json = loupe("models", "show", first.tag, "--json")
    assert_harmless(as_json)
    assert json.loads(as_json.out)["card"]["source"] == NAME
    assert_harmless(loupe("models", "compare", first.tag, second.tag))
    for command in ("show", "promote", "rollback", "log", "report"):
        assert_harmless(loupe("models", command, NAME))
    assert_harmless(loupe("models", "delete", f"letters:{NAME}", "--yes"))


def test_predictions_show_names_as_they_are(loupe: Loupe, tmp_path: Path) -> None:
    for options in ((), ("--json",)):
        predicted = loupe("predict", tmp_path / NAME, *options)
        assert predicted.code == 1
        assert_harmless(predicted)
    assert json.loads(predicted.out)["file"] == str(tmp_path / NAME)
    assert_harmless(loupe("predict", tmp_path / NAME, "--url", f"http://{NAME}"))
    assert_harmless(loupe("predict", tmp_path / NAME, "--grid", tmp_path / NAME / "x" / "grid.png"))


def test_data_sets_show_names_as_they_are(
    loupe: Loupe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # samples are written here
    for name in ("[bold]a[", "b:smile:"):
        below = tmp_path / "set" / name
        below.mkdir(parents=True)
        for number, image in enumerate(pictures.digits(12)):
            (below / f"{number}.png").write_bytes(pictures.png(image))
        (below / "broken \x1b[2J[red].png").write_text(NAME)
    counted = loupe(
        "data", "show", f"folder:{tmp_path / 'set'}", "--out", tmp_path / "samples\x1b[red].png"
    )

    assert counted.code == 0
    assert_harmless(counted, shown=False)
    assert "[bold]a[" in counted.out
    assert_harmless(loupe("data", "show", f"folder:{tmp_path / NAME}"))
    assert_harmless(loupe("data", "show", NAME))
    (tmp_path / "set" / "c\x1b[31m\n").mkdir()
    assert_harmless(loupe("data", "show", f"folder:{tmp_path / 'set'}"), shown=False)


@pytest.mark.parametrize(
    "variable", ["LOUPE_PORT", "LOUPE_REDIS_URL", "LOUPE_LOG_FORMAT", "LOUPE_JOB_ROOTS"]
)
def test_settings_show_values_as_they_are(
    loupe: Loupe, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, NAME)

    assert_harmless(loupe("jobs"))
