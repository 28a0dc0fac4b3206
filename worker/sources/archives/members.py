"""Members of archives: which of them are refused."""

import re

from loupe.files import max_unpacked_bytes
from loupe.images.decode import MAX_FILE_BYTES

DRIVE = re.compile("[A-Za-z]:")
SMALL_MEMBER_BYTES = 2**20  # up to this size, members may be compressed more


def why_member_refused(name: str, size: int, compressed: int) -> str | None:
    """Return why a member of an archive is not read; `None` if it can be.

    Args:
        name: Path in the archive.
        size: Bytes of the file.
        compressed: Bytes in the archive.
    """
    parts = name.replace("\\", "/").split("/")
    if name.startswith(("/", "\\")) or DRIVE.match(name) or ".." in parts:
        return "The path leads out of the archive."
    if size > MAX_FILE_BYTES:
        return f"The member has {size:,} bytes, more than {MAX_FILE_BYTES:,}."
    if size > max_unpacked_bytes(compressed, SMALL_MEMBER_BYTES):
        return f"The member's {compressed:,} bytes would unpack to {size:,}."
    return None
