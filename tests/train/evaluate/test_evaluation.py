"""Evaluation: metrics of small cases computed by hand, and verdicts on known models."""

import json
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.errors import ProgramFailed
from loupe.models.significance import margin
from train.data.datasets import Int64Array
from train.evaluate.calibration import expected_calibration_error
from train.evaluate.evaluation import (
    MAX_MISTAKES,
    Epoch,
    Evaluation,
    Predictions,
    evaluate,
    split_metrics,
)
from train.evaluate.verdict import Verdict, judge, percent


def answers(
    labels: list[int], predicted: list[int], classes: int = 3, size: float = 2.0
) -> Predictions:
    """Return logits with a lead of `size` for the predicted class."""
    return Predictions(
        np.eye(classes, dtype=np.float32)[predicted] * np.float32(size), np.array(labels, np.int64)
    )


def epochs(*validation_losses: float | None) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(number, 1 / number, 0.9, loss, None if loss is None else 0.8, 0.001, 2.0)
        for number, loss in enumerate(validation_losses, start=1)
    )


def evaluated(
    test: Predictions, *, train: Predictions | None = None, temperature: float = 1.0
) -> Evaluation:
    classes = test.logits.shape[1]
    return evaluate(
        dataset="letters",
        architecture="mlp",
        class_names=[f"class {index}" for index in range(classes)],
        train=train or test,
        test=test,
        temperature=temperature,
    )


#             class 0     class 1  class 2
LABELS = [0, 0, 0, 0, 1, 1, 1, 2]
PREDICTED = [0, 0, 1, 2, 1, 1, 0, 1]


def test_the_confusion_matrix_has_a_row_for_each_true_class() -> None:
    assert evaluated(answers(LABELS, PREDICTED)).confusion == ((2, 1, 1), (1, 2, 0), (0, 1, 0))


def test_precision_recall_and_f1_are_those_of_each_class() -> None:
    first, second, third = evaluated(answers(LABELS, PREDICTED)).classes

    assert astuple(first) == (
        "class 0",
        pytest.approx(2 / 3),
        pytest.approx(2 / 4),
        pytest.approx(4 / 7),
        4,
    )
    assert astuple(second) == (
        "class 1",
        pytest.approx(2 / 4),
        pytest.approx(2 / 3),
        pytest.approx(4 / 7),
        3,
    )
    assert astuple(third) == ("class 2", 0.0, 0.0, 0.0, 1)


def test_undefined_metrics_are_none() -> None:
    never_called, absent, neither = evaluated(answers([0, 0], [1, 1], classes=3)).classes

    assert (never_called.precision, never_called.recall, never_called.f1) == (None, 0.0, 0.0)
    assert (absent.precision, absent.recall, absent.f1) == (0.0, None, 0.0)
    assert (neither.precision, neither.recall, neither.f1, neither.support) == (None, None, None, 0)


def test_two_classes_are_enough() -> None:
    evaluation = evaluated(answers([0, 1, 1], [0, 1, 0], classes=2))

    assert evaluation.confusion == ((1, 0), (1, 1))
    assert evaluation.test.accuracy == pytest.approx(2 / 3)


def test_each_split_has_its_accuracy_and_loss() -> None:
    train, test = answers([0, 1, 2], [0, 1, 2]), answers([0, 0, 1, 2], [0, 0, 1, 1])
    evaluation = evaluate(
        dataset="letters",
        architecture="mlp",
        class_names=["a", "b", "c"],
        train=train,
        test=test,
        extra=answers([2], [2]),
        validation=answers([0, 1], [0, 2]),
    )
    assert evaluation.train
    assert evaluation.extra
    assert evaluation.validation
    accuracies = [
        split.accuracy
        for split in (evaluation.train, evaluation.validation, evaluation.test, evaluation.extra)
    ]

    assert accuracies == [1, 0.5, 0.75, 1]
    assert (evaluation.test.images, evaluation.extra.images) == (4, 1)
    assert evaluation.train.loss == pytest.approx(np.log(1 + 2 * np.exp(-2)))


def test_the_loss_is_after_scaling_and_the_raw_loss_before() -> None:
    measured = split_metrics(answers([0, 1], [0, 1], classes=2, size=6.0), temperature=3.0)

    assert measured.loss == pytest.approx(np.log(1 + np.exp(-2)), rel=1e-5)
    assert measured.raw_loss == pytest.approx(np.log(1 + np.exp(-6)), rel=1e-5)


def test_calibration_is_evaluated_before_and_after_scaling() -> None:
    test = answers([0, 1, 1, 0], [0, 1, 0, 1], size=5.0)
    calibration = evaluated(test, temperature=4.0).calibration
    sure = np.exp(5) / (np.exp(5) + 2)

    assert calibration.error_before == pytest.approx(sure - 0.5, rel=1e-4)
    assert calibration.error_after < calibration.error_before
    assert [bar.count for bar in calibration.bins_before] == [4]
    assert calibration.bins_before[0].confidence == pytest.approx(sure, rel=1e-4)


def test_mistakes_are_sorted_by_confidence() -> None:
    logits = np.array([[1, 0], [3, 0], [0, 2], [5, 0]], np.float32)
    mistakes = evaluated(Predictions(logits, np.array([1, 1, 0, 0]))).mistakes

    assert [(mistake.index, mistake.true, mistake.predicted) for mistake in mistakes] == [
        (1, 1, 0),
        (2, 0, 1),
        (0, 1, 0),
    ]
    assert [mistake.confidence for mistake in mistakes] == pytest.approx(
        [1 / (1 + np.exp(-lead)) for lead in (3, 2, 1)]
    )


def test_the_number_of_mistakes_is_limited() -> None:
    assert len(evaluated(answers([0] * 100, [1] * 100)).mistakes) == MAX_MISTAKES == 40


@pytest.mark.parametrize("split", ["train", "validation", "test", "extra"])
def test_logits_of_nan_are_refused_with_the_name_of_the_split(split: str) -> None:
    good = answers([0, 1], [0, 1])
    broken = Predictions(np.full((2, 3), np.nan, np.float32), good.labels)
    names = ["a", "b", "c"]
    splits = {"train": good, "test": good, split: broken}
    with pytest.raises(ProgramFailed, match=f"2 of 2 images of the {split} split.* image 0"):
        evaluate(dataset="letters", architecture="mlp", class_names=names, **splits)  # type: ignore


def test_an_evaluation_survives_save_and_load(tmp_path: Path) -> None:
    evaluation = evaluate(
        dataset="letters",
        architecture="mlp",
        class_names=["<b>", "ß", "字"],
        train=answers(LABELS, LABELS),
        test=answers(LABELS, PREDICTED),
        validation=answers([0], [0]),
        history=epochs(0.5, 0.4, 0.45),
        best_epoch=2,
        temperature=1.3,
    )
    evaluation.save(tmp_path)

    assert Evaluation.load(tmp_path) == evaluation
    assert (
        json.loads((tmp_path / "report.json").read_text("utf-8"))["history"][1]["validation_loss"]
        == 0.4
    )


def test_a_file_without_an_evaluation_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"report\.json"):
        Evaluation.load(tmp_path)
    (tmp_path / "report.json").write_text('{"report_version": 2}')
    with pytest.raises(ValueError, match="report_version"):
        Evaluation.load(tmp_path)


def test_the_best_epoch_is_the_last_by_default() -> None:
    test = answers([0], [0])
    evaluation = evaluate(
        dataset="letters",
        architecture="mlp",
        class_names="abc",
        train=test,
        test=test,
        history=epochs(0.5, 0.4),
    )

    assert evaluation.best_epoch == 2
    assert evaluated(test).best_epoch is None


@given(
    st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60),
    st.floats(0.1, 10),
)
def test_all_metrics_agree(pairs: list[tuple[int, int]], temperature: float) -> None:
    labels: list[int] = [label for label, _ in pairs]
    test = answers(labels, [predicted for _, predicted in pairs], classes=5)
    evaluation = evaluated(test, temperature=temperature)
    matrix: Int64Array = np.array(evaluation.confusion)

    assert matrix.sum() == len(pairs) == evaluation.test.images
    assert matrix.trace() / len(pairs) == pytest.approx(evaluation.test.accuracy)
    assert [figures.support for figures in evaluation.classes] == matrix.sum(axis=1).tolist()
    assert min(MAX_MISTAKES, len(pairs) - matrix.trace()) == len(evaluation.mistakes)
    probabilities = np.exp(test.logits) / np.exp(test.logits).sum(axis=1, keepdims=True)
    assert evaluation.calibration.error_before == pytest.approx(
        expected_calibration_error(probabilities, test.labels), abs=1e-6
    )


def verdict_on(
    train: float,
    test: float,
    images: int,
    losses: tuple[float, ...] = (),
    best_epoch: int = 0,
    *,
    baseline: float = 0.1,
    annealed: bool = False,
) -> Verdict:
    return judge(train, test, images, losses, best_epoch, baseline=baseline, annealed=annealed)


FALLING = (0.45, 0.40, 0.38, 0.37, 0.36)
RISEN = (*FALLING, 0.5, 0.8, 1.2)


@pytest.mark.parametrize(
    ("train", "test", "images", "losses", "expected"),
    [
        pytest.param(
            0.995, 0.886, 10_000, RISEN, "over-fitted", id="Fashion-MNIST, 128 relu, 500 epochs"
        ),
        pytest.param(
            0.995, 0.886, 10_000, (), "over-fitted", id="the same without a validation split"
        ),
        pytest.param(
            0.892, 0.864, 10_000, FALLING, "well fitted", id="Fashion-MNIST, 128 relu, 5 epochs"
        ),
        pytest.param(
            0.826, 0.849, 10_000, (0.42,), "under-fitted", id="Fashion-MNIST, 128 relu, 1 epoch"
        ),
        pytest.param(0.93, 0.928, 10_000, (0.30, 0.28, 0.275), "well fitted", id="MNIST, softmax"),
        pytest.param(
            0.999,
            0.984,
            10_000,
            (0.1, 0.07, 0.14),
            "over-fitted",
            id="a small gap, and the loss doubled",
        ),
        pytest.param(
            0.97,
            0.935,
            10_000,
            (0.3, 0.2, 0.21),
            "well fitted",
            id="a gap of some points, and a flat loss",
        ),
        pytest.param(
            0.90, 0.89, 10_000, (0.6, 0.4, 0.3), "under-fitted", id="stopped while the loss fell"
        ),
        pytest.param(0.999, 0.99, 10_000, (0.06, 0.04, 0.03), "well fitted", id="polish"),
        pytest.param(0.60, 0.55, 10_000, FALLING, "under-fitted", id="bad on both"),
        pytest.param(1.0, 0.875, 16, FALLING, "well fitted", id="a gap that chance may make"),
        pytest.param(1.0, 1.0, 50, (), "well fitted", id="without a mistake"),
        pytest.param(1.0, 0.0, 50, RISEN, "over-fitted", id="never right"),
    ],
)
def test_known_models_get_the_expected_verdict(
    train: float, test: float, images: int, losses: tuple[float, ...], expected: str
) -> None:
    assert verdict_on(train, test, images, losses, len(losses)).fit == expected


def test_a_short_recipe_is_not_underfitted_if_its_learning_rate_fell_to_the_end() -> None:
    losses = (0.26, 0.22)

    assert verdict_on(0.932, 0.908, 10_000, losses, 2).fit == "under-fitted"
    assert verdict_on(0.932, 0.908, 10_000, losses, 2, annealed=True).fit == "well fitted"


@pytest.mark.parametrize(
    ("accuracy", "baseline", "expected"),
    [
        pytest.param(0.98, 0.98, "under-fitted", id="always the most frequent of two classes"),
        pytest.param(0.999, 0.98, "well fitted", id="better than that"),
        pytest.param(0.87, 0.5, "under-fitted", id="two classes of equal size"),
        pytest.param(0.95, 0.5, "well fitted", id="two classes, learnt"),
        pytest.param(0.84, 1 / 47, "well fitted", id="47 classes"),
        pytest.param(1.0, 1.0, "under-fitted", id="one class"),
    ],
)
def test_a_model_must_have_learnt_more_than_the_most_frequent_class(
    accuracy: float, baseline: float, expected: str
) -> None:
    assert verdict_on(accuracy, accuracy, 10_000, baseline=baseline).fit == expected


def fit_with_losses(images: int, learning_rates: tuple[float, float]) -> str:
    """Return the verdict on a model whose validation loss still fell."""
    labels = [index % 3 for index in range(300)]
    split = answers(labels, [*labels[:275], *[(label + 1) % 3 for label in labels[275:]]])
    history = [
        replace(each, learning_rate=rate)
        for each, rate in zip(epochs(0.5, 0.4), learning_rates, strict=True)
    ]
    evaluation = evaluate(
        dataset="letters",
        architecture="mlp",
        class_names="abc",
        train=split,
        test=split,
        validation=answers(labels[:images], labels[:images]),
        history=history,
    )
    assert evaluation.verdict
    return evaluation.verdict.fit


def test_the_learning_rate_and_the_validation_split_determine_whether_a_falling_loss_counts() -> (
    None
):
    assert fit_with_losses(100, (0.1, 0.1)) == "under-fitted"
    assert fit_with_losses(100, (0.1, 0.0)) == "well fitted"
    assert fit_with_losses(99, (0.1, 0.1)) == "well fitted"


def test_losses_after_the_kept_epoch_do_not_count() -> None:
    assert verdict_on(0.93, 0.90, 10_000, RISEN, best_epoch=5).fit == "well fitted"
    assert verdict_on(0.93, 0.90, 10_000, RISEN, best_epoch=8).fit == "over-fitted"


def test_the_verdict_gives_the_numbers_and_the_reason() -> None:
    verdict = verdict_on(0.995, 0.886, 10_000, RISEN, 8)

    assert verdict.fit == "over-fitted"
    assert [verdict.gap, verdict.chance] == pytest.approx([0.109, 0.00636], rel=0.01)
    facts = ["99.5 %", "88.6 %", "10.9 points", "0.36 in epoch 5", "1.2 in epoch 8"]
    assert all(fact in verdict.sentence for fact in facts)
    usual = verdict_on(0.892, 0.864, 10_000, FALLING, 5).sentence
    assert all(fact in usual for fact in ["89.2 %", "86.4 %", "2.8 points", "usual"])
    falling = verdict_on(0.90, 0.89, 10_000, (0.6, 0.4, 0.3), 3).sentence
    assert all(fact in falling for fact in ["90.0 %", "89.0 %", "25 %", "last epoch"])


def test_the_verdict_mentions_an_easier_test_split() -> None:
    assert verdict_on(0.90, 0.93, 10_000).sentence.endswith(
        "so the test images are easier, by 3.0 points."
    )


def test_the_verdict_mentions_a_risen_loss_without_a_gap() -> None:
    assert verdict_on(0.97, 0.97, 10_000, RISEN, 8).sentence.endswith(
        "which chance can explain, although the validation loss had risen by 233 %."
    )


def test_chance_is_two_standard_errors() -> None:
    assert margin(0.9, 10_000) == pytest.approx(0.006, rel=0.01)
    assert margin(1.0, 10) == pytest.approx(0.187, abs=0.001)
    assert margin(0.5, 10) == pytest.approx(0.267, abs=0.001)


def test_percent_formats_fractions() -> None:
    assert (percent(0.928), percent(0.92345, 2), percent(1, 0)) == ("92.8 %", "92.34 %", "100 %")
