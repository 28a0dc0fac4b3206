"""Answers: familiarity and the options that refuse a label."""

import numpy as np
import pytest

from loupe.errors import InvalidRequest
from loupe.jobs import check_options
from loupe.models.answers import AnswerOptions, abstentions, answer, answers
from loupe.models.certainty import Conformal, Familiarity
from loupe.models.engines.engine import Outputs
from tests.support.stores import card

NAMES = ("a", "b")
ROW = np.array([0.25, 0.75], np.float32)


@pytest.mark.parametrize(
    ("familiarity", "level", "unfamiliar"),
    [(0.5, 0.01, False), (0.01, 0.01, False), (0.009, 0.01, True), (0.0, 0, False)],
)
def test_a_familiarity_below_the_level_is_unfamiliar(
    familiarity: float, level: float, unfamiliar: bool
) -> None:
    found = answer(NAMES, ROW, AnswerOptions(), familiarity=np.float32(familiarity), level=level)

    assert (found["familiarity"], found["unfamiliar"]) == (np.float32(familiarity), unfamiliar)
    assert found["label"] == "b"
    assert "abstained" not in found


def test_an_unknown_familiarity_is_none_and_not_unfamiliar() -> None:
    found = answer(NAMES, ROW, AnswerOptions())

    assert (found["familiarity"], found["unfamiliar"]) == (None, False)


@pytest.mark.parametrize(
    ("options", "abstained"),
    [
        ({"min_familiarity": 0.2}, False),
        ({"min_familiarity": 0.21}, True),
        ({"min_familiarity": 0.1, "threshold": 0.8}, True),
        ({"min_familiarity": 0.1, "threshold": 0.7}, False),
    ],
)
def test_a_label_needs_both_confidence_and_familiarity(
    options: dict[str, float], abstained: bool
) -> None:
    asked, familiarity = AnswerOptions.model_validate(options), np.array([0.2], np.float32)
    found = answer(NAMES, ROW, asked, familiarity=familiarity[0])
    rows = abstentions(
        Outputs(ROW[np.newaxis], familiarity), asked.threshold, asked.min_familiarity
    )

    assert (found["abstained"], found["label"] is None) == (abstained, abstained)
    assert rows.tolist() == [abstained]


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), "much"])
def test_a_minimum_familiarity_outside_of_0_to_1_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="min_familiarity"):
        check_options(AnswerOptions, min_familiarity=value)


def test_a_minimum_familiarity_needs_a_model_that_knows_it() -> None:
    AnswerOptions(min_familiarity=0.1).check(card(), Familiarity(distances=(0, 1), images=100))
    AnswerOptions().check(card(), None)
    with pytest.raises(InvalidRequest, match="does not know how familiar"):
        AnswerOptions(min_familiarity=0.1).check(card(), None)


@pytest.mark.parametrize("value", [0, 1, -0.1, 1.1, float("nan"), "much"])
def test_an_alpha_that_is_not_between_0_and_1_is_refused(value: object) -> None:
    with pytest.raises(InvalidRequest, match="alpha"):
        check_options(AnswerOptions, alpha=value)


def test_an_alpha_needs_a_model_with_calibrated_sets() -> None:
    calibrated = card(conformal=Conformal(probabilities=(0.9, 0.5), images=2))
    AnswerOptions(alpha=0.1).check(calibrated, None)
    with pytest.raises(InvalidRequest, match="prediction sets"):
        AnswerOptions(alpha=0.1).check(card(), None)


def test_prediction_sets_hold_the_classes_that_are_probable_enough() -> None:
    calibrated = card(conformal=Conformal(probabilities=(0.9, 0.5, 0.4, 0.3), images=4))
    rows = np.array([[0.25, 0.75], [0.45, 0.55], [0.3, 0.7]], np.float32)
    images, outputs = np.zeros((3, 28, 28), np.uint8), Outputs.of(rows)

    def sets(alpha: float) -> list[list[str]]:
        found = answers(calibrated, images, outputs, AnswerOptions(alpha=alpha))
        return [each["prediction_set"] for each in found]

    assert sets(0.4) == [["b"], ["b", "a"], ["b"]]  # at least 0.4
    assert sets(0.9) == [[], [], []]  # at least 0.9
    assert sets(0.1) == [["b", "a"]] * 3  # too few images to be that sure
