"""Records of trials."""

from dataclasses import replace
from pathlib import Path

import pytest

from loupe.errors import Conflict, InvalidUsage, LoupeError, ModelNotFound, NotFound
from loupe.images.spec import ImageSpec
from loupe.models import trials
from loupe.models.promotion import delete, promote
from loupe.models.store import StoredModel, revision, trials_folder
from tests.support.command import Loupe
from tests.support.stores import card, stored


@pytest.fixture
def candidate(store: Path) -> StoredModel:
    """Return a version beside one in production."""
    promote(stored(0.8).tag)
    return stored(0.9)


def test_trial_is_on_record_until_it_is_stopped(candidate: StoredModel) -> None:
    before = revision()
    trial = trials.begin(candidate.tag, "canary", 0.05)

    assert trials.running() == [trial]
    assert (trial.tag, trial.kind, trial.share) == (candidate.tag, "canary", 0.05)
    assert revision() != before  # services look again
    ended = trials.stop(candidate.name)
    assert ended.reason == "stopped"
    assert trials.running() == []
    assert trials.find(candidate.name) == ended
    with pytest.raises(NotFound) as raised:
        trials.stop(candidate.name)
    assert raised.value.code == "trial_not_found"


def test_service_ends_only_the_trial_that_it_saw(candidate: StoredModel) -> None:
    first = trials.begin(candidate.tag, "canary")
    trials.end(first, "disagreement", compared=100, disagreed=50)
    second = trials.begin(candidate.tag, "shadow")
    trials.end(first, "slow")

    assert trials.running() == [second]


def test_version_in_production_is_not_tried(candidate: StoredModel) -> None:
    promote(candidate.tag)
    with pytest.raises(Conflict) as raised:
        trials.begin(candidate.tag, "canary")
    assert raised.value.code == "in_production"


@pytest.mark.parametrize(
    "fields", [{"class_names": ("b", "a")}, {"input": ImageSpec("photo", 32, 32, 3)}]
)
def test_version_that_cannot_take_the_requests_is_refused(
    candidate: StoredModel, fields: dict[str, object]
) -> None:
    other = replace(candidate, tag="letters:other", card=card().model_copy(update=fields))
    with pytest.raises(Conflict) as raised:
        trials.check_comparable(other, candidate)
    assert raised.value.code == "not_comparable"


@pytest.mark.parametrize(
    "numbers", [{"share": 0.0}, {"share": 1.1}, {"max_disagreement": -0.1}, {"max_slowdown": 0.5}]
)
def test_numbers_out_of_range_are_refused(
    candidate: StoredModel, numbers: dict[str, float]
) -> None:
    with pytest.raises(InvalidUsage):
        trials.begin(candidate.tag, "canary", **numbers)


def test_unknown_models_are_not_tried(store: Path) -> None:
    with pytest.raises(ModelNotFound):
        trials.begin("letters", "canary")
    with pytest.raises(ModelNotFound):  # nothing is in production
        trials.begin(stored().tag, "canary")


def test_version_on_trial_is_not_deleted(candidate: StoredModel) -> None:
    trials.begin(candidate.tag, "canary")
    with pytest.raises(Conflict) as raised:
        delete(candidate.tag)
    assert raised.value.code == "on_trial"
    trials.stop(candidate.name)
    assert delete(candidate.tag) == candidate.tag


def test_damaged_record_is_named(candidate: StoredModel) -> None:
    trials.begin(candidate.tag, "canary")
    path = trials_folder() / f"{candidate.name}.json"
    path.write_text("{}")
    with pytest.raises(LoupeError, match=str(path)) as raised:
        trials.all_trials()
    assert raised.value.code == "trial_corrupted"


def test_command_begins_lists_and_stops(candidate: StoredModel, loupe: Loupe) -> None:
    assert loupe("models", "canary").code == 0
    assert loupe("models", "canary", candidate.tag, "--share", "2.5%").code == 0
    [trial] = trials.running()
    assert (trial.kind, trial.share, trial.max_disagreement) == ("canary", 0.025, 0.1)
    listed = loupe("models", "canary")
    assert all(word in listed.out for word in (candidate.tag, "2.5 %", "running"))
    assert loupe("models", "canary", candidate.tag, "--shadow").code == 0
    assert trials.running()[0].kind == "shadow"
    assert loupe("models", "canary", candidate.name, "--stop").code == 0
    assert "stopped" in loupe("models", "canary").out
    assert loupe("models", "canary", candidate.tag, "--share", "many").code == 2
