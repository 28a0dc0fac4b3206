"""One training of a sweep, for real and small."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import SourceChanged
from tests.support.pictures import sort_into_folders
from tests.support.sweeps import sweep
from train.config import Setting
from train.data.source import DataSource
from train.data.splits import SPLIT_SEED
from train.sweep.sweeps import Scores
from train.sweep.trials import load, train_one

DIGITS = DataSource(dataset="digits-8x8")
DIGEST = load(DIGITS, None, SPLIT_SEED).content_digest()
QUICK = sweep(epochs=(40,), learning_rate=(0.01,)).base


def scores(setting: Setting = QUICK, seed: int = 0) -> Scores:
    found = train_one(DIGITS, DIGEST, setting, seed).scores
    assert found is not None
    return found


@pytest.fixture(scope="module")
def found() -> Scores:
    """Return the scores of one training."""
    return scores()


def test_training_is_measured_on_all_splits(found: Scores) -> None:
    assert found.test_accuracy > 0.5
    assert found.train_accuracy > 0.5
    assert found.validation_accuracy is not None
    assert found.validation_accuracy > 0.5
    assert 0 < found.test_loss < 2
    assert found.trained_epochs == 40
    assert found.seconds > 0


def test_scores_depend_on_the_seed_alone(found: Scores) -> None:
    again, other = scores(), scores(seed=1)

    assert dataclasses.replace(again, seconds=found.seconds) == found
    assert other.test_loss != found.test_loss


def test_without_a_validation_split_there_is_no_validation_accuracy() -> None:
    assert scores(sweep(epochs=(2,), validation_fraction=(0.0,)).base).validation_accuracy is None


def test_diverging_training_fails_with_its_reason() -> None:
    lost = train_one(
        DIGITS, DIGEST, sweep(epochs=(20,), learning_rate=(1e30,), optimizer=("sgd",)).base, 3
    )

    assert (lost.seed, lost.scores) == (3, None)
    assert "NaN" in lost.error


@pytest.mark.usefixtures("little_memory")
def test_setting_that_needs_too_much_memory_fails_with_advice() -> None:
    huge = train_one(DIGITS, DIGEST, sweep(hidden=((2**14, 2**20),), epochs=(1,)).base, 0)

    assert huge.scores is None
    assert "--hidden" in huge.error


def test_setting_that_does_not_suit_the_images_fails_with_its_reason() -> None:
    impossible = train_one(DIGITS, DIGEST, sweep(test_fraction=(0.0001,)).base, 0)

    assert impossible.scores is None
    assert "0.0001" in impossible.error


def test_seed_and_fraction_split_data_sets_without_a_test_split(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = sort_into_folders(tmp_path_factory.mktemp("pets") / "pets", {"cat": 20, "dog": 20})
    for source in (DIGITS, DataSource(dataset=f"folder:{folder}", look="ink")):
        assert source.split_here
        half, other = load(source, 0.5, 0), load(source, 0.5, 1)
        assert abs(len(half.test.labels) - len(half.train.labels)) <= 1
        assert not np.array_equal(half.test.images, other.test.images)


def test_published_data_sets_keep_their_test_split() -> None:
    assert not DataSource(dataset="fashion-mnist").split_here


def test_process_reads_the_same_images_once() -> None:
    assert load(DIGITS, 0.25, 5) is load(DIGITS, 0.25, 5)


def test_images_that_have_changed_are_no_failed_training(tmp_path: Path) -> None:
    missing = DataSource(dataset=f"folder:{tmp_path / 'missing'}")
    for source, digest in ((DIGITS, "another"), (missing, DIGEST)):
        with pytest.raises(SourceChanged):
            train_one(source, digest, QUICK, 0)


def test_digest_of_the_content_does_not_depend_on_the_split() -> None:
    assert load(DIGITS, 0.3, 5).content_digest() == DIGEST
