"""Decoding of many picture files, in parallel."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from loupe.errors import InvalidImage
from loupe.files import printable
from loupe.images.decode import read_file
from loupe.images.pool import DecoderPool
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.runtime.cores import available_cores
from loupe.settings import load_settings

COLOUR_SAMPLE = 100  # pictures that are looked at
COLOURS = ImageSpec("photo", 28, 28, 3, fit="stretch")  # enough to see colours
COLOUR_LEVELS = 24  # that the channels of a coloured pixel differ; less is the tint of a scan
COLOUR_AREA = 0.02  # of the pixels, in a picture with colours


@dataclass(frozen=True)
class UnreadableFile:
    """A file that is left out: its path below the data set's folder, and the reason."""

    path: str
    reason: str


class Pictures(NamedTuple):
    """Decoded files.

    Attributes:
        images: uint8 `(n, *spec.shape)`, in the order of the paths.
        kept: The indices of their paths.
        unreadable: The files that could not be read.
        colour_share: Fraction, 0..1, of pictures that lost colours, in a sample of `COLOUR_SAMPLE`.
    """

    images: UInt8Array
    kept: list[int]
    unreadable: list[UnreadableFile]
    colour_share: float


def read_pictures(folder: Path, paths: Sequence[str], spec: ImageSpec) -> Pictures:
    """Decode and normalise files below a folder, on all cores.

    `DecoderPool` has the limits.
    """
    settings, cores = load_settings(), available_cores()
    decoders = DecoderPool(cores, settings.decode_seconds)
    step = max(1, len(paths) // COLOUR_SAMPLE)

    def read(row: int) -> tuple[UInt8Array, bool] | str:
        """Return a picture and whether it lost colours, or the reason why it cannot be read."""
        try:
            data = read_file(folder / paths[row])
            image = decoders.decode_safely(data, spec, settings.max_image_pixels)
            if spec.channels == 3 or row % step:
                return image, False
            return image, _has_colours(
                decoders.decode_safely(data, COLOURS, settings.max_image_pixels)
            )
        except InvalidImage as error:
            return error.message
        except OSError as error:
            return f"The file cannot be read: {error.strerror}."

    images, kept, unreadable, coloured = [], [], [], 0
    try:
        with ThreadPoolExecutor(cores) as threads:
            for row, outcome in enumerate(threads.map(read, range(len(paths)))):
                if isinstance(outcome, str):
                    unreadable.append(UnreadableFile(printable(paths[row]), outcome))
                else:
                    images.append(outcome[0])
                    kept.append(row)
                    coloured += outcome[1]
    finally:
        decoders.close()
    sampled = sum(row % step == 0 for row in kept)
    return Pictures(spec.stack(images), kept, unreadable, coloured / max(1, sampled))


def _has_colours(pixels: UInt8Array) -> bool:
    """Return whether a picture of `COLOURS` has some."""
    levels = np.ptp(pixels.astype(np.int16), axis=2)  # (height, width)
    return bool((levels > COLOUR_LEVELS).mean() > COLOUR_AREA)
