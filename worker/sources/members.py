"""Checks of archive members before they are read."""

from pathlib import PurePosixPath

from loupe.images.decode import MAX_FILE_BYTES

MAX_COMPRESSION = 200  # only large pictures of one colour without compression reach this
SMALL_BYTES = 2**20  # members up to this size may be compressed more


def why_refused(name: str, size: int, compressed: int) -> str | None:
    """Return why a member is not read; `None` if it can be.

    Args:
        name: Path in the archive.
        size: Bytes of the file.
        compressed: Bytes in the archive.
    """
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if name.startswith(("/", "\\")) or ":" in name[:3] or ".." in parts:
        return "The path leads out of the archive."
    if size > MAX_FILE_BYTES:
        return f"The member has {size:,} bytes, more than {MAX_FILE_BYTES:,}."
    if size > max(SMALL_BYTES, MAX_COMPRESSION * compressed):
        return f"The member's {compressed:,} bytes would unpack to {size:,}."
    return None
