"""Decoding of many picture files, in parallel."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from loupe.errors import InvalidImage
from loupe.files import printable
from loupe.images.decode import open_picture, read_file
from loupe.images.spec import SIDE, Look, UInt8Array
from loupe.settings import load_settings


@dataclass(frozen=True)
class UnreadableFile:
    """A file that is left out: its path below the data set's folder, and the reason."""

    path: str
    reason: str


def read_pictures(
    folder: Path, paths: Sequence[str], look: Look
) -> tuple[UInt8Array, list[int], list[UnreadableFile]]:
    """Decode and normalise files below a folder, on all cores.

    Return the images, uint8 `(n, 28, 28)`, in the order of the paths; the indices of their paths;
    and the files that could not be read.
    """
    max_pixels = load_settings().max_image_pixels
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(partial(_read, folder, look, max_pixels), paths))
    kept = [row for row, outcome in enumerate(outcomes) if not isinstance(outcome, str)]
    images = [outcome for outcome in outcomes if not isinstance(outcome, str)]
    unreadable = [
        UnreadableFile(printable(path), outcome)
        for path, outcome in zip(paths, outcomes, strict=True)
        if isinstance(outcome, str)
    ]
    return np.array(images, np.uint8).reshape(-1, SIDE, SIDE), kept, unreadable


def _read(folder: Path, look: Look, max_pixels: int, path: str) -> UInt8Array | str:
    """Return the picture, or the reason why it cannot be read."""
    try:
        return open_picture(read_file(folder / path), max_pixels=max_pixels).pixels(look)
    except InvalidImage as error:
        return error.message
    except OSError as error:
        return f"The file cannot be read: {error.strerror}."
