"""Arrays kept on disk for the next call, in one `.npz` file per data set, never pickled."""

import logging
import tokenize
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from loupe.files import atomic_path

logger = logging.getLogger(__name__)

# The array that holds the fingerprint and the names of all others: damage to the archive's
# index can hide arrays.
FINGERPRINT = "fingerprint"

# What zipfile and NumPy raise for damaged files; LookupError means a missing array.
DAMAGE_ERRORS = (
    OSError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
    tokenize.TokenError,
)

NamedArrays: TypeAlias = dict[str, NDArray[np.generic]]


def cached(path: Path, fingerprint: str, build: Callable[[], NamedArrays]) -> NamedArrays:
    """Return the arrays in a file, or build and store them.

    The fingerprint identifies their source; a file with another one, or a damaged one, is
    replaced. If the file cannot be written, a warning is logged.
    """
    arrays = read(path, fingerprint)
    if arrays is None:
        arrays = build()
        try:
            write(path, fingerprint, arrays)
        except OSError as error:
            logger.warning("%s cannot be written: %s", path, error)
    return arrays


def read(path: Path, fingerprint: str) -> NamedArrays | None:
    """Return the arrays that `write` stored with this fingerprint, or `None`."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            known, *names = arrays[FINGERPRINT].tolist()
            return {name: arrays[name] for name in names} if known == fingerprint else None
    except FileNotFoundError:
        return None
    except DAMAGE_ERRORS as error:
        logger.warning("%s is damaged and will be replaced: %s", path, error)
        return None


def write(path: Path, fingerprint: str, arrays: NamedArrays) -> None:
    """Write the file atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    names = np.array([fingerprint, *arrays])
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, allow_pickle=False, **{FINGERPRINT: names}, **arrays)
