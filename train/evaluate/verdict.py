"""The verdict on a fit: under-fitted, well fitted or over-fitted.

It follows from the gap between train and test accuracy, and from the validation loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from loupe.models.significance import margin

FitName = Literal["under-fitted", "well fitted", "over-fitted"]

# These thresholds are conventions; docs/report.md applies them to known models.
WIDE_GAP = 0.08  # accuracy gap that always means over-fitting
NOTABLE_GAP = 0.01  # accuracy gap that means over-fitting if the validation loss rose
MAX_RISE = 0.25  # of the validation loss up to the kept epoch, as a fraction of its minimum
# How far the train accuracy must be from `baseline` (0) to perfect (1).
POOR = 5 / 6  # a model below it is under-fitted; 85 % for ten classes of equal size
GOOD = 17 / 18  # above it, a falling loss is no longer under-fitting; 95 % for ten such classes
MIN_VALIDATION_IMAGES = 100  # the loss of fewer images rises and falls by chance
MAX_FALL = 0.10  # of the validation loss in the last epoch, as a fraction
MIN_LOSS = 1e-9  # avoids division by zero


@dataclass(frozen=True)
class Verdict:
    """A verdict with its reasons.

    Attributes:
        gap: Train accuracy minus test accuracy; negative if the test split is easier.
        chance: Two standard errors of the test accuracy.
        sentence: The numbers and the reason, for people.
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
    *,
    baseline: float,
    annealed: bool = False,
) -> Verdict:
    """Return the verdict on a model.

    Args:
        train_accuracy: Fraction, 0..1, of the training images.
        test_accuracy: Fraction, 0..1, of the test images.
        test_images: Their number.
        losses: The validation losses after each epoch; empty without a validation split, or if it
            has fewer than `MIN_VALIDATION_IMAGES`.
        best_epoch: Number, from 1, of the epoch whose weights the model has.
        baseline: Accuracy of always predicting the most frequent class.
        annealed: Whether the learning rate fell to the end of its schedule. The recipe is complete
            then, however much the loss fell in the last epoch.
    """
    gap = train_accuracy - test_accuracy
    chance = margin(test_accuracy, test_images)
    kept = losses[:best_epoch]
    rise = kept[-1] / max(min(kept), MIN_LOSS) - 1 if kept else 0.0
    # A falling loss counts only if the last epoch is the one that was kept.
    fell = len(losses) >= 2 and best_epoch >= len(losses) and not annealed
    fall = 1 - losses[-1] / max(losses[-2], MIN_LOSS) if fell else 0.0
    learnt = (train_accuracy - baseline) / max(1 - baseline, MIN_LOSS)
    fit: FitName
    if gap > chance and (gap > WIDE_GAP or (gap > NOTABLE_GAP and rise > MAX_RISE)):
        fit, reason = "over-fitted", _overfitted(gap, rise, kept)
    elif learnt < POOR or (learnt < GOOD and fall > MAX_FALL):
        fit, reason = "under-fitted", _underfitted(fall)
    else:
        fit, reason = "well fitted", _well_fitted(gap, chance, rise, validated=bool(losses))
    sentence = (
        f"The model is right on {percent(train_accuracy)} of the training images and on "
        f"{percent(test_accuracy)} of the test images{reason}"
    )
    return Verdict(fit, gap, chance, sentence)


def _overfitted(gap: float, rise: float, kept: Sequence[float]) -> str:
    rose = ""
    if rise > MAX_RISE:
        lowest = min(kept)
        rose = (
            f", and the validation loss rose from {lowest:.3g} in epoch {kept.index(lowest) + 1} "
            f"to {kept[-1]:.3g} in epoch {len(kept)}"
        )
    return (
        f", a gap of {_points(gap)}{rose}. It starts to memorise the training images. "
        "More images, augmentation, dropout, a smaller model or fewer epochs help."
    )


def _underfitted(fall: float) -> str:
    falling = f", and the validation loss still fell by {percent(fall, 0)} in the last epoch"
    return (
        f"{falling if fall > MAX_FALL else ''}. It has not learnt enough. "
        "More epochs, a higher learning rate or a larger model help."
    )


def _well_fitted(gap: float, chance: float, rise: float, *, validated: bool) -> str:
    if abs(gap) <= chance:
        reason = f", a gap of {_points(gap)}, which chance can explain"
    elif gap < 0:
        reason = f", so the test images are easier, by {_points(gap)}"
    else:
        reason = f", a gap of {_points(gap)}, which is usual"
    if rise > MAX_RISE:
        return f"{reason}, although the validation loss had risen by {percent(rise, 0)}."
    if validated:
        return f"{reason}, and the validation loss had not risen much at the kept epoch."
    return f"{reason}."


def _points(gap: float) -> str:
    return f"{abs(gap) * 100:.1f} points"


def percent(fraction: float, digits: int = 1) -> str:
    """Format a fraction as percent: `0.928` as `92.8 %`."""
    return f"{fraction * 100:.{digits}f} %"
