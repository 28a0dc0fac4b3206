"""What an image is: its dtype, shape and look."""

from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InvalidPixels

UInt8Array: TypeAlias = NDArray[np.uint8]
Float32Array: TypeAlias = NDArray[np.float32]

Look = Literal["ink", "object"]
"""How training images look.

`ink`: strokes centred by mass, as in MNIST. `object`: a thing on a plain ground, as in
Fashion-MNIST.
"""

Normalize = Literal["auto", "off"]
"""`auto` makes pictures look like the training images, `off` leaves them unchanged."""

SIDE = 28  # pixels; the size of MNIST and Fashion-MNIST


def check_batch(images: NDArray[np.generic]) -> UInt8Array:
    """Return the array if it is a batch of images: uint8 of shape `(n, 28, 28)`.

    Raises:
        InvalidPixels: If dtype or shape differ.
    """
    if images.dtype != np.uint8 or images.shape[1:] != (SIDE, SIDE) or images.ndim != 3:
        raise InvalidPixels(
            f"Images must be uint8 of shape (n, {SIDE}, {SIDE}), 0 = background, 255 = full ink, "
            f"not {images.dtype}, shape {images.shape}."
        )
    return images.astype(np.uint8, copy=False)
