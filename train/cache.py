"""Arrays kept on disk for the next call, in one `.npz` file a data set; never pickled."""

import logging
import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FINGERPRINT = "fingerprint"  # name of the array that holds it

NamedArrays: TypeAlias = dict[str, NDArray[np.generic]]


def cached(path: Path, fingerprint: str, build: Callable[[], NamedArrays]) -> NamedArrays:
    """The arrays in a file that was made from the same source, or those just built, which the file then holds.

    Args:
        path: The file; its folder is made if need be. A folder that cannot be written costs a warning, not the arrays.
        fingerprint: Of the source. A file with another one, or a damaged one, is built anew.
        build: Makes the arrays.
    """
    arrays = read(path, fingerprint)
    if arrays is None:
        arrays = build()
        try:
            write(path, fingerprint, arrays)
        except OSError as error:
            logger.warning("%s is not kept for the next call: %s", path, error)
    return arrays


def read(path: Path, fingerprint: str) -> NamedArrays | None:
    """What `write` wrote with the same fingerprint; nothing if there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file[FINGERPRINT]) != fingerprint:
                return None
            return {name: file[name] for name in file.files if name != FINGERPRINT}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        logger.warning("%s is damaged and is made again: %s", path, error)
        return None


def write(path: Path, fingerprint: str, arrays: NamedArrays) -> None:
    """Write the file at once: whoever reads meanwhile sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            np.savez(file, allow_pickle=False, **{FINGERPRINT: np.array(fingerprint)}, **arrays)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
