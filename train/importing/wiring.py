"""How a given model takes images and what its outputs mean.

`prepare` and `to_logits` are the reference; `onnx_graph` and `keras_model` build the same into the
stored model.
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from loupe.images.spec import Float32Array, ImageSpec, UInt8Array

Layout = Literal["NCHW", "NHWC", "NHW", "flat", "flat-NCHW"]
"""Order of the axes: n images, height, width, channels; `flat` images are rows of NHWC pixels."""

Output = Literal["logits", "probabilities"]
Inputs: TypeAlias = NDArray[np.generic]
Outputs: TypeAlias = NDArray[np.floating]

LAYOUTS: tuple[Layout, ...] = get_args(Layout)
DTYPES = ("uint8", "float16", "float32", "float64")
TINY = 1e-37  # added to probabilities, so that 0 has a logarithm


@dataclass(frozen=True)
class Wiring:
    """The connection of Loupe's images to a given model.

    Attributes:
        spec: The images.
        dtype: NumPy's name of the input's type.
        layout: Order of the input's axes.
        mean: Subtracted from pixels, 0..255, then divided by `std`: one value, or one per channel.
        std: See `mean`.
        output: What the outputs are. One output of a two-class model is for its second class.
    """

    spec: ImageSpec
    dtype: str
    layout: Layout
    mean: tuple[float, ...]
    std: tuple[float, ...]
    output: Output = "logits"

    def __str__(self) -> str:
        return f"{self.dtype} {self.layout} {self._range()}"

    def _range(self) -> str:
        if len(self.mean) == len(self.std) == 1:
            low, high = ((value - self.mean[0]) / self.std[0] for value in (0, 255))
            if (low, high) in ((0, 1), (-1, 1), (0, 255)):
                return f"{low:g}..{high:g}"
        mean, std = (",".join(f"{x / 255:.4g}" for x in each) for each in (self.mean, self.std))
        return f"mean={mean} std={std}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        height, width, channels = self.spec.height, self.spec.width, self.spec.channels
        shapes: dict[Layout, tuple[int, ...]] = {
            "NCHW": (channels, height, width),
            "NHWC": (height, width, channels),
            "NHW": (height, width),
            "flat": (height * width * channels,),
            "flat-NCHW": (height * width * channels,),
        }
        return shapes[self.layout]

    @property
    def channels_first(self) -> bool:
        """True if colours have to move before height and width."""
        return self.spec.channels == 3 and self.layout in ("NCHW", "flat-NCHW")

    def prepare(self, images: UInt8Array) -> Inputs:
        """Return inputs of the given model for images, uint8 `(n, *spec.shape)`."""
        inputs: Inputs = images
        if self.dtype != "uint8":
            mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
            inputs = (images.astype(np.float32) - mean) / std
        if self.channels_first:
            inputs = inputs.transpose(0, 3, 1, 2)
        return np.ascontiguousarray(inputs.reshape(len(images), *self.shape), np.dtype(self.dtype))

    def to_logits(self, outputs: Outputs) -> Float32Array:
        """Return logits, float32 `(n, classes)`, for outputs of the given model."""
        values = outputs.reshape(len(outputs), -1).astype(np.float32)
        if self.output == "probabilities":
            if values.shape[1] == 1:
                values = np.concatenate([1 - values, values], axis=1)
            return np.asarray(np.log(values + np.float32(TINY)), np.float32)
        if values.shape[1] == 1:
            values = np.concatenate([values * 0, values], axis=1)
        return values
