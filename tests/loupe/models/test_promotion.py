"""Promotion, rollback and deletion."""

import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

import bentoml
import pytest
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from loupe.errors import Conflict, InvalidUsage, ModelCorrupted, ModelNotFound
from loupe.models.promotion import delete, promote, promote_first, rollback
from loupe.models.promotion_log import Promotion, read
from loupe.models.store import StoredModel, find_model, labels, list_models, promotions_path
from tests.support.programs import environment
from tests.support.stores import damage, stored


def history() -> list[Promotion]:
    return read(promotions_path())


def in_production(model: StoredModel) -> bool:
    return labels() == {model.tag: ["production"]}


# Promotion


def test_first_promotion_is_always_allowed_and_logged(store: Path) -> None:
    model, began = stored(0.1), datetime.now(UTC)
    promotion = promote(model.tag)

    assert promotion is not None
    assert in_production(model)
    assert history() == [promotion]
    assert began <= promotion.time <= datetime.now(UTC)
    assert (promotion.kind, promotion.name, promotion.label, promotion.forced) == (
        "promote",
        "letters",
        "production",
        False,
    )
    assert (promotion.from_version, promotion.to_version) == (None, model.version)
    assert promotion.from_figures is None
    assert promotion.to_figures is not None
    assert promotion.to_figures.model_dump() == {
        "accuracy": 0.1,
        "loss": 0.5,
        "calibration_error": 0.02,
        "test_digest": "same",
    }


def test_unmeasured_model_is_promoted_only_by_force(store: Path) -> None:
    model = stored(figures=None)
    with pytest.raises(Conflict) as raised:
        promote(model.tag)
    assert raised.value.code == "not_measured"
    assert not labels()

    promotion = promote(model.tag, force=True)
    assert promotion is not None
    assert promotion.forced
    assert promotion.to_figures is None
    assert in_production(model)
    assert history() == [promotion]


def test_nothing_is_better_than_an_unmeasured_model(store: Path) -> None:
    promote(stored(figures=None).tag, force=True)
    with pytest.raises(Conflict) as raised:
        promote(stored(0.99).tag)
    assert raised.value.code == "not_comparable"


def test_first_measured_model_of_a_name_goes_into_production(store: Path) -> None:
    stored(figures=None)
    measured = stored(0.9)
    promote_first(measured)
    promote_first(stored(0.95))
    assert in_production(measured)


def test_better_model_is_promoted(store: Path) -> None:
    worse, better = stored(0.9), stored(0.91)
    promote(worse.tag)
    promotion = promote(better.tag)

    assert promotion is not None
    assert in_production(better)
    assert (promotion.from_version, promotion.to_version, promotion.forced) == (
        worse.version,
        better.version,
        False,
    )
    assert promotion.from_figures == history()[0].to_figures


@pytest.mark.parametrize(
    ("accuracy", "shown"),
    [
        (0.8999, "0.8999, against 0.9"),
        (0.9, "0.9, against 0.9"),
        (0.902, "0.902, against 0.9, which chance can explain"),
    ],
)
def test_model_that_is_not_better_is_refused_with_both_figures(
    store: Path, accuracy: float, shown: str
) -> None:
    first, second = stored(0.9), stored(accuracy)
    promote(first.tag)

    with pytest.raises(Conflict) as raised:
        promote(second.tag)
    assert raised.value.code == "not_better"
    for fact in (first.tag, second.tag, shown, "--force"):
        assert fact in raised.value.message
    assert in_production(first)
    assert len(history()) == 1


def test_model_measured_on_another_test_set_is_refused(store: Path) -> None:
    first, second = stored(0.9), stored(0.99, test_digest="other")
    promote(first.tag)

    with pytest.raises(Conflict) as raised:
        promote(second.tag)
    assert raised.value.code == "not_comparable"
    for fact in (first.tag, second.tag, "0.99 and 0.9", "--force"):
        assert fact in raised.value.message
    assert in_production(first)


@pytest.mark.parametrize(("accuracy", "digest"), [(0.8, "same"), (0.99, "other")])
def test_force_overrules_the_refusal_and_is_logged(
    store: Path, accuracy: float, digest: str
) -> None:
    first, second = stored(0.9), stored(accuracy, test_digest=digest)
    promote(first.tag)
    promote(second.tag, force=True)

    assert in_production(second)
    assert [promotion.forced for promotion in history()] == [False, True]


def test_unneeded_force_is_not_logged(store: Path) -> None:
    promote(stored(0.9).tag, force=True)
    promote(stored(0.91).tag, force=True)

    assert [promotion.forced for promotion in history()] == [False, False]


def test_promoting_the_production_version_logs_nothing(store: Path) -> None:
    model = stored()
    promote(model.tag)

    assert promote(model.tag) is None
    assert promote("letters", force=True) is None
    assert len(history()) == 1


def test_each_name_has_its_own_production_version(store: Path) -> None:
    letters, digits = stored(0.9), stored(0.1, name="digits")
    promote(letters.tag)
    promote(digits.tag)

    assert labels() == {letters.tag: ["production"], digits.tag: ["production"]}


def test_force_does_not_promote_a_changed_file(store: Path) -> None:
    model = stored()
    damage(model.folder / "model.onnx")

    with pytest.raises(ModelCorrupted, match=r"model\.onnx is not the file that was saved"):
        promote(model.tag, force=True)
    assert history() == []


def test_unknown_model_is_not_promoted(store: Path) -> None:
    with pytest.raises(ModelNotFound):
        promote("letters:0")
    with pytest.raises(ModelNotFound):
        promote(f"{stored().name}:production")


def test_any_model_may_follow_a_deleted_production_version(store: Path) -> None:
    gone, worse = stored(0.9), stored(0.8)
    promote(gone.tag)
    bentoml.models.delete(gone.tag)
    promotion = promote(worse.tag)

    assert promotion is not None
    assert (promotion.from_version, promotion.forced) == (gone.version, False)
    assert in_production(worse)


def test_better_model_wins_when_two_processes_promote(store: Path) -> None:
    worse, better = stored(0.8), stored(0.9)
    command = [sys.executable, "-m", "loupe", "models", "promote"]
    commands = [[*command, model.tag] for model in (better, worse)]
    programs = [
        subprocess.Popen(command, env=environment(BENTOML_HOME=store)) for command in commands
    ]
    codes = [program.wait(50) for program in programs]

    assert codes[0] == 0
    assert in_production(better)
    assert len(history()) == (2 if codes[1] == 0 else 1)


# The way back


def test_each_rollback_goes_back_one_more_version(store: Path) -> None:
    models = [stored(accuracy) for accuracy in (0.7, 0.8, 0.9)]
    for model in models:
        promote(model.tag)

    back, deleted = rollback("letters")
    assert (back.kind, back.to_version, deleted) == (
        "rollback",
        models[1].version,
        (),
    )
    assert back.from_figures == history()[2].to_figures
    assert in_production(models[1])
    rollback("letters")
    assert in_production(models[0])
    with pytest.raises(Conflict) as raised:
        rollback("letters")
    assert raised.value.code == "nothing_to_roll_back"
    assert models[0].tag in raised.value.message
    assert len(history()) == 5


def test_rolled_back_version_is_not_a_rollback_target(store: Path) -> None:
    first, bad, good = stored(0.7), stored(0.8), stored(0.9)
    for model in (first, bad):
        promote(model.tag)
    rollback("letters")
    promote(good.tag)
    rollback("letters")

    assert in_production(first)


def test_rollback_skips_and_reports_deleted_versions(store: Path) -> None:
    first, gone, last = stored(0.7), stored(0.8), stored(0.9)
    for model in (first, gone, last):
        promote(model.tag)
    delete(gone.tag)
    _, deleted = rollback("letters")

    assert deleted == (gone.tag,)
    assert in_production(first)


def test_rollback_works_after_the_current_version_was_deleted(store: Path) -> None:
    first, gone = stored(0.7), stored(0.8)
    promote(first.tag)
    promote(gone.tag)
    bentoml.models.delete(gone.tag)
    rollback("letters")

    assert in_production(first)


def test_rollback_is_refused_if_all_earlier_versions_were_deleted(store: Path) -> None:
    gone, last = stored(0.7), stored(0.8)
    promote(gone.tag)
    promote(last.tag)
    delete(gone.tag)

    with pytest.raises(Conflict) as raised:
        rollback("letters")
    assert raised.value.code == "nothing_to_roll_back"
    assert last.tag in raised.value.message
    assert gone.tag in raised.value.message
    assert in_production(last)


@pytest.mark.parametrize("name", ["letters", "letters:1", "", "../.."])
def test_rollback_of_a_name_without_promotions_is_refused(store: Path, name: str) -> None:
    stored()

    with pytest.raises(Conflict) as raised:
        rollback(name)
    assert raised.value.code == "nothing_to_roll_back"
    assert f"'{name}'" in raised.value.message


def test_rollback_refuses_a_changed_file(store: Path) -> None:
    first, second = stored(0.7), stored(0.8)
    promote(first.tag)
    promote(second.tag)
    damage(first.folder / "model.onnx")

    with pytest.raises(ModelCorrupted):
        rollback("letters")
    assert in_production(second)


# Deletion


def test_delete_removes_only_the_named_model(store: Path) -> None:
    kept, gone = stored(), stored()

    assert delete(gone.tag) == gone.tag
    assert list_models() == [kept]
    assert not gone.folder.exists()
    with pytest.raises(ModelNotFound):
        delete(gone.tag)


def test_model_in_production_is_not_deleted_before_another_is_promoted(store: Path) -> None:
    first, second = stored(0.7), stored(0.8)
    promote(first.tag)

    for tag in (first.tag, "letters:production"):
        with pytest.raises(Conflict) as raised:
            delete(tag)
        assert raised.value.code == "label_in_use"
        for fact in (first.tag, "'production'", second.tag):
            assert fact in raised.value.message
    promote(second.tag)
    delete(first.tag)
    with pytest.raises(Conflict, match=f"bentoml models delete {second.tag}$"):
        delete(second.tag)
    assert list_models() == [second]


def test_delete_needs_a_version(store: Path) -> None:
    stored()

    with pytest.raises(InvalidUsage) as raised:
        delete("letters")
    assert raised.value.exit_code == 2
    assert raised.value.code == "version_needed"
    assert "'letters'" in raised.value.message


def test_model_that_cannot_be_read_can_be_deleted(store: Path) -> None:
    model = stored()
    (model.folder / "card.json").write_text("{}")

    delete(model.tag)
    assert not model.folder.exists()


class Gate(RuleBasedStateMachine):
    """Any sequence of promotions, rollbacks and deletions, checked against a list of versions."""

    models = Bundle("models")

    def __init__(self) -> None:
        super().__init__()
        self._home = tempfile.TemporaryDirectory(prefix="loupe-gate-")
        (Path(self._home.name) / "models").mkdir()
        BentoMLContainer.model_store.set(ModelStore(Path(self._home.name) / "models"))
        self.standing: list[StoredModel] = []
        self.there: set[str] = set()
        self.lines = 0

    def teardown(self) -> None:
        BentoMLContainer.model_store.reset()
        self._home.cleanup()

    @initialize(target=models)
    def first(self) -> StoredModel:
        return self.added(0.5, "same")

    @rule(
        target=models, tenths=st.integers(0, 9), digest=st.sampled_from(["same", "same", "other"])
    )
    def save(self, tenths: int, digest: str) -> StoredModel:
        return self.added(tenths / 10, digest)

    def added(self, accuracy: float, digest: str) -> StoredModel:
        model = stored(accuracy, test_digest=digest)
        self.there.add(model.tag)
        return model

    @rule(model=models, force=st.booleans())
    def promote(self, model: StoredModel, force: bool) -> None:
        current = self.standing[-1] if self.standing else None
        figures = model.card.measured
        if current == model:
            assert promote(model.tag, force=force) is None
            return
        if current is None or force:
            expected: str | None = None
        elif current.card.measured.test_digest != figures.test_digest:
            expected = "not_comparable"
        else:
            better = figures.accuracy > current.card.measured.accuracy
            expected = None if better else "not_better"
        if expected:
            with pytest.raises(Conflict) as raised:
                promote(model.tag)
            assert raised.value.code == expected
            return
        assert promote(model.tag, force=force)
        self.standing.append(model)
        self.lines += 1

    @rule()
    def roll_back(self) -> None:
        earlier = [
            model
            for model in self.standing
            if model.tag in self.there and model != self.standing[-1]
        ]
        if not earlier:
            with pytest.raises(Conflict):
                rollback("letters")
            return
        rollback("letters")
        del self.standing[len(self.standing) - self.standing[::-1].index(earlier[-1]) :]
        self.lines += 1

    @rule(model=consumes(models))
    def delete(self, model: StoredModel) -> None:
        if self.standing and self.standing[-1] == model:
            with pytest.raises(Conflict):
                delete(model.tag)
            return
        delete(model.tag)
        self.there.remove(model.tag)

    @invariant()
    def the_label_points_at_the_last_that_stands(self) -> None:
        assert labels() == ({self.standing[-1].tag: ["production"]} if self.standing else {})
        if self.standing:
            assert find_model("letters") == find_model("letters:production") == self.standing[-1]
        assert len(read(promotions_path())) == self.lines
        assert {model.tag for model in list_models()} == self.there


TestGate = Gate.TestCase
TestGate.settings = settings(max_examples=12, stateful_step_count=14)


def test_first_version_of_a_name_is_promoted_and_no_later_one(store: Path) -> None:
    first = stored(0.8)
    promote_first(first)
    better = stored(0.9)
    promote_first(better)

    assert find_model("letters") == first


def test_new_version_does_not_replace_an_older_one_that_was_never_promoted(store: Path) -> None:
    oldest, answering = stored(), stored()
    promote_first(stored(0.99))

    assert find_model("letters") == answering
    assert oldest.tag != answering.tag
