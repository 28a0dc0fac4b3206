"""scikit-learn's 1,797 handwritten digits, normalised to MNIST's look or as they are, 8 × 8.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI; CC BY 4.0.
"""

import numpy as np

from loupe.images.normalize import normalize_pixels
from loupe.images.spec import ImageSpec
from train.data.splits import SPLIT_SEED, Dataset, Split

DIGITS_TEST_FRACTION = 0.25  # scikit-learn's own default
MAX_VALUE = 16  # full ink in scikit-learn's arrays
DIGITS_8X8_STEP = 8  # a power of two, so that scaling back is exact in float32
DIGITS_8X8_SCALE = 1 / DIGITS_8X8_STEP
"""`Rescaling(DIGITS_8X8_SCALE)` restores scikit-learn's own values, exactly 0..16."""


def load_digits(
    name: str = "digits", test_fraction: float | None = None, split_seed: int = SPLIT_SEED
) -> Dataset:
    """Load the digits, split in the same way under both names.

    `digits` are uint8 `(n, 28, 28)`, normalised as MNIST's. `digits-8x8` are uint8 `(n, 8, 8)`,
    scikit-learn's values times `DIGITS_8X8_STEP`; they are for notebooks and sweeps, as models in
    the store take 28 × 28.
    """
    from sklearn.datasets import load_digits as load

    bunch = load()
    values = bunch.images.astype(np.uint8)  # (1797, 8, 8), in 0..16
    if name == "digits":
        eight_bits = np.round(values * (255 / MAX_VALUE)).astype(np.uint8)
        spec = ImageSpec("ink", single=True)
        images = spec.stack([normalize_pixels(image, spec) for image in eight_bits])
        full_ink = 255
    else:
        images = (values * DIGITS_8X8_STEP).astype(np.uint8)
        full_ink = MAX_VALUE * DIGITS_8X8_STEP
    fraction = DIGITS_TEST_FRACTION if test_fraction is None else test_fraction
    train, test = Split(images, bunch.target.astype(np.int64)).divide(fraction, split_seed)
    class_names = tuple("0123456789")
    return Dataset(
        name,
        class_names,
        "ink",
        train,
        test,
        source="Alpaydin and Kaynak, Optical Recognition of Handwritten Digits, UCI: "
        "1,797 digits of 8 × 8 pixels, in scikit-learn",
        licence="CC BY 4.0",
        translations={"ja": class_names},
        full_ink=full_ink,
    )
