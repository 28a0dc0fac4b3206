"""What is asked of every member of an archive before it is read."""

from pathlib import PurePosixPath

from loupe.images.decode import MAX_FILE_BYTES

MOST_TIMES_PACKED = (
    200  # a picture of one colour, uncompressed, packs so well only where it is large
)
SMALL_BYTES = 2**20  # what is no longer than this may pack as well as it will


def why_refused(name: str, size: int, packed: int) -> str | None:
    """What is wrong with a member, if anything is.

    Args:
        name: Its path in the archive.
        size: Bytes it has.
        packed: Bytes it takes in the archive.
    """
    if (
        name.startswith(("/", "\\"))
        or ":" in name[:3]
        or ".." in PurePosixPath(name.replace("\\", "/")).parts
    ):
        return "a path that leads out of the archive"
    if size > MAX_FILE_BYTES:
        return f"a member of {size:,} bytes"
    if size > max(SMALL_BYTES, MOST_TIMES_PACKED * packed):
        return f"a member of {size:,} bytes packed into {packed:,}"
    return None
