"""The classics: the tutorials' settings, and a page of results, with tiny models of digits."""

import io
from dataclasses import asdict, replace
from datetime import date
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from loupe.errors import Interrupted, InvalidUsage, NotWritable
from loupe.files import lock
from tests.support import pictures
from tests.support.command import Loupe
from train.config import FULL_BATCH, TrainConfig, recipe
from train.data.datasets import Dataset
from train.tutorials.page import check_writable, in_short, page, this_machine, write
from train.tutorials.plan import (
    Classic,
    Default,
    Factor,
    Study,
    Trial,
    Tutorial,
    TutorialPlan,
    load_plan,
)
from train.tutorials.results import TRIALS_FILE, Results, TrialResult, current_versions
from train.tutorials.runs import compare_batches, loader, train_plan

PLAN = load_plan()
TINY = TrainConfig(
    "softmax", batch_size=FULL_BATCH, learning_rate=0.05, epochs=20, validation_fraction=0
)
MACHINE = "2 cores of a processor"
TODAY = date(2026, 3, 1)


def digits(config: TrainConfig, *, compare: bool = False) -> Trial:
    return Trial(dataset="digits-8x8", config=config, test_fraction=0.25, compare_batches=compare)


TINY_PLAN = TutorialPlan(
    tutorials=(
        Tutorial(letter="A", title="Votes of pixels", default="digits-8x8"),
        Tutorial(letter="B", title="Layers", default="digits-8x8"),
    ),
    classics=(
        Classic(
            key="votes",
            tutorial="A",
            model="votes",
            trial=digits(TINY, compare=True),
            reported=0.5,
            aim=0.6,
            quick_epochs=10,
            reported_seconds=(4, 5),
        ),
        Classic(
            key="more",
            tutorial="A",
            model="more",
            trial=digits(replace(TINY, epochs=30)),
            aim=0.6,
            quick_epochs=10,
            beats=("votes",),
        ),
        Classic(
            key="hopeless",
            tutorial="B",
            model="hopeless",
            trial=digits(replace(TINY, learning_rate=1e-9)),
            reported=0.9,
            aim=0.9,
            quick_epochs=10,
        ),
        Classic(
            key="instead",
            tutorial="B",
            model="instead",
            trial=digits(TINY),
            aim=0.6,
            quick_epochs=10,
            if_missed="hopeless",
        ),
        Classic(
            key="luck",
            tutorial="B",
            model="luck",
            trial=digits(TINY),
            reported=0.9,
            aim=0.6,
            quick_epochs=10,
            repeated=True,
            reported_loss=0.5,
        ),
    ),
    defaults=(Default(trial=digits(replace(TINY, epochs=25)), quick_epochs=10),),
    seeds=3,
)
TINY_STUDY = Study(
    tutorial="B",
    dataset="digits-8x8",
    architecture="mlp-small",
    base={"hidden": (8,), "epochs": 10, "learning_rate": 0.05, "test_fraction": 0.25},
    factors=(
        Factor(name="rate", setting="learning_rate", reported=((0.001, 0.2), (0.05, 0.9))),
        Factor(name="units", setting="hidden", reported=(((8,), 0.9), ((4,), 0.8))),
    ),
)


def quiet() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def trained(folder: Path, plan: TutorialPlan) -> Results:
    """Train what the folder lacks of a plan."""
    results = Results(folder, plan)
    train_plan(plan, results, loader(None), quiet())
    return results


def findings(results: Results) -> list[str]:
    """Return the sentences about the findings."""
    text = page(results, MACHINE, TODAY).partition("## Findings\n\n")[2].partition("\n\n")[0]
    return [line.removeprefix("- ") for line in text.splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train the whole tiny plan."""
    folder = tmp_path_factory.mktemp("classics")
    trained(folder, TINY_PLAN)
    return folder


@pytest.fixture
def results(folder: Path) -> Results:
    return Results(folder, TINY_PLAN)


@pytest.fixture
def whole_page(results: Results) -> str:
    return page(results, MACHINE, TODAY)


def tables(text: str) -> list[list[list[str]]]:
    """Return the cells of every table of a page, headings first."""
    found: list[list[list[str]]] = [[]]
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if not set("".join(cells)) <= {"-"} or "–" in line:
                found[-1].append(cells)
        elif found[-1]:
            found.append([])
    return [table for table in found if table]


def test_every_classic_can_be_trained() -> None:
    trials = [trial for row in PLAN.rows() for trial in row.trials]

    assert {trial.dataset for trial in trials} == {"mnist", "fashion-mnist", "digits", "digits-8x8"}
    assert PLAN.sweep
    # The base, and four other values of each of six settings.
    assert len(PLAN.sweep.settings()) == 25
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
def test_settings_are_those_of_the_tutorials(key: str, expected: TrainConfig) -> None:
    assert next(classic for classic in PLAN.classics if classic.key == key).trial.config == expected


def test_base_of_the_study_is_the_tutorials_model() -> None:
    assert PLAN.sweep
    base = PLAN.sweep.base
    classic = next(classic for classic in PLAN.classics if classic.key == "D")

    assert asdict(base) == {
        **asdict(classic.trial.config),
        "test_fraction": classic.trial.test_fraction,
    }
    assert (base.optimizer, base.learning_rate, base.epochs) == (
        "sgd",
        0.01,
        1001,
    )
    assert (base.initializer, base.bias, base.batch_size) == (
        "glorot-uniform",
        0.01,
        FULL_BATCH,
    )


def test_defaults_are_our_recipes() -> None:
    configs = [default.trial.config for default in PLAN.defaults]

    assert configs == [recipe("cnn"), recipe("cnn"), recipe("cnn", 1347)]


def test_table_has_every_model_with_all_its_figures(whole_page: str) -> None:
    table = tables(whole_page)[0]

    assert [row[1] for row in table[1:]] == ["votes", "more", "hopeless", "instead", "luck"]
    votes = dict(zip(table[0], table[1], strict=True))
    assert votes["settings"] == "adam 0.05; full batches; 20 epochs"
    assert (votes["reported"], votes["reported seconds per epoch"]) == ("50.00", "4–5")
    assert float(votes["ours"]) > 60
    assert float(votes["our default"]) > 60
    assert "±" in table[5][4]


def test_tables_are_aligned_markdown(whole_page: str) -> None:
    for table in tables(whole_page):
        assert len({len(row) for row in table}) == 1
    for block in whole_page.split("\n\n"):
        if block.startswith("|"):
            assert len({len(line) for line in block.splitlines()}) == 1
    assert whole_page.startswith("# The classics\n")
    assert whole_page.count("\n# ") == 0
    assert "\n\n\n" not in whole_page
    assert f"on 2026-03-01, on {MACHINE}, with\ntensorflow " in whole_page


def test_findings_name_aims_speed_comparisons_and_verdicts(results: Results) -> None:
    found = findings(results)

    assert found[0].startswith("4 of 5 models reach ")
    assert found[1].startswith("Below its aim: B, hopeless, ")
    assert "90.00 %" in found[1]
    assert any("450 images get the same classes" in sentence for sentence in found)
    assert any(
        sentence.startswith("A, more: ") and "better than votes" in sentence for sentence in found
    )
    assert any(sentence.startswith("B, hopeless: under-fitted. ") for sentence in found)


def test_accuracy_is_that_of_the_trained_model(results: Results) -> None:
    result = results.trials[TINY_PLAN.row(TINY_PLAN.classics[0]).trials[0]]

    assert result.test_images == 450
    assert 0.8 < result.test_accuracy < 1
    assert result.parameters == 650
    assert (result.epochs, result.best_epoch) == (20, 20)


def test_each_seed_of_a_repeated_model_splits_the_images_differently(results: Results) -> None:
    luck = TINY_PLAN.row(TINY_PLAN.classics[4])

    assert [(trial.config.seed, trial.split_seed) for trial in luck.trials] == [
        (0, 0),
        (1, 1),
        (2, 2),
    ]
    assert len({results.trials[trial].test_accuracy for trial in luck.trials}) > 1


def test_nothing_is_trained_twice(folder: Path, results: Results) -> None:
    before = dict(results.trials)
    console = quiet()

    train_plan(TINY_PLAN, results, loader(None), console)

    assert results.trials == Results(folder, TINY_PLAN).trials == before
    assert printed(console).count("(trained earlier)") == 6  # five models and the default
    assert "…" not in printed(console)


def test_ctrl_c_keeps_every_finished_training(tmp_path: Path) -> None:
    results = Results(tmp_path, TINY_PLAN)
    loaded: list[Trial] = []

    def interrupting(trial: Trial) -> Dataset:
        loaded.append(trial)
        if len(loaded) == 4:  # the first call only checks that the data set exists
            raise KeyboardInterrupt
        return loader(None)(trial)

    with pytest.raises(Interrupted) as interrupted:
        train_plan(TINY_PLAN, results, interrupting, quiet())

    assert interrupted.value.code == "classics_interrupted"
    assert (interrupted.value.exit_code, interrupted.value.done) == (130, 2)
    assert "2 of 5 rows" in interrupted.value.message
    assert len(Results(tmp_path, TINY_PLAN).trials) == 2
    part = page(results, MACHINE, TODAY)
    assert "- 3 of 5 rows are not trained yet.\n" in part
    assert tables(part)[0][3][4] == "–"


def test_truncated_line_is_ignored_and_damages_no_other(tmp_path: Path, results: Results) -> None:
    first, second = list(results.trials.values())[:2]
    other = Results(tmp_path, TINY_PLAN)
    other.add(first)
    with (tmp_path / TRIALS_FILE).open("a") as file:
        file.write("\n" + second.model_dump_json()[:70])
    other.add(second)

    expected = {first.trial: first, second.trial: second}
    assert Results(tmp_path, TINY_PLAN).trials == other.trials == expected


@pytest.mark.parametrize(
    "changes",
    [{"quick": True}, {"versions": {"tensorflow": "1.0", "keras": "2.0"}}],
    ids=["quick", "versions"],
)
def test_result_counts_only_for_its_versions_and_its_epochs(
    tmp_path: Path, results: Results, changes: dict[str, object]
) -> None:
    result: TrialResult = next(iter(results.trials.values()))
    Results(tmp_path, TINY_PLAN).add(result.model_copy(update=changes))

    assert result.versions == current_versions()
    assert Results(tmp_path, TINY_PLAN).trials == {}


def test_results_that_cannot_be_written_are_reported(tmp_path: Path, results: Results) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotWritable) as refused:
        Results(tmp_path / "file", TINY_PLAN).add(next(iter(results.trials.values())))

    assert refused.value.code == "file_not_writable"
    assert TRIALS_FILE in refused.value.message


def test_quick_run_trains_less_and_is_marked(tmp_path: Path) -> None:
    plan = TINY_PLAN.only(["A"]).model_copy(update={"quick": True})
    results = trained(tmp_path, plan)

    assert {result.epochs for result in results.trials.values()} == {10}
    assert Results(tmp_path, TINY_PLAN).trials == {}
    for text in (page(results, MACHINE, TODAY), in_short(results)):
        assert "**This was a quick run**" in text
        assert "aim" not in text
    assert "`loupe train classics --quick` wrote this page" in page(results, MACHINE, TODAY)
    assert "quick" not in page(Results(tmp_path, TINY_PLAN), MACHINE, TODAY)


def test_one_setting_at_a_time_has_mean_and_spread_next_to_the_single_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One process imports TensorFlow; more would not train such models sooner.
    monkeypatch.setattr("train.sweep.sweeping.available_cores", lambda: 1)
    plan = TINY_PLAN.only(["B"]).model_copy(
        update={"classics": (), "defaults": (), "study": TINY_STUDY, "seeds": 2}
    )
    results = trained(tmp_path, plan)
    rates, units = tables(page(results, MACHINE, TODAY))[-2:]

    assert len(results.study()) == 6  # the base is in both tables, and trained once
    assert rates[0] == ["rate", "reported", "ours, mean", "standard deviation", "lowest", "highest"]
    assert [row[:2] for row in rates[1:]] == [["0.001", "20.00"], ["0.05", "90.00"]]
    assert [row[0] for row in units[1:]] == ["8", "4"]
    assert units[1][2:] == rates[2][2:]
    low, high = np.array(rates[1:], object)[:, 2].astype(float)
    assert low < high
    assert any(sentence.startswith("B: the best value is ") for sentence in findings(results))


def test_batches_change_no_prediction() -> None:
    from train.nets import architectures

    model = architectures.build((28, 28), 10, recipe("mlp-sigmoid"))
    speed = compare_batches(model, pictures.digits(50), batch_size=20)

    assert (speed.images, speed.batch_size, speed.differing) == (50, 20, 0)
    assert speed.gain > 1


def test_only_known_tutorials_can_be_chosen() -> None:
    assert {classic.tutorial for classic in PLAN.only(["A", "C"]).classics} == {"A", "C"}
    assert [default.trial.dataset for default in PLAN.only(["E"]).defaults] == ["fashion-mnist"]
    assert PLAN.only(["A"]).study is None
    with pytest.raises(InvalidUsage) as refused:
        PLAN.only(["A", "Z"])

    assert refused.value.code == "invalid_training"
    assert "'Z'" in refused.value.message
    assert "A, B, C, D, E" in refused.value.message


def test_command_refuses_an_unknown_tutorial(loupe: Loupe) -> None:
    refused = loupe("train", "classics", "--only", "a,Z")

    assert refused.code == 2
    assert refused.err.startswith("error: invalid_training: ")
    assert "'Z'" in refused.err


def test_a_second_process_is_refused(
    loupe: Loupe, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LOUPE_DATA_DIR", str(tmp_path))
    (tmp_path / "classics").mkdir()
    with lock(tmp_path / "classics" / "lock"):
        refused = loupe("train", "classics", "--out", tmp_path / "page.md")

    assert refused.code == 1
    assert refused.err.startswith("error: classics_running: ")


def test_unwritable_page_is_reported_before_any_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    path = tmp_path / "file" / "CLASSICS.md"

    for use in (check_writable, lambda path: write(path, "# The classics\n")):
        with pytest.raises(NotWritable) as refused:
            use(path)
        assert str(path) in refused.value.message
    check_writable(tmp_path / "new" / "CLASSICS.md")
    write(tmp_path / "new" / "CLASSICS.md", "# The classics\n")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["CLASSICS.md"]


def test_this_machine_has_a_number_of_cores() -> None:
    assert this_machine().partition(" core")[0].isdecimal()
