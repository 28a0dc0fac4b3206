"""A child process with limits of time and memory: a given model is a program that may not end."""

import math
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from signal import SIGKILL, SIGXCPU, Signals

from loupe.errors import InvalidModel
from loupe.runtime.processes import end_with_parent

MAX_BYTES = 2**33  # TensorFlow takes one GiB, and the largest models a few more


def run_limited(arguments: Sequence[str], seconds: float) -> int:
    """Run `loupe` in a child process, which writes to the same terminal; return its exit code.

    Args:
        arguments: Those of the import.
        seconds: CPU time of the process.

    Raises:
        InvalidModel: If the system ends the process.
    """
    request_signal = end_with_parent()

    def limit() -> None:
        request_signal()
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(seconds), resource.RLIM_INFINITY))
        if sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (MAX_BYTES, MAX_BYTES))
            Path("/proc/self/oom_score_adj").write_text("1000")  # before other programs

    with tempfile.TemporaryDirectory(prefix="loupe-import-") as folder:
        variables = {"TMPDIR": folder, "LOUPE_IMPORT_SECONDS": "0"}
        code = subprocess.run(
            [sys.executable, "-P", "-m", "loupe", *arguments],
            env=os.environ | variables,
            preexec_fn=limit,
            check=False,
        ).returncode
    if code >= 0:
        return code
    reasons = {
        SIGXCPU: f"takes longer than LOUPE_IMPORT_SECONDS, {seconds:g} seconds of CPU time. Raise "
        "it for a large model, or use fewer test images",
        SIGKILL: "was killed, probably because it takes too much memory",
    }
    signal = Signals(-code)
    reason = reasons.get(signal, f"crashed ({signal.name}), or takes too much memory")
    raise InvalidModel(f"The import {reason}.", code="model_too_costly")
