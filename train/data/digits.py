"""scikit-learn's 1,797 handwritten digits, normalised to MNIST's look or as they are, 8 × 8.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI; CC BY 4.0.
"""

import numpy as np

from loupe.images.normalize import normalize
from loupe.images.spec import UInt8Array
from train.data.splits import SPLIT_SEED, Dataset, Int64Array, Split

DIGITS_TEST_FRACTION = 0.25  # scikit-learn's own default
MAX_VALUE = 16  # full ink in scikit-learn's arrays
DIGITS_8X8_STEP = 8  # a power of two, so that scaling back is exact in float32
DIGITS_8X8_SCALE = 1 / DIGITS_8X8_STEP
"""`Rescaling(DIGITS_8X8_SCALE)` restores scikit-learn's own values, exactly 0..16."""


def load_digits(
    test_fraction: float = DIGITS_TEST_FRACTION, split_seed: int = SPLIT_SEED
) -> Dataset:
    """Load the digits as uint8 `(n, 28, 28)`, normalised as MNIST's."""
    values, labels = _values()
    eight_bits = np.round(values * (255 / MAX_VALUE)).astype(np.uint8)  # (1797, 8, 8)
    images = np.stack([normalize(image, "ink") for image in eight_bits])  # (1797, 28, 28)
    return _dataset("digits", Split(images, labels), 255, test_fraction, split_seed)


def load_digits_8x8(
    test_fraction: float = DIGITS_TEST_FRACTION, split_seed: int = SPLIT_SEED
) -> Dataset:
    """Load the digits as uint8 `(n, 8, 8)`: scikit-learn's values times `DIGITS_8X8_STEP`.

    They are for notebooks and sweeps, as models in the store take 28 × 28. The split is the same
    as that of `load_digits`.
    """
    values, labels = _values()
    images = Split((values * DIGITS_8X8_STEP).astype(np.uint8), labels)
    full_ink = MAX_VALUE * DIGITS_8X8_STEP
    return _dataset("digits-8x8", images, full_ink, test_fraction, split_seed)


def _values() -> tuple[UInt8Array, Int64Array]:
    """Return uint8 `(1797, 8, 8)` in 0..16, and int64 `(1797,)`."""
    from sklearn.datasets import load_digits as load

    bunch = load()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.int64)


def _dataset(
    name: str, images: Split, full_ink: int, test_fraction: float, split_seed: int
) -> Dataset:
    train, test = images.divide(test_fraction, split_seed)
    names = tuple("0123456789")
    return Dataset(
        name,
        names,
        "ink",
        train,
        test,
        source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI: "
        "1,797 digits of 8 × 8 pixels, in scikit-learn",
        licence="CC BY 4.0",
        translations={"ja": names},
        full_ink=full_ink,
    )
