"""Run the embedded Redis until no process uses it: `redis_keeper.py FOLDER COMMAND…`.

Users may be killed at any time, so this is a separate program. It imports little, because it runs
as long as Redis.
"""

import fcntl
import os
import signal
import sys
import time

POLL_SECONDS = 1.0
STOP_SECONDS = 20.0  # at most
USERS, GATE = "users.lock", "gate.lock"  # see `redis_server`


def keep(folder: str, *command: str) -> None:
    """Run a command until it ends, or until no process holds a lock on `USERS`."""
    server = os.posix_spawn(command[0], command, os.environ)

    def reap(*_: object) -> None:
        if os.waitpid(server, os.WNOHANG)[0]:  # else it was paused or continued
            os._exit(0)  # without delay: the process that stopped Redis waits

    signal.signal(signal.SIGTERM, lambda *_: os.kill(server, signal.SIGTERM))
    signal.signal(signal.SIGCHLD, reap)
    reap()  # it may have ended before
    while True:
        time.sleep(POLL_SECONDS)
        _stop_if_unused(folder, server)


def _stop_if_unused(folder: str, server: int) -> None:
    try:
        with open(f"{folder}/{GATE}", "a") as gate, open(f"{folder}/{USERS}", "a") as users:  # noqa: PTH123
            # The gate first: a process that holds it is about to use Redis, or to stop it.
            for file in (gate, users):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.kill(server, signal.SIGTERM)
            time.sleep(STOP_SECONDS)  # `reap` ends this process, and with it the locks
    except BlockingIOError:
        return
    except FileNotFoundError:  # the folder is gone, and with it the socket
        os.kill(server, signal.SIGTERM)


if __name__ == "__main__":
    keep(*sys.argv[1:])
