"""What an image is: its dtype, size, channels and look."""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from loupe.errors import InvalidPixels

UInt8Array: TypeAlias = NDArray[np.uint8]
Float32Array: TypeAlias = NDArray[np.float32]

Look = Literal["ink", "object", "photo"]
"""How training images look.

`ink`: strokes centred by mass, as in MNIST. `object`: a thing on a plain ground, as in
Fashion-MNIST. `photo`: a photograph as it is, grey or in colour.
"""

Fit = Literal["crop", "pad", "stretch"]
"""How a photo gets its size: cut to the middle, padded with black, or out of proportion."""

Normalize = Literal["auto", "off"]
"""`auto` makes pictures look like the training images, `off` leaves them unchanged."""

MIN_SIDE, MAX_SIDE = 16, 128  # pixels


@dataclass(frozen=True)
class ImageSpec:
    """The images that a model takes.

    Attributes:
        look: How they look. Only photos have colours.
        height: Rows of pixels, 16 to 128.
        width: Columns of pixels, 16 to 128.
        channels: 1 for grey, 3 for red, green and blue.
        fit: How pictures of the look `photo` get this size.
        single: Whether each image of ink holds one symbol, as large and centred as MNIST's. Then
            only the largest symbol of a picture counts, and pictures of the model's size are
            centred, too.
    """

    look: Look
    height: int = 28  # as in MNIST and Fashion-MNIST
    width: int = 28
    channels: Literal[1, 3] = 1
    fit: Fit = "crop"
    single: bool = False

    def __post_init__(self) -> None:
        """Raise `ValueError` if a model cannot take such images."""
        for name, side in (("height", self.height), ("width", self.width)):
            if not MIN_SIDE <= side <= MAX_SIDE:
                raise ValueError(
                    f"images have a {name} of {MIN_SIDE} to {MAX_SIDE} pixels, not {side}"
                )
        if self.channels == 3 and self.look != "photo":
            raise ValueError(f"images of the look '{self.look}' are grey; only photos have colours")

    def __str__(self) -> str:
        return f"{self.height} × {self.width}{' × 3' if self.channels == 3 else ''}"

    @cached_property  # every request and batch asks for it
    def shape(self) -> tuple[int, ...]:
        """Shape of one image: `(height, width)` or `(height, width, 3)`."""
        size = (self.height, self.width)
        return size if self.channels == 1 else (*size, self.channels)

    @property
    def nbytes(self) -> int:
        """Bytes of one image."""
        return self.height * self.width * self.channels

    @property
    def scale(self) -> str:
        """The meaning of the lowest and the highest value, for people."""
        if self.look == "photo":
            return "0 = black, 255 = white"
        return "0 = background, 255 = full ink"

    def zeros(self, count: int = 0) -> UInt8Array:
        """Return a batch of black images."""
        return np.zeros((count, *self.shape), np.uint8)

    def stack(self, images: list[UInt8Array]) -> UInt8Array:
        """Return a batch of images, which may be empty."""
        return np.stack(images) if images else self.zeros()

    def blank(self, images: UInt8Array) -> NDArray[np.bool_]:
        """Return which images of a batch, `(n, *shape)`, have no ink although they should."""
        if self.look != "ink":
            return np.zeros(len(images), bool)
        if len(images) == 1:  # a fifth of the time of `any`; most requests have one
            return np.array([not images.tobytes().strip(b"\0")])
        return np.asarray(images.reshape(len(images), self.nbytes).max(axis=1, initial=0) == 0)

    def check_batch(self, images: NDArray[np.generic]) -> UInt8Array:
        """Return the array if it is a batch of images: uint8 of shape `(n, *shape)`.

        Raises:
            InvalidPixels: If dtype or shape differ.
        """
        if images.dtype != np.uint8 or images.ndim == 0 or images.shape[1:] != self.shape:
            raise InvalidPixels(
                f"Images must be uint8 of shape (n, {', '.join(map(str, self.shape))}), "
                f"{self.scale}, not {images.dtype}, shape {images.shape}."
            )
        return images.astype(np.uint8, copy=False)
