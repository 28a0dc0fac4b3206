"""Which differences between accuracies chance can explain."""

from math import hypot


def margin(accuracy: float, images: int) -> float:
    """Return two standard errors of an accuracy, which 19 of 20 samples stay within.

    Two right and two wrong images are added, so that few images without a mistake prove little.
    Source: Agresti and Coull, "Approximate is Better than 'Exact' for Interval Estimation", 1998.
    """
    adjusted = (accuracy * images + 2) / (images + 4)
    return float(2 * (adjusted * (1 - adjusted) / (images + 4)) ** 0.5)


def noise(first: float, second: float, images: int) -> float:
    """Return how far two accuracies on the same number of images differ by chance.

    The margins are combined as if the images were different ones. Two models on the same images
    differ by less, so a difference beyond this is safe.
    """
    return hypot(margin(first, images), margin(second, images))
