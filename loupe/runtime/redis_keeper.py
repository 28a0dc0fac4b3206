"""Run the embedded Redis until no process uses it: `redis_keeper.py FOLDER COMMAND…`.

Users may be killed at any time, so this is a separate program. It imports little, because it runs
as long as Redis.
"""

import ctypes
import fcntl
import os
import signal
import sys
import time
from contextlib import ExitStack, suppress

POLL_SECONDS = 1.0
STOP_SECONDS = 20.0  # for Redis to end; then it is killed, and its append-only file holds its data
USERS, GATE, SERVER = "users.lock", "gate.lock", "server.lock"  # see `redis_server`
PR_SET_PDEATHSIG = 1  # Source: linux/prctl.h
SIGNALS = (signal.SIGTERM, signal.SIGCHLD)


def keep(folder: str, *command: str) -> None:
    """Run a command until it ends, or until no process holds a lock on `USERS`.

    Raises:
        BlockingIOError: If a server runs already.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # until their handlers know the server
    # The server inherits the lock, so it ends with the server even if this process is killed.
    lock = os.open(f"{folder}/{SERVER}", os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.set_inheritable(lock, True)
    keeper, server = os.getpid(), os.fork()
    if not server:
        _run(keeper, command)

    def reap(*_: object) -> None:
        if os.waitpid(server, os.WNOHANG)[0]:  # else it was paused or continued
            os._exit(0)  # without delay: the process that stopped Redis waits

    signal.signal(signal.SIGTERM, lambda *_: os.kill(server, signal.SIGTERM))
    signal.signal(signal.SIGCHLD, reap)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    while True:
        time.sleep(POLL_SECONDS)
        with ExitStack() as locks:
            if _is_unused(folder, locks):
                os.kill(server, signal.SIGTERM)
                time.sleep(STOP_SECONDS)  # `reap` ends this process, and with it the locks
                os.kill(server, signal.SIGKILL)


def _run(keeper: int, command: tuple[str, ...]) -> None:
    """Become the server, which ends with the keeper where the system can do that."""
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() == keeper:
            os.execv(command[0], command)  # noqa: S606
    finally:
        os._exit(1)


def _is_unused(folder: str, locks: ExitStack) -> bool:
    """Return whether no process uses the server, and keep new ones waiting until `locks` end."""
    try:
        # The gate first: a process that holds it is about to use Redis, or to stop it.
        for name in (GATE, USERS):
            file = locks.enter_context(open(f"{folder}/{name}", "a"))  # noqa: PTH123, SIM115
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (FileNotFoundError, NotADirectoryError):  # the folder has been deleted, with the socket
        return True
    except OSError:  # it is in use, or too many files are open
        return False
    return True


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        keep(*sys.argv[1:])
