"""The verdict on a fit: under-fitted, well fitted or over-fitted, from the gap between the splits and the validation loss."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

FitName = Literal["under-fitted", "well fitted", "over-fitted"]

# The thresholds are conventions; docs/report.md shows them at work on known models.
WIDE_GAP = 0.08  # of accuracy between train and test: over-fitted, however the loss went
NOTABLE_GAP = 0.01  # over-fitted too, where the validation loss rose as well
RISE = 0.25  # of the validation loss from its lowest point to the weights that were kept, as a share of that lowest point
POOR_FIT = 0.85  # train accuracy below which a model has not even learnt what it saw
GOOD_FIT = 0.95  # train accuracy above which a loss that still falls is only polish
FALL = 0.10  # of the validation loss in the last epoch, as a share: training stopped in full flight
TINY_LOSS = 1e-9  # keeps a share of a loss of zero a number


@dataclass(frozen=True)
class Verdict:
    """How well a model is fitted, and why one may say so.

    Attributes:
        gap: Train accuracy minus test accuracy; negative where the test split was easier.
        chance: By how much a test split of this size may be off by chance: two standard errors of its accuracy.
        sentence: The figures and the reason, in plain words.
    """

    fit: FitName
    gap: float
    chance: float
    sentence: str


def judge(
    train_accuracy: float,
    test_accuracy: float,
    test_images: int,
    losses: Sequence[float] = (),
    best_epoch: int = 0,
) -> Verdict:
    """The verdict on a model.

    Args:
        losses: Of the validation split after each epoch; empty where there was none.
        best_epoch: The epoch, from 1, whose weights the model has.
    """
    gap = train_accuracy - test_accuracy
    chance = margin(test_accuracy, test_images)
    rise, fall = _rise(losses, best_epoch), _fall(losses, best_epoch)
    seen = f"It is right on {percent(train_accuracy)} of the images it was trained on"
    fit: FitName
    if gap > chance and (gap > WIDE_GAP or (gap > NOTABLE_GAP and rise > RISE)):
        fit = "over-fitted"
        sentence = (
            f"{seen}, but on only {percent(test_accuracy)} of those it had never seen: {_points(gap)} less"
            f"{_of_the_rise(losses, best_epoch) if rise > RISE else ''}. It has begun to learn its training images by heart. "
            "More images, augmentation, dropout, a smaller model or an earlier stop help."
        )
    elif train_accuracy < POOR_FIT or (train_accuracy < GOOD_FIT and fall > FALL):
        fit = "under-fitted"
        falling = (
            f", and the validation loss still fell by {percent(fall, 0)} in the last epoch"
            if fall > FALL
            else ""
        )
        sentence = (
            f"{seen} and on {percent(test_accuracy)} of those it had never seen{falling}: it has not learnt what there is to learn. "
            "More epochs, a higher learning rate or a larger model help."
        )
    else:
        fit = "well fitted"
        sentence = (
            f"{seen} and on {percent(test_accuracy)} of those it had never seen: {_in_words(gap, chance)}"
            f"{_of_the_loss(rise) if losses else ''}."
        )
    return Verdict(fit, gap, chance, sentence)


def percent(share: float, digits: int = 1) -> str:
    """A share as people read it: `0.928` as `92.8 %`."""
    return f"{share * 100:.{digits}f} %"


def margin(accuracy: float, images: int) -> float:
    """Two standard errors of an accuracy: nineteen times in twenty, chance moves it by less."""
    return float(2 * (accuracy * (1 - accuracy) / images) ** 0.5)


def _rise(losses: Sequence[float], best_epoch: int) -> float:
    """How far above the lowest validation loss so far the weights were taken, as a share."""
    until = losses[:best_epoch]
    return until[-1] / max(min(until), TINY_LOSS) - 1 if until else 0.0


def _fall(losses: Sequence[float], best_epoch: int) -> float:
    """By which share the validation loss fell in the last epoch, if that is the one whose weights were taken."""
    if len(losses) < 2 or best_epoch < len(losses):
        return 0.0
    return 1 - losses[-1] / max(losses[-2], TINY_LOSS)


def _points(share: float) -> str:
    return f"{abs(share) * 100:.1f} points"


def _of_the_rise(losses: Sequence[float], best_epoch: int) -> str:
    until = losses[:best_epoch]
    lowest = min(until)
    return f", while the validation loss rose from {lowest:.3g} in epoch {until.index(lowest) + 1} to {until[-1]:.3g} in epoch {len(until)}"


def _in_words(gap: float, chance: float) -> str:
    if abs(gap) <= chance:
        return f"a gap of {_points(gap)}, no more than chance may make"
    if gap < 0:
        return f"{_points(gap)} more, so the test images are the easier ones"
    return f"{_points(gap)} less, which is usual"


def _of_the_loss(rise: float) -> str:
    if rise > RISE:
        return f", although the validation loss had risen by {percent(rise, 0)}"
    return ", and the validation loss had not risen much when these weights were taken"
