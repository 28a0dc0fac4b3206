"""Arrays of `.npz` archives, checked before they are unpacked: members may claim terabytes."""

import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from loupe.files import max_unpacked_bytes, open_regular
from loupe.images.arrays import npy

SUFFIX = ".npy"  # of members


def read_npz(
    path: Path, max_bytes: int, is_needed: Callable[[str, npy.Header], bool]
) -> dict[str, NDArray[Any]]:
    """Return arrays of an archive by name, without those that are not needed.

    Args:
        path: The archive.
        max_bytes: Maximum size of all its arrays, unpacked.
        is_needed: Is asked with the name and the header of each array before its values are read.

    Raises:
        OSError, ValueError, EOFError, NotImplementedError, zipfile.BadZipFile: If the archive is
            damaged, or as `is_needed` does.
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as archive:
        members = [each for each in archive.infolist() if each.filename.endswith(SUFFIX)]
        size = sum(member.file_size for member in members)
        limit = min(max_bytes, max_unpacked_bytes(sum(each.compress_size for each in members)))
        if size > limit:
            raise ValueError(f"{size:,} bytes unpacked; the limit is {limit:,}")
        arrays = {}
        for member in members:
            name = member.filename.removesuffix(SUFFIX)
            with archive.open(member) as opened:
                header = npy.read_header(opened.read(npy.HEAD_BYTES))
            if not is_needed(name, header):
                continue
            if header.dtype.hasobject:
                raise ValueError(f"{name} holds Python objects: save numbers or text")
            if header.offset + header.nbytes != member.file_size:
                raise ValueError(f"{name}: its header of {header.shape} is not true")
            with archive.open(member) as opened:
                arrays[name] = np.lib.format.read_array(opened, allow_pickle=False)
        return arrays
