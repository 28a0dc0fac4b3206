"""`loupe models`: its output, its questions and its errors."""

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from loupe.models.promotion_log import read
from loupe.models.store import REPORT_FILE, list_models, promotions_path
from tests.support.command import Ended, Loupe
from tests.support.programs import environment, run, until
from tests.support.stores import stored

Models = Callable[..., Ended]


@pytest.fixture
def models(store: Path, loupe: Loupe, monkeypatch: pytest.MonkeyPatch) -> Models:
    """Return a function that runs `loupe models …` on an empty store."""
    monkeypatch.setenv("TZ", "UTC")
    return partial(loupe, "models")


# Looking


def test_models_are_listed_newest_first_with_labels_and_figures(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (
        stored(0.91234),
        stored(0.9, name="digits", config={"architecture": "mlp-small"}),
    )
    models("promote", first.tag)
    monkeypatch.setenv("COLUMNS", "120")
    listed = models()

    assert (listed.code, listed.err) == (0, "")
    header, *rows = listed.out.splitlines()[1:]
    assert header.split() == [
        "tag",
        "label",
        "data",
        "set",
        "architecture",
        "classes",
        "accuracy",
        "error",
        "size",
        "created",
    ]
    assert rows[0].split()[:7] == [
        second.tag,
        "letters",
        "mlp-small",
        "2",
        "0.9000",
        "0.0200",
        "0.0",
    ]
    assert rows[1].split()[:8] == [
        first.tag,
        "production",
        "letters",
        "cnn",
        "2",
        "0.9123",
        "0.0200",
        "0.0",
    ]
    assert models("list") == listed


def test_narrow_list_leaves_columns_out_and_says_which(models: Models) -> None:
    stored(name="fashion-mnist")
    models("promote", "fashion-mnist")
    listed = models()

    assert max(map(len, listed.out.splitlines())) <= 80
    assert listed.out.splitlines()[1].split() == [
        "tag",
        "label",
        "architecture",
        "accuracy",
        "error",
    ]
    assert (
        listed.err
        == "Too narrow for: data set, classes, size, created. See: loupe models show TAG\n"
    )


def test_empty_store_says_how_to_fill_it(models: Models) -> None:
    assert models() == Ended(
        0, "The model store is empty. Train one: loupe train fashion-mnist\n", ""
    )
    assert models("list", "--json") == Ended(0, "[]\n", "")


def test_unreadable_model_is_one_notice_and_the_others_are_listed(
    models: Models,
) -> None:
    broken, whole = stored(), stored()
    (broken.folder / "card.json").write_text("{}")
    listed = models()

    assert whole.tag in listed.out
    assert broken.tag not in listed.out
    notices = [line for line in listed.err.splitlines() if broken.tag in line]
    assert notices == [
        f"notice: Model '{broken.tag}' is corrupt: card.json cannot be read (ValidationError). "
        "Delete it from the store and train again."
    ]


def test_list_and_one_model_as_json_hold_the_whole_card(models: Models) -> None:
    model = stored(0.9)
    models("promote", model.tag)
    listed, shown = models("list", "--json"), models("show", model.tag, "--json")

    assert json.loads(listed.out) == [json.loads(shown.out)]
    assert json.loads(shown.out) == {
        "tag": model.tag,
        "labels": ["production"],
        "folder": str(model.folder),
        "size_bytes": model.size_bytes,
        "card": model.card.model_dump(mode="json"),
    }


def test_show_prints_the_whole_card(models: Models) -> None:
    model = stored(
        0.9,
        source="[bold]Somewhere[/]",
        licence="MIT",
        config={"architecture": "cnn", "hidden": [128, 64], "augmentation": True},
    )
    shown = models("show", "letters")

    assert shown.code == 0
    assert shown.out.startswith(f"{model.tag}\n  folder ")
    lines = [" ".join(line.split()) for line in shown.out.splitlines()]
    for line in (
        "report none",
        "data set letters",
        "classes 2: a, b",
        "look ink",
        "source [bold]Somewhere[/]",
        "licence MIT",
        "test images 100,000",
        "test digest same…",
        "accuracy 0.9000",
        "calibration error 0.0200",
        "extra accuracy –",
        "engines difference 1.0e-07",
        "training seconds 3.0",
        "hidden 128, 64",
        "augmentation yes",
        "keras 3",
        f"model.onnx {model.card.files['model.onnx'][:12]}…",
    ):
        assert line in lines
    assert max(map(len, shown.out.splitlines())) <= 80 or str(model.folder) in shown.out


def test_models_are_compared_side_by_side(models: Models) -> None:
    first = stored(0.9, config={"architecture": "mlp", "epochs": 5, "seed": 0})
    second = stored(0.95, config={"architecture": "cnn", "epochs": 5, "seed": 0, "hidden": [32]})
    third = stored(0.8, config={"architecture": "mlp", "epochs": 5, "seed": 1})
    models("promote", second.tag)
    compared = models("compare", first.tag, second.tag, third.tag)

    assert compared.code == 0
    lines = [line.split() for line in compared.out.splitlines()]
    assert ["A", first.tag, "0.9000", "±", "0.0019"] in [line[:5] for line in lines]
    assert ["B", second.tag, "production", "0.9500", "±", "0.0014"] in [line[:6] for line in lines]
    assert ["architecture", "mlp", "cnn", "mlp"] in lines
    assert ["hidden", "–", "32", "–"] in lines
    assert "epochs" not in compared.out
    assert max(map(len, compared.out.splitlines())) <= 80
    assert "B is the most accurate" in compared.out


@pytest.mark.parametrize(
    ("accuracies", "facts"),
    [
        ((0.9, 0.901), ["No difference beyond noise between A, B", "0.0010"]),
        ((0.9, 0.9), ["No difference beyond noise between A, B", "0.0000"]),
        ((0.901, 0.8, 0.9), ["No difference beyond noise between A, C", "Less accurate: B."]),
        ((0.8, 0.9), ["B is the most accurate", "0.1000", "than A"]),
    ],
)
def test_comparison_answers_which_model_is_better(
    accuracies: tuple[float, ...], facts: list[str], models: Models
) -> None:
    compared = models("compare", *(stored(accuracy).tag for accuracy in accuracies))
    assert all(fact in compared.out for fact in facts)


def test_compare_says_that_test_sets_differ(models: Models) -> None:
    first, second = stored(0.9), stored(0.95, test_digest="other")
    compared = models("compare", first.tag, second.tag)

    assert "The test sets differ" in compared.out
    assert "most accurate" not in compared.out
    assert "0.9000 ±" in compared.out
    assert "0.9500 ±" in compared.out


def test_compare_needs_two_models(models: Models) -> None:
    assert models("compare", stored().tag).code == 2


# Promoting


def test_unmeasured_models_are_listed_shown_compared_and_logged(models: Models) -> None:
    unmeasured, measured = stored(figures=None), stored(0.9)

    assert unmeasured.tag in models("list").out
    assert "not measured" in models("show", unmeasured.tag).out
    assert json.loads(models("list", "--json").out)[1]["card"]["figures"] is None
    compared = models("compare", unmeasured.tag, measured.tag)
    assert f"Not measured: {unmeasured.tag}\n" in compared.out
    assert "not_measured" in models("promote", unmeasured.tag).err
    assert models("promote", unmeasured.tag, "--force").code == 0
    assert models("promote", measured.tag, "--force").code == 0
    newest, oldest = models("log").out.splitlines()[1:3]
    assert (newest.split()[-1], oldest.split()[-1]) == ("0.9000", "–")


def test_promotions_and_rollbacks_are_printed_and_logged(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second, third = stored(0.9), stored(0.95), stored(0.8)
    assert (
        models("log").out
        == "Nothing has been promoted yet. Promote a model: loupe models promote TAG\n"
    )
    assert models("promote", first.tag) == Ended(
        0, f"{first.tag} is in production\ntest accuracy 0.9000, calibration error 0.0200\n", ""
    )
    assert models("promote", second.tag).out == (
        f"{second.tag} is in production (before: {first.version})\n"
        "test accuracy 0.9000 → 0.9500, calibration error 0.0200 → 0.0200\n"
    )
    assert models("promote", "letters") == Ended(0, f"{second.tag} is in production already.\n", "")
    refused = models("promote", third.tag)
    assert refused.code == 1
    assert refused.err.startswith("error: not_better: ")
    forced = models("promote", third.tag, "--force")
    assert forced.err == "It is not known to be better than the one before (--force).\n"
    assert models("rollback", "letters").out.startswith(
        f"{second.tag} is in production (before: {third.version})\n"
    )

    monkeypatch.setenv("COLUMNS", "100")
    rows = [line.split()[2:] for line in models("log").out.splitlines()[1:]]
    assert rows == [
        ["letters", "rollback", second.version, third.version, "0.8000", "→", "0.9500"],
        ["letters", "forced", third.version, second.version, "0.9500", "→", "0.8000"],
        ["letters", "promote", second.version, first.version, "0.9000", "→", "0.9500"],
        ["letters", "promote", first.version, "–", "0.9000"],
    ]
    assert models("log", "letters") == models("log")
    assert models("log", "digits").out.startswith("No version of 'digits' has been promoted yet.")


def test_rollback_prints_the_versions_it_skipped(models: Models) -> None:
    first, gone, last = stored(0.7), stored(0.8), stored(0.9)
    for model in (first, gone, last):
        models("promote", model.tag)
    models("delete", gone.tag, "--yes")
    back = models("rollback", "letters")

    assert back.out.startswith(f"{first.tag} is in production (before: {last.version})\n")
    assert back.err == f"Skipped {gone.tag}: it was deleted.\n"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (
            ["show", "birds"],
            1,
            "error: model_not_found: There is no model 'birds'. There are: letters:",
        ),
        (
            ["show", "letters:production"],
            1,
            "error: label_not_found: There is no model 'letters:production': the label",
        ),
        (["compare", "letters", "birds"], 1, "error: model_not_found: There is no model 'birds'."),
        (["promote", "birds"], 1, "error: model_not_found: There is no model 'birds'."),
        (
            ["rollback", "letters"],
            1,
            "error: nothing_to_roll_back: ",
        ),
        (
            ["delete", "letters", "--yes"],
            2,
            "error: version_needed: ",
        ),
        (
            ["delete", "letters:0", "--yes"],
            1,
            "error: model_not_found: There is no model 'letters:0'.",
        ),
        (
            ["report", "letters"],
            1,
            "error: report_not_found: letters:",
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_commands_are_refused_in_one_line(
    models: Models, arguments: list[str], code: int, text: str
) -> None:
    stored()
    ended = models(*arguments)

    assert (ended.code, ended.out) == (code, "")
    assert ended.err.startswith(text)
    assert ended.err.count("\n") == 1


# Deleting


def test_delete_without_a_terminal_needs_yes(
    models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = stored()
    with Path(os.devnull).open() as nobody:
        monkeypatch.setattr(sys, "stdin", nobody)
        ended = models("delete", model.tag)

    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("error: not_confirmed: ")
    assert model.tag in ended.err
    assert "--yes" in ended.err
    assert list_models() == [model]
    assert models("delete", model.tag, "--yes") == Ended(0, f"deleted {model.tag}\n", "")
    assert list_models() == []


@pytest.mark.parametrize(("answer", "left"), [(b"y\n", 0), (b"n\n", 1)])
def test_answer_on_a_terminal_decides(store: Path, answer: bytes, left: int) -> None:
    model = stored()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "loupe", "models", "delete", model.tag[:-2]]
    program = subprocess.Popen(
        command, env=environment(BENTOML_HOME=store), stdin=theirs, stdout=subprocess.PIPE
    )
    os.write(ours, answer)
    words, _ = program.communicate(timeout=50)
    os.close(ours)
    os.close(theirs)

    assert program.returncode == left
    assert f"Delete {model.tag}? [y/N]:".encode() in words
    assert len(list_models()) == left


# The report


def test_report_path_is_printed_and_nothing_opens_without_a_screen(
    models: Models,
) -> None:
    model = stored()
    (model.folder / REPORT_FILE).write_text("<p>good</p>")

    assert models("report", "letters") == Ended(0, f"{model.folder / REPORT_FILE}\n", "")
    assert models("show", "letters").out.split()[3:5] == ["report", str(model.folder / REPORT_FILE)]


def test_report_opens_in_the_chosen_browser(store: Path, tmp_path: Path) -> None:
    model = stored()
    (model.folder / REPORT_FILE).write_text("<p>good</p>")
    browser = tmp_path / "browser"
    browser.write_text(
        f'#!/bin/sh\ncd {tmp_path}\necho "$1" > opened.part && mv opened.part opened\n'
    )
    browser.chmod(0o755)
    ended = run(
        "models", "report", model.tag, "--open", BENTOML_HOME=store, BROWSER=f"{browser} %s"
    )

    assert ended.returncode == 0, ended.stderr
    opened = until(
        lambda: (tmp_path / "opened").exists() and (tmp_path / "opened").read_text().strip()
    )
    assert opened == (model.folder / REPORT_FILE).as_uri()


# Where it is kept


def test_log_is_found_beside_the_store(models: Models, store: Path) -> None:
    models("promote", stored().tag)

    assert promotions_path() == store / "loupe" / "promotions.jsonl"
    assert len(read(promotions_path())) == 1
    promotions_path().write_text(promotions_path().read_text() + "{")
    listed = models("list")
    assert (
        listed.err.splitlines()[0]
        == f"notice: {promotions_path()}: skipped the last line, which is incomplete"
    )
