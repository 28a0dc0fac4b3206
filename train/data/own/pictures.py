"""Decoding of many picture files, in parallel."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from loupe.errors import InvalidImage
from loupe.files import printable
from loupe.images.decode import open_picture, read_file
from loupe.images.pool import DecoderPool
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.runtime.cores import available_cores
from loupe.settings import load_settings

COLOUR_SAMPLE = 100  # pictures that are looked at
COLOUR_SIDE = 28  # pixels of their longer side; enough to see colours
COLOUR_LEVELS = 24  # that the channels of a coloured pixel differ; less is the tint of a scan
COLOUR_AREA = 0.02  # of the pixels, in a picture with colours


@dataclass(frozen=True)
class UnreadableFile:
    """A file that is left out: its path below the data set's folder, and the reason."""

    path: str
    reason: str


def read_pictures(
    folder: Path, paths: Sequence[str], spec: ImageSpec
) -> tuple[UInt8Array, list[int], list[UnreadableFile]]:
    """Decode and normalise files below a folder, on all cores, within the limits of `DecoderPool`.

    Return the images, uint8 `(n, *spec.shape)`, in the order of the paths; the indices of their
    paths; and the files that could not be read.
    """
    settings, cores = load_settings(), available_cores()
    decoders = DecoderPool(cores, settings.decode_seconds)

    def read(path: str) -> UInt8Array | str:
        """Return the picture, or the reason why it cannot be read."""
        try:
            data = read_file(folder / path)
            return decoders.decode_safely(data, spec, settings.max_image_pixels)
        except InvalidImage as error:
            return error.message
        except OSError as error:
            return f"The file cannot be read: {error.strerror}."

    images, kept, unreadable = [], [], []
    try:
        with ThreadPoolExecutor(cores) as threads:
            for row, outcome in enumerate(threads.map(read, paths)):
                if isinstance(outcome, str):
                    unreadable.append(UnreadableFile(printable(paths[row]), outcome))
                else:
                    images.append(outcome)
                    kept.append(row)
    finally:
        decoders.close()
    return spec.stack(images), kept, unreadable


def colour_share(folder: Path, paths: Sequence[str]) -> float:
    """Return the fraction, 0..1, of pictures with colours among `COLOUR_SAMPLE` of these files."""
    sample = paths[:: max(1, len(paths) // COLOUR_SAMPLE)]
    return sum(_has_colours(folder / path) for path in sample) / max(1, len(sample))


def _has_colours(path: Path) -> bool:
    try:
        picture = open_picture(
            read_file(path), max_pixels=load_settings().max_image_pixels
        ).preview(COLOUR_SIDE)
    except (InvalidImage, OSError):
        return False
    pixels = np.asarray(picture, np.int16)  # (height, width, 3)
    return bool((np.ptp(pixels, axis=2) > COLOUR_LEVELS).mean() > COLOUR_AREA)
