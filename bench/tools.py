"""The load generators that are not Python's: find them, or install them where that is one command."""

import os
import shutil
import subprocess
from types import MappingProxyType

PACKAGES = MappingProxyType({"wrk": "wrk", "h2load": "nghttp2-client"})  # of Debian


def find_tool(name: str) -> bool:
    """Whether a tool is there, after an attempt to install it as root on Debian."""
    if shutil.which(name) is None and os.geteuid() == 0 and shutil.which("apt-get") is not None:
        print(f"installing {name} (apt-get install {PACKAGES[name]})")
        for verb in (["update"], ["install", "--yes", "--no-install-recommends", PACKAGES[name]]):
            subprocess.run(["apt-get", "--quiet", "--quiet", *verb], check=False, stdout=subprocess.DEVNULL)
    return shutil.which(name) is not None
