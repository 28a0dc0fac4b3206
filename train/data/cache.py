"""Arrays kept on disk for the next call, in one `.npz` file a data set; never pickled."""

import logging
import tokenize
import uuid
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

logger = logging.getLogger(__name__)

FINGERPRINT = "fingerprint"  # name of the array that holds it, and the names of the others: a damaged list of files hides some

# What zipfile and NumPy raise for bytes that are no archive of arrays, or no longer one; LookupError is a missing array.
DAMAGE = (
    *(
        OSError,
        EOFError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RuntimeError,
        MemoryError,
    ),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)

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
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            known, *names = arrays[FINGERPRINT].tolist()
            return {name: arrays[name] for name in names} if known == fingerprint else None
    except FileNotFoundError:
        return None
    except DAMAGE as error:
        logger.warning("%s is damaged and is made again: %s", path, error)
        return None


def write(path: Path, fingerprint: str, arrays: NamedArrays) -> None:
    """Write the file at once: whoever reads meanwhile sees the old one or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        with temporary.open("wb") as file:
            np.savez(
                file,
                allow_pickle=False,
                **{FINGERPRINT: np.array([fingerprint, *arrays])},
                **arrays,
            )
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
