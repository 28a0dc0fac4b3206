"""The classics: the tutorials' settings, and a page of what they come to, with tiny models of scikit-learn's digits."""

import io
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

from loupe.cli import app
from loupe.old_errors.train import ClassicsInterrupted, FileNotWritable, InvalidTraining
from tests.support import pictures
from train.config import FULL_BATCH, TrainConfig, recipe
from train.data.datasets import Dataset
from train.sweep.sweeps import TEST_FRACTION
from train.tutorials import page as classics_page
from train.tutorials.classics import PLAN
from train.tutorials.findings import findings
from train.tutorials.page import Machine, check_writable, in_short, page, write
from train.tutorials.plan import Classic, Default, Factor, Plan, Study, Trial, Tutorial
from train.tutorials.results import RESULTS_FILE, Figures, Result, Results, current_versions
from train.tutorials.runs import Course, compare_batches, loader

TINY = TrainConfig(
    "softmax", batch_size=FULL_BATCH, learning_rate=0.05, epochs=20, validation_fraction=0
)
MACHINE = Machine(2, "a processor")
TODAY = date(2026, 3, 1)


def digits(config: TrainConfig, *, compare: bool = False) -> Trial:
    return Trial(dataset="digits-8x8", config=config, test_fraction=0.25, compare_batches=compare)


TINY_PLAN = Plan(
    (
        Tutorial("A", "Votes of pixels", default="digits-8x8"),
        Tutorial("B", "Layers", default="digits-8x8"),
    ),
    (
        Classic(
            "votes",
            "A",
            "votes",
            digits(TINY, compare=True),
            0.5,
            aim=0.6,
            quick_epochs=10,
            reported_seconds=(4, 5),
        ),
        Classic(
            "more",
            "A",
            "more",
            digits(replace(TINY, epochs=30)),
            None,
            0.6,
            quick_epochs=10,
            beats=("votes",),
        ),
        Classic(
            "hopeless",
            "B",
            "hopeless",
            digits(replace(TINY, learning_rate=1e-9)),
            0.9,
            0.9,
            quick_epochs=10,
        ),
        Classic(
            "instead",
            "B",
            "instead",
            digits(TINY),
            None,
            0.6,
            quick_epochs=10,
            if_missed="hopeless",
        ),
        Classic(
            "luck",
            "B",
            "luck",
            digits(TINY),
            0.9,
            0.6,
            quick_epochs=10,
            repeated=True,
            reported_loss=0.5,
        ),
    ),
    None,
    (Default(digits(replace(TINY, epochs=25)), quick_epochs=10),),
    full_seeds=3,
)
TINY_STUDY = Study(
    "B",
    "digits-8x8",
    "mlp-small",
    {"hidden": (8,), "epochs": 10, "learning_rate": 0.05, TEST_FRACTION: 0.25},
    (
        Factor("rate", "learning_rate", ((0.001, 0.2), (0.05, 0.9))),
        Factor("units", "hidden", (((8,), 0.9), ((4,), 0.8))),
    ),
)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def told(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Results:
    """All of the tiny plan, trained."""
    results = Results(tmp_path_factory.mktemp("classics"))
    Course(TINY_PLAN, results, loader(None), quiet()).run()
    return results


@pytest.fixture(scope="module")
def whole_page(results: Results) -> str:
    return page(TINY_PLAN, results.load(TINY_PLAN), MACHINE, TODAY)


def tables(text: str) -> list[list[list[str]]]:
    """The cells of every table of a page, headings first."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not set("".join(cells)) <= {"-"} or "–" in line:
                found[-1].append(cells)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_every_training_of_the_classics_can_be() -> None:
    trials = [trial for row in PLAN.rows() for trial in row.trials]

    assert {trial.dataset for trial in trials} == {"mnist", "fashion-mnist", "digits", "digits-8x8"}
    assert PLAN.sweep
    PLAN.sweep.check()
    assert (
        len(PLAN.sweep.one_at_a_time()) == 25
    )  # the base, and four other values of each of six settings
    for classic in PLAN.classics:
        assert 0 < classic.quick_epochs <= classic.trial.config.epochs
        assert {*classic.beats, classic.if_missed or classic.key} <= {
            other.key for other in PLAN.classics
        }


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (
            "A",
            TrainConfig(
                "softmax", batch_size=100, epochs=33, validation_fraction=0, initializer="zeros"
            ),
        ),
        (
            "C-cnn",
            TrainConfig(
                "cnn-classic", (), "adadelta", 1.0, batch_size=128, epochs=12, validation_fraction=0
            ),
        ),
        (
            "E-500",
            TrainConfig(
                "mlp", (128,), "adam", 1e-3, batch_size=32, epochs=500, validation_fraction=0
            ),
        ),
    ],
)
def test_the_settings_are_the_tutorials(key: str, expected: TrainConfig) -> None:
    assert next(classic for classic in PLAN.classics if classic.key == key).trial.config == expected


def test_the_base_of_the_study_is_the_tutorials_own_model() -> None:
    assert PLAN.sweep
    base = PLAN.sweep.base
    classic = next(classic for classic in PLAN.classics if classic.key == "D")

    assert (base.config, base.test_fraction) == (classic.trial.config, classic.trial.test_fraction)
    assert (base.config.optimizer, base.config.learning_rate, base.config.epochs) == (
        "sgd",
        0.01,
        1001,
    )
    assert (base.config.initializer, base.config.bias, base.config.batch_size) == (
        "glorot-uniform",
        0.01,
        FULL_BATCH,
    )


def test_the_table_has_every_model_with_all_its_figures(whole_page: str) -> None:
    table = tables(whole_page)[0]

    assert [row[1] for row in table[1:]] == ["votes", "more", "hopeless", "instead", "luck"]
    votes = dict(zip(table[0], table[1], strict=True))
    assert votes["settings"] == "adam 0.05; all images at once; 20 epochs"
    assert (votes["its figure"], votes["its seconds per epoch"]) == ("50.00", "4–5")
    assert float(votes["ours, its settings"]) > 60
    assert float(votes["ours, our default"]) > 60
    assert "±" in table[5][4]


def test_every_table_is_markdown_with_as_many_cells_in_each_row(whole_page: str) -> None:
    for table in tables(whole_page):
        assert len({len(row) for row in table}) == 1
    assert whole_page.count("\n# ") == 0
    assert whole_page.startswith("# The classics\n")
    assert "on 2026-03-01, on 2 cores of a processor, with tensorflow " in whole_page


def test_what_is_seen_is_said_in_sentences(results: Results) -> None:
    said = list(findings(TINY_PLAN, results.load(TINY_PLAN)))

    assert said[0] == "4 of 5 models reach the test accuracy that was aimed at."
    assert said[1].startswith("Below its aim: B, hopeless, with ")
    assert said[1].endswith("where 90.00 % was aimed at.")
    assert any("it gives the same classes for 450 images" in sentence for sentence in said)
    assert any(
        sentence.startswith("A, more: with ") and "than votes" in sentence for sentence in said
    )
    assert any(sentence.startswith("B, hopeless: under-fitted. ") for sentence in said)


def test_the_accuracy_on_the_page_is_that_of_the_trained_model(results: Results) -> None:
    known = results.trials(quick=False)
    result = known[TINY_PLAN.of_classic(TINY_PLAN.classics[0]).trials[0]]

    assert result.test_images == 450
    assert 0.8 < result.test_accuracy < 1
    assert result.parameters == 650
    assert (result.epochs, result.best_epoch) == (20, 20)


def test_each_seed_of_a_repeated_model_splits_the_images_anew(results: Results) -> None:
    luck = TINY_PLAN.of_classic(TINY_PLAN.classics[4])

    assert [(trial.config.seed, trial.split_seed) for trial in luck.trials] == [
        (0, 0),
        (1, 1),
        (2, 2),
    ]
    assert len({results.trials(quick=False)[trial].test_accuracy for trial in luck.trials}) > 1


def test_nothing_is_trained_twice(results: Results) -> None:
    before = results.trials(quick=False)
    console = quiet()

    Course(TINY_PLAN, results, loader(None), console).run()

    assert results.trials(quick=False) == before
    assert told(console).count("(kept from before)") == 6  # five models and the default
    assert "…" not in told(console)


def test_ctrl_c_loses_only_the_training_in_hand(tmp_path: Path) -> None:
    results = Results(tmp_path)
    loaded: list[Trial] = []

    def interrupting(trial: Trial) -> Dataset:
        loaded.append(trial)
        if len(loaded) == 4:  # the first call only checks that the data set is there
            raise KeyboardInterrupt
        return loader(None)(trial)

    with pytest.raises(ClassicsInterrupted) as interrupted:
        Course(TINY_PLAN, results, interrupting, quiet()).run()

    assert interrupted.value.message.startswith("Stopped; 2 of 5 rows are done and kept")
    assert interrupted.value.exit_code == 130
    assert len(results.trials(quick=False)) == 2
    part = page(TINY_PLAN, results.load(TINY_PLAN), MACHINE, TODAY)
    assert "- 3 of 5 rows are not trained yet.\n" in part
    assert tables(part)[0][3][4] == "–"


def test_a_line_that_was_not_written_to_its_end_is_trained_again_and_spoils_no_other(
    tmp_path: Path, results: Results
) -> None:
    first, second = list(results.trials(quick=False).values())[:2]
    there = Results(tmp_path)
    there.add(first)
    with (tmp_path / RESULTS_FILE).open("a") as file:
        file.write("\n" + second.model_dump_json()[:70])
    there.add(second)

    assert there.trials(quick=False) == {first.trial: first, second.trial: second}


@pytest.mark.parametrize(
    "changes",
    [{"quick": True}, {"versions": {"tensorflow": "1.0", "keras": "2.0"}}],
    ids=["quick", "versions"],
)
def test_a_result_counts_only_for_what_it_was_made_with(
    tmp_path: Path, results: Results, changes: dict[str, object]
) -> None:
    result: Result = next(iter(results.trials(quick=False).values()))
    there = Results(tmp_path)
    there.add(result.model_copy(update=changes))

    assert result.versions == current_versions()
    assert there.trials(quick=False) == {}


def test_a_quick_run_trains_less_and_says_so(tmp_path: Path) -> None:
    plan = replace(TINY_PLAN.only(["A"]), quick=True)
    results = Results(tmp_path)
    Course(plan, results, loader(None), quiet()).run()
    figures = results.load(plan)

    assert {result.epochs for result in figures.trials.values()} == {10}
    assert results.trials(quick=False) == {}
    for text in (page(plan, figures, MACHINE, TODAY), in_short(plan, figures)):
        assert "**This was a quick run**" in text
        assert "aimed at" not in text
    assert "`loupe train classics --quick` wrote this page" in page(plan, figures, MACHINE, TODAY)
    assert "quick" not in page(TINY_PLAN, Figures({}), MACHINE, TODAY)


def test_one_setting_at_a_time_gives_mean_and_spread_beside_the_single_run(tmp_path: Path) -> None:
    plan = replace(TINY_PLAN.only(["B"]), classics=(), defaults=(), study=TINY_STUDY, full_seeds=2)
    results = Results(tmp_path)
    Course(plan, results, loader(None), quiet()).run()
    figures = results.load(plan)
    rates, units = tables(page(plan, figures, MACHINE, TODAY))[-2:]

    assert len(figures.study) == 6  # the base is in both tables, and trained once
    assert rates[0] == ["rate", "its single run", "ours, mean", "spread", "lowest", "highest"]
    assert [row[:2] for row in rates[1:]] == [["0.001", "20.00"], ["0.05", "90.00"]]
    assert [row[0] for row in units[1:]] == ["8", "4"]
    assert units[1][2:] == rates[2][2:]
    low, high = np.array(rates[1:], object)[:, 2].astype(float)
    assert low < high
    assert any(
        sentence.startswith("B: the best of its values is ") for sentence in findings(plan, figures)
    )


def test_batches_change_no_answer() -> None:
    from train.nets import architectures

    model = architectures.build((28, 28), 10, recipe("mlp-sigmoid"))
    speed = compare_batches(model, pictures.digits(50), batch_size=20)

    assert (speed.images, speed.batch_size, speed.differing) == (50, 20, 0)
    assert speed.gain > 1


def test_only_a_tutorial_there_is_can_be_chosen() -> None:
    assert {classic.tutorial for classic in PLAN.only(["A", "C"]).classics} == {"A", "C"}
    assert [default.trial.dataset for default in PLAN.only(["E"]).defaults] == ["fashion-mnist"]
    assert PLAN.only(["A"]).study is None
    with pytest.raises(
        InvalidTraining,
        match=r"--only: expected letters of tutorials \(A, B, C, D, E\).*Received: Z\.",
    ):
        PLAN.only(["A", "Z"])


def test_the_command_says_which_tutorials_there_are() -> None:
    with pytest.raises(InvalidTraining) as refused:
        CliRunner().invoke(app, ["train", "classics", "--only", "a,Z"], catch_exceptions=False)

    assert refused.value.exit_code == 2
    assert refused.value.message.endswith("Received: Z.")


def test_a_page_that_cannot_be_written_is_told_before_anything_is_trained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(FileNotWritable, match="Expected to be able to write"):
        check_writable(tmp_path / "file" / "CLASSICS.md")
    check_writable(tmp_path / "new" / "CLASSICS.md")
    write(tmp_path / "new" / "CLASSICS.md", "# The classics\n")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["CLASSICS.md"]


def test_this_machine_says_how_many_cores_of_what() -> None:
    assert str(classics_page.this_machine()).partition(" core")[0].isdecimal()
