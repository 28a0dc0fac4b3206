"""Fitting: seeds, the best epoch, early stops, and resuming."""

import signal
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loupe.errors import Interrupted, ProgramFailed
from tests.support import pictures
from train.config import FULL_BATCH, recipe
from train.data.datasets import Dataset, Split
from train.evaluate.evaluation import Epoch
from train.fit.fitting import Fitted, class_weights, epochs_per_report, fit
from train.fit.state import State

# Uses everything random (weights, order, augmentation, dropout) and batch normalisation.
RANDOM = recipe(
    "cnn-small", epochs=4, batch_size=8, augmentation=True, erasing=0.5, mixup=0.4, seed=3
)
PLAIN = recipe("softmax", epochs=4, batch_size=8, patience=0)
HOPELESS = recipe("softmax", optimizer="sgd", learning_rate=1e-30, epochs=50, patience=3)


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """Return 32 training and 16 validation images."""
    shapes = pictures.shapes()
    return replace(shapes, validation=shapes.test)


@pytest.fixture(scope="module")
def fitted(dataset: Dataset) -> Fitted:
    """Train four epochs without interruption."""
    return fit(dataset, RANDOM)


class Interruption(keras.callbacks.Callback):
    """Ctrl-C at the start of an epoch."""

    def __init__(self, epoch: int) -> None:
        super().__init__()
        self._epoch = epoch

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        if epoch + 1 == self._epoch:
            raise KeyboardInterrupt


def assert_same_weights(one: Fitted, two: Fitted) -> None:
    for first, second in zip(one.model.get_weights(), two.model.get_weights(), strict=True):
        np.testing.assert_array_equal(first, second)


def test_the_same_seed_gives_identical_weights(dataset: Dataset, fitted: Fitted) -> None:
    assert_same_weights(fit(dataset, RANDOM), fitted)


def test_another_seed_gives_other_weights(dataset: Dataset) -> None:
    one, other = (
        fit(dataset, replace(PLAIN, epochs=1, seed=seed)).model.get_weights()[0] for seed in (3, 4)
    )

    assert (one != other).any()


def test_the_history_has_every_epoch(fitted: Fitted) -> None:
    assert [epoch.number for epoch in fitted.history] == [1, 2, 3, 4]
    assert all(
        epoch.validation_accuracy is not None and epoch.seconds > 0 for epoch in fitted.history
    )
    assert fitted.history[-1].learning_rate < fitted.history[0].learning_rate  # along a cosine
    assert fitted.seconds == sum(epoch.seconds for epoch in fitted.history)


def test_a_model_that_learns_gets_better(fitted: Fitted) -> None:
    assert fitted.history[-1].loss < fitted.history[0].loss


def test_the_model_has_the_weights_of_the_best_epoch(
    dataset: Dataset,
) -> None:
    class Spoiler(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
            if epoch == 9:
                self.model.set_weights(
                    [np.zeros_like(weights) for weights in self.model.get_weights()]
                )

    spoiled = fit(
        dataset, recipe("mlp", batch_size=8, epochs=10, patience=0), callbacks=[Spoiler()]
    )
    best = spoiled.history[spoiled.best_epoch - 1]

    assert spoiled.best_epoch < 10
    assert dataset.validation is not None
    right = (
        spoiled.model(dataset.validation.images).numpy().argmax(axis=1) == dataset.validation.labels
    )
    assert right.mean() == pytest.approx(best.validation_accuracy)
    assert best.validation_accuracy == max(
        epoch.validation_accuracy or 0 for epoch in spoiled.history
    )


def test_without_a_validation_split_the_last_epoch_is_the_best(dataset: Dataset) -> None:
    assert fit(replace(dataset, validation=None), replace(PLAIN, epochs=2)).best_epoch == 2


def test_training_stops_when_its_patience_runs_out(
    dataset: Dataset,
) -> None:
    stopped = fit(dataset, HOPELESS)

    assert (stopped.best_epoch, len(stopped.history)) == (1, 4)


def test_a_resumed_training_gives_the_same_weights(
    dataset: Dataset, fitted: Fitted, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match="2 of 4 epochs"):
        fit(dataset, RANDOM, folder=tmp_path, callbacks=[Interruption(3)])
    resumed = fit(dataset, RANDOM, folder=tmp_path)

    assert_same_weights(resumed, fitted)
    assert [epoch.number for epoch in resumed.history] == [epoch.number for epoch in fitted.history]


def test_a_resumed_training_sees_the_same_photos(tmp_path: Path) -> None:
    photos = pictures.photos()
    config = recipe("cnn-small", None, "photo", epochs=2, batch_size=16, mixup=0.2)
    with pytest.raises(Interrupted):
        fit(photos, config, folder=tmp_path, callbacks=[Interruption(2)])

    assert_same_weights(fit(photos, config, folder=tmp_path), fit(photos, config))


def test_models_of_objects_average_over_mirror_images(dataset: Dataset, fitted: Fitted) -> None:
    images = dataset.test.images

    np.testing.assert_allclose(fitted.model(images), fitted.model(images[:, :, ::-1]), atol=1e-5)


def test_models_of_ink_do_not_average_over_mirror_images(dataset: Dataset) -> None:
    model = fit(replace(dataset, look="ink"), replace(PLAIN, epochs=1, augmentation=True)).model
    images = dataset.test.images

    assert np.abs(np.asarray(model(images)) - np.asarray(model(images[:, :, ::-1]))).max() > 1e-3


def test_a_resumed_training_keeps_its_patience(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(dataset, HOPELESS, folder=tmp_path, callbacks=[Interruption(3)])

    assert len(fit(dataset, HOPELESS, folder=tmp_path).history) == 4


def test_ctrl_c_stops_after_the_current_batch(dataset: Dataset, tmp_path: Path) -> None:
    class CtrlC(keras.callbacks.Callback):
        batches = 0

        def on_train_batch_begin(self, batch: int, logs: dict[str, float] | None = None) -> None:
            self.batches += 1
            if self.batches == 6:
                signal.raise_signal(signal.SIGINT)

    pressed = CtrlC()
    with pytest.raises(Interrupted, match="1 of 4 epochs"):
        fit(dataset, PLAIN, folder=tmp_path, callbacks=[pressed])

    assert pressed.batches == 6  # the second of the second epoch
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_in_the_first_epoch_leaves_a_run_that_starts_again(
    dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(Interrupted, match="0 of 4 epochs"):
        fit(dataset, PLAIN, folder=tmp_path, callbacks=[Interruption(1)])

    assert len(fit(dataset, replace(PLAIN, epochs=1), folder=tmp_path).history) == 1


def test_a_finished_training_is_not_repeated(dataset: Dataset, tmp_path: Path) -> None:
    ended = fit(dataset, PLAIN, folder=tmp_path)
    again = fit(dataset, PLAIN, folder=tmp_path, callbacks=[Interruption(1)])

    assert_same_weights(again, ended)


def test_a_run_can_be_cut_to_its_completed_epochs(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        fit(dataset, PLAIN, folder=tmp_path, callbacks=[Interruption(3)])

    assert len(fit(dataset, replace(PLAIN, epochs=2), folder=tmp_path).history) == 2


def test_only_the_best_and_the_last_weights_stay_on_disk(dataset: Dataset, tmp_path: Path) -> None:
    fit(dataset, PLAIN, folder=tmp_path)
    state = State.load(tmp_path)

    assert {path.name for path in tmp_path.glob("*.h5")} == set(state.files.values())
    assert set(state.files) == {state.best, 4}


def test_a_diverged_loss_stops_the_training_with_advice(dataset: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ProgramFailed, match=r"epoch 1\..*learning rate .*1e\+30") as raised:
        fit(
            dataset,
            recipe("mlp", optimizer="sgd", learning_rate=1e30, batch_size=8, epochs=3),
            folder=tmp_path,
        )
    assert raised.value.code == "training_diverged"
    assert not list(tmp_path.glob("*.h5"))


def test_a_failed_checkpoint_names_the_folder_and_the_reason(
    dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(ProgramFailed, match=r"/nowhere: .*LOUPE_DATA_DIR") as raised:
        fit(dataset, PLAIN, folder=tmp_path / "nowhere")

    assert raised.value.code == "checkpoint_failed"


def test_all_images_can_be_one_batch(dataset: Dataset) -> None:
    whole = fit(dataset, recipe("mlp-small", batch_size=FULL_BATCH, epochs=20))

    assert int(whole.model.optimizer.iterations) == 20
    assert whole.history[-1].number == 20


@given(st.integers(1, 5000))
def test_the_epochs_per_report_divide_the_epochs(epochs: int) -> None:
    assert epochs % epochs_per_report(epochs) == 0


@given(st.integers(1, 50), st.integers(1, 50), st.integers(1, 50))
def test_the_epochs_per_report_of_a_resumed_training_divide_those_that_are_done(
    block: int, done: int, epochs: int
) -> None:
    assert block * done % epochs_per_report(block * epochs, block * done) == 0
    assert block * epochs % epochs_per_report(block * epochs, block * done) == 0


def test_a_resumed_training_of_full_batches_counts_its_epochs(
    dataset: Dataset, tmp_path: Path
) -> None:
    full = recipe("mlp-small", batch_size=FULL_BATCH, epochs=400)
    with pytest.raises(Interrupted) as stopped:
        fit(dataset, full, folder=tmp_path, callbacks=[Interruption(3)])
    resumed = fit(dataset, replace(full, epochs=stopped.value.done + 3), folder=tmp_path)

    assert resumed.history[-1].number == stopped.value.done + 3
    assert int(resumed.model.optimizer.iterations) == stopped.value.done + 3


def test_a_thousand_epochs_have_about_a_hundred_reports() -> None:
    assert epochs_per_report(1001) == 11


def test_rare_classes_weigh_more_and_the_mean_weight_is_one() -> None:
    labels = np.array([0, 0, 0, 1], np.int64)
    weights = class_weights(Split(pictures.digits(4), labels), 2)

    assert weights == pytest.approx({0: 2 / 3, 1: 2.0})
    assert np.mean([weights[label] for label in labels.tolist()]) == pytest.approx(1)


def test_class_weights_change_the_training(dataset: Dataset) -> None:
    uneven = replace(
        dataset, train=Split(dataset.train.images[:20], np.array([0] * 18 + [1, 2], np.int64))
    )
    plain, weighted = (
        fit(uneven, recipe("softmax", epochs=1, class_weights=use)).model.get_weights()[1]
        for use in (False, True)
    )

    assert (plain != weighted).any()


def epoch(number: int, accuracy: float | None, loss: float = 0.5) -> Epoch:
    return Epoch(
        number=number,
        loss=loss,
        accuracy=0.9,
        validation_loss=None if accuracy is None else loss,
        validation_accuracy=accuracy,
        learning_rate=0.1,
        seconds=1,
    )


def best_after(epochs: Sequence[Epoch], margin: float = 0.0) -> int:
    state = State()
    for each in epochs:
        state = state.after(each, f"epoch-{each.number}", margin)
        assert set(state.files) == {state.best, each.number}
    return state.best


def test_the_best_epoch_has_the_highest_accuracy_then_the_lowest_loss() -> None:
    epochs = [
        epoch(1, 0.8),
        epoch(2, 0.9, 0.3),
        epoch(3, 0.9, 0.2),
        epoch(4, 0.9, 0.4),
        epoch(5, 0.85),
    ]
    assert best_after(epochs) == 3
    assert best_after([epoch(1, None), epoch(2, None)]) == 2


def test_with_a_margin_the_best_epoch_is_the_last_within_it() -> None:
    epochs = [
        epoch(1, 0.8),
        epoch(2, 0.90),
        epoch(3, 0.897),
        epoch(4, 0.893),
        epoch(5, 0.899),
        epoch(6, 0.88),
    ]
    assert best_after(epochs, 0.004) == 5
    assert best_after([*epochs, epoch(7, 0.91), epoch(8, 0.90)], 0.004) == 7
