"""scikit-learn's 1,797 handwritten digits, normalised to MNIST's look or as they are, 8 × 8.

Source: Alpaydin and Kaynak, "Optical Recognition of Handwritten Digits", UCI; CC BY 4.0.
"""

from contextlib import suppress
from dataclasses import replace
from functools import cache

import numpy as np
from PIL import Image

from loupe.errors import InvalidImage
from loupe.images.normalize import normalize_pixels
from loupe.images.spec import ImageSpec, UInt8Array
from train.data.splits import SPLIT_SEED, Dataset, Split

DIGITS_TEST_FRACTION = 0.25  # scikit-learn's own default
MAX_VALUE = 16  # full ink in scikit-learn's arrays
PEN_SCALE = 8  # of a digit that is drawn with a pen
PEN_VALUES = (80, 130)  # where its strokes begin, and are full; chosen by eye
DIGITS_8X8_STEP = 8  # a power of two, so that scaling back is exact in float32
DIGITS_8X8_SCALE = 1 / DIGITS_8X8_STEP
"""`Rescaling(DIGITS_8X8_SCALE)` restores scikit-learn's own values, exactly 0..16."""


@cache  # normalising takes seconds
def load_digits(
    name: str = "digits", test_fraction: float | None = None, split_seed: int = SPLIT_SEED
) -> Dataset:
    """Load the digits, split in the same way under both names.

    `digits` are uint8 `(n, 28, 28)`, normalised as MNIST's. `digits-8x8` are uint8 `(n, 8, 8)`,
    scikit-learn's values times `DIGITS_8X8_STEP`; they are for notebooks and sweeps, as models in
    the store take 28 × 28. All calls share the arrays, which cannot be written.
    """
    from sklearn.datasets import load_digits as load

    bunch = load()
    values = bunch.images.astype(np.uint8)  # (1797, 8, 8), in 0..16
    fraction = DIGITS_TEST_FRACTION if test_fraction is None else test_fraction
    train, test = Split(values, bunch.target.astype(np.int64)).divide(fraction, split_seed)
    if name == "digits":
        train = replace(train, images=_normalized(train.images, with_pen=True))
        test = replace(test, images=_normalized(test.images))
        full_ink = 255
    else:
        train, test = (
            replace(split, images=split.images * np.uint8(DIGITS_8X8_STEP))
            for split in (train, test)
        )
        full_ink = MAX_VALUE * DIGITS_8X8_STEP
    for split in (train, test):
        split.images.flags.writeable = split.labels.flags.writeable = False
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


def _normalized(values: UInt8Array, *, with_pen: bool = False) -> UInt8Array:
    """Return digits of 8 × 8 in MNIST's look; with a pen, every second one has a pen's strokes.

    Enlarged, the digits are thick and blurred. A model that learns only those calls real
    handwriting unfamiliar.
    """
    spec = ImageSpec("ink", single=True)
    images = np.round(values * (255 / MAX_VALUE)).astype(np.uint8)
    found = [normalize_pixels(image, spec) for image in images]
    for number in range(1, len(images), 2) if with_pen else ():
        with suppress(InvalidImage):  # its strokes came apart
            drawn = normalize_pixels(_drawn_with_a_pen(images[number]), spec)
            if drawn.any():
                found[number] = drawn
    return spec.stack(found)


def _drawn_with_a_pen(image: UInt8Array) -> UInt8Array:
    """Return an 8 × 8 digit enlarged, with sharp edges."""
    grey = Image.fromarray(np.pad(image, 1))
    size = (grey.width * PEN_SCALE, grey.height * PEN_SCALE)
    enlarged = np.asarray(grey.resize(size, Image.Resampling.BICUBIC), np.float32)
    faint, full = PEN_VALUES
    return np.asarray(np.clip((enlarged - faint) / (full - faint), 0, 1) * 255, np.uint8)
