"""`python -m tests.support.faulty_worker FAULT… [-- COMMAND…]`: run `loupe worker` with faults.

Each fault gets its own process; when that dies, the next one starts. After the last fault, workers
are sound. Another COMMAND of `loupe` runs once more without a fault, and then this program ends.
The processes are forked from one that has imported everything, so they start quickly.

    kill:before:MODULE:FUNCTION   `kill -9` before (or `after`) the first call of a function
    stop:before:MODULE:FUNCTION   the same with SIGSTOP
    hang:before:MODULE:FUNCTION   the first call of a function does not end
    poison                        `kill -9` when an image with only `POISON` pixels is scored; stays
    clock:SECONDS                 a clock that is ahead
    full-disk:BYTES               no file may grow longer
    unprivileged                  file permissions apply to root too
"""

import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from importlib import import_module
from importlib.abc import MetaPathFinder
from itertools import chain, repeat
from typing import NoReturn

import worker.process  # imported once for all processes
import worker.scoring.task
from loupe.cli import main as cli
from loupe.models.engines.engine import Engine
from worker.metrics import ShardClock
from worker.sources.source import BatchReader

POISON = 77
PR_SET_PDEATHSIG, PR_CAPBSET_DROP, CAP_DAC_OVERRIDE = 1, 24, 1
LIBC = ctypes.CDLL(None)


class WithoutPandas(MetaPathFinder):
    """Hide pandas, which users do not have and pyarrow would import with its first table."""

    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            raise ModuleNotFoundError(name=name)


def main() -> int:
    """Keep a worker running until SIGTERM; return the exit code of the last one."""
    sys.meta_path.insert(0, WithoutPandas())
    faults, command = sys.argv[1:], ["worker"]
    rest = repeat("poison" if "poison" in faults else "none")
    if "--" in faults:
        at = faults.index("--")
        faults, command, rest = faults[:at], faults[at + 1 :], repeat("none", 1)
    stopping = threading.Event()
    code = 0
    for fault in chain(faults, rest):
        if stopping.is_set():
            break
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            _work(fault, command)

        def stop(number: int, _: object, pid: int = pid) -> None:
            stopping.set()
            os.kill(pid, number)

        signal.signal(signal.SIGTERM, stop)
        _, status = os.waitpid(pid, 0)
        code = os.waitstatus_to_exitcode(status)
        message = f"the worker with the fault {fault} has ended with {code}"
        print(message, file=sys.stderr, flush=True)  # noqa: T201
    return code


def _work(fault: str, command: list[str]) -> NoReturn:
    code: object = 1
    try:
        _break(*fault.split(":"))
        sys.argv[1:] = command
        cli.main()
    except SystemExit as ending:
        code = ending.code
    finally:
        os._exit(int(bool(code)))  # skip exit handlers, which forked processes must not run


def _break(kind: str, *details: str) -> None:
    match kind, *details:
        case "kill", when, module, function:
            _patch(signal.SIGKILL, when, module, function)
        case "stop", when, module, function:
            _patch(signal.SIGSTOP, when, module, function)
        case "hang", when, module, function:
            _patch(None, when, module, function)
        case ["poison"]:
            _poison()
        case "clock", seconds:
            now = time.time
            time.time = lambda: now() + float(seconds)
        case "full-disk", size:
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(size), resource.RLIM_INFINITY))
        case ["unprivileged"]:
            LIBC.prctl(PR_CAPBSET_DROP, CAP_DAC_OVERRIDE)
            os.execv(sys.executable, [sys.executable, "-m", "loupe", "worker"])  # noqa: S606


def _patch(number: signal.Signals | None, when: str, module: str, function: str) -> None:
    """Send this process a signal at the first call of a function, or hang."""

    def strike() -> None:
        if number is None:
            print(f"hanging {when}:{module}:{function}", flush=True)  # noqa: T201
            time.sleep(3600)
        else:
            os.kill(os.getpid(), number)

    *names, name = function.split(".")
    owner = import_module(module)
    for outer in names:
        owner = getattr(owner, outer)
    whole: Callable[..., object] = getattr(owner, name)

    def patched(*arguments: object, **named: object) -> object:
        setattr(owner, name, whole)
        if when == "before":
            strike()
            return whole(*arguments, **named)
        result = whole(*arguments, **named)
        strike()
        return result

    setattr(owner, name, patched)


def _poison() -> None:
    score = worker.scoring.task.score_batch

    def fragile(engine: Engine, clock: ShardClock, batch: BatchReader) -> object:
        records = batch()
        if (records.images == POISON).all(axis=(1, 2)).any():
            os.kill(os.getpid(), signal.SIGKILL)
        return score(engine, clock, lambda: records)

    worker.scoring.task.score_batch = fragile  # type: ignore[assignment]


if __name__ == "__main__":
    sys.exit(main())
