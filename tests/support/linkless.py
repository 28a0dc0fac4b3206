"""A file system without hard links, as exFAT or gcsfuse, for child processes."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = """
#include <errno.h>
int link(const char *old, const char *new) { errno = EPERM; return -1; }
int linkat(int from, const char *old, int to, const char *new, int flags) {
    errno = EPERM;
    return -1;
}
"""


def without_hard_links(folder: Path) -> dict[str, str]:
    """Return variables of a process in which making a hard link fails; needs a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    source, library = folder / "linkless.c", folder / "linkless.so"
    source.write_text(SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    return {"LD_PRELOAD": str(library)}
