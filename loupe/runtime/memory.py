"""Settings of the C library's allocator."""

import ctypes
import sys

# Parameters of glibc's `mallopt`. Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
MMAP_BYTES = 256 * 1024  # larger blocks are mapped apart from the heap
TRIM_BYTES = 2 * 2**20  # at the end of the heap that stay free


def return_freed_blocks() -> None:
    """Return large blocks to the system as soon as they are freed.

    By default, glibc puts blocks of up to 32 MB into the heap once some have been freed. Small
    objects above them then keep tens of megabytes of freed bodies and JSON values.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        if hasattr(libc, "mallopt"):  # musl has none, and needs none
            libc.mallopt(M_MMAP_THRESHOLD, MMAP_BYTES)
            libc.mallopt(M_TRIM_THRESHOLD, TRIM_BYTES)
