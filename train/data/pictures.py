"""Many picture files, read at once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from loupe.errors import InvalidImage
from loupe.images.decode import open_picture, read_file
from loupe.images.spec import SIDE, Look, UInt8Array


@dataclass(frozen=True)
class LeftOut:
    """A file that is not in the data set: its path below the data set's folder, and why it cannot be read."""

    path: str
    reason: str


def read_pictures(
    folder: Path, paths: Sequence[str], look: Look, max_pixels: int
) -> tuple[UInt8Array, list[int], list[LeftOut]]:
    """Decode files and make them look like training data, on as many cores as there are.

    Args:
        folder: Where the paths begin.
        paths: Of the files, below the folder.
        look: How the pictures are made to look.
        max_pixels: Most pixels of one picture, as its header says.

    Returns:
        The images, uint8, shape `(n, 28, 28)`, in the order of the paths; which of the paths they are; and the files that could
        not be read.
    """
    read = partial(_read, folder, look, max_pixels)
    with ThreadPoolExecutor() as pool:
        outcomes = list(pool.map(read, paths))
    images = np.empty((len(paths), SIDE, SIDE), np.uint8)
    kept: list[int] = []
    left_out: list[LeftOut] = []
    for row, (path, outcome) in enumerate(zip(paths, outcomes, strict=True)):
        if isinstance(outcome, str):
            left_out.append(LeftOut(printable(path), outcome))
        else:
            images[len(kept)] = outcome
            kept.append(row)
    return images[: len(kept)], kept, left_out


def printable(path: str) -> str:
    """A path as text that can be written anywhere; bytes that are no UTF-8 become `\\udc..`."""
    return path.encode("utf-8", "backslashreplace").decode()


def _read(folder: Path, look: Look, max_pixels: int, path: str) -> UInt8Array | str:
    """The picture, or why there is none."""
    try:
        return open_picture(read_file(folder / path), max_pixels=max_pixels).pixels(look)
    except InvalidImage as error:
        return error.message
    except OSError as error:
        return f"The file cannot be read: {error.strerror}."
