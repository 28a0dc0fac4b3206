"""The keeper of the embedded Redis: its server ends, whatever happens to it or to the users."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import psutil
import pytest

from loupe.errors import RedisUnavailable
from loupe.files import lock
from loupe.runtime import redis_keeper
from loupe.runtime.redis_server import SOCKET, open_redis
from loupe.settings import Settings
from tests.support.programs import until

KEEPER = (
    "import sys; from loupe.runtime import redis_keeper as keeper; "
    "keeper.POLL_SECONDS = keeper.STOP_SECONDS = 0.2; keeper.keep(*sys.argv[1:])"
)
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
STUBBORN += "print('ready', flush=True); time.sleep(1000)"


@contextmanager
def keeping(folder: Path, *command: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a keeper, with short times, of another command than a server."""
    keeper = subprocess.Popen(
        [sys.executable, "-c", KEEPER, str(folder), *command], stdout=subprocess.PIPE, text=True
    )
    try:
        yield keeper
    finally:
        keeper.kill()
        keeper.communicate()


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def keepers_of(settings: Settings) -> list[psutil.Process]:
    children = psutil.Process().children()
    return [child for child in children if str(settings.home / "redis") in child.cmdline()]


def answer_of(settings: Settings) -> bool:
    with open_redis(settings) as redis:
        return bool(redis.ping())


def child_of(process: "subprocess.Popen[str]") -> psutil.Process:
    (child,) = until(lambda: psutil.Process(process.pid).children())
    return child


def test_a_server_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    with ExitStack() as user:
        user.enter_context(lock(tmp_path / redis_keeper.USERS, shared=True))
        with keeping(tmp_path, sys.executable, "-c", STUBBORN) as keeper:
            assert keeper.stdout is not None
            assert keeper.stdout.readline() == "ready\n"
            server = child_of(keeper)
            user.close()

            until(lambda: gone(server))
            assert keeper.wait(50) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="needs signals at the death of a parent")
def test_a_server_ends_when_its_keeper_is_killed(settings: Settings) -> None:
    with open_redis(settings) as redis:
        server = psutil.Process(redis.info("server")["process_id"])
        keeper = server.parent()
        assert keeper is not None
        keeper.kill()

        until(lambda: gone(server))
        with open_redis(settings) as again:
            assert again.ping()


def test_a_folder_has_one_server_at_a_time(tmp_path: Path) -> None:
    with (
        lock(tmp_path / redis_keeper.USERS, shared=True),
        keeping(tmp_path, "/bin/sleep", "1000") as first,
    ):
        child_of(first)
        with keeping(tmp_path, "/bin/touch", str(tmp_path / "started")) as second:
            assert second.wait(50) != 0
        assert not (tmp_path / "started").exists()


def test_user_waits_for_the_end_of_a_server(settings: Settings) -> None:
    folder = settings.home / "redis"
    folder.mkdir(parents=True)
    with ExitStack() as server, ThreadPoolExecutor() as threads:
        server.enter_context(lock(folder / redis_keeper.SERVER))  # as one that is ending
        answer = threads.submit(answer_of, settings)
        until((folder / redis_keeper.USERS).exists)
        assert not answer.done()
        server.close()

        assert answer.result(50)


def test_busy_server_has_no_successor_that_nobody_uses(settings: Settings) -> None:
    with ThreadPoolExecutor() as threads, open_redis(settings) as redis:
        path = settings.home / "redis" / SOCKET
        path.rename(path.with_suffix(".busy"))  # as with a full queue of connections
        answer = threads.submit(answer_of, settings)
        with pytest.raises(TimeoutError):
            answer.result(1)
        assert len(keepers_of(settings)) == 1
        path.with_suffix(".busy").rename(path)
        assert answer.result(50)
        assert redis.ping()


def test_a_server_ends_when_its_folder_is_deleted(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    with (
        lock(folder / redis_keeper.USERS, shared=True),
        keeping(folder, "/bin/sleep", "1000") as keeper,
    ):
        child_of(keeper)
        folder.rename(tmp_path / "elsewhere")

        assert keeper.wait(50) == 0


def test_the_last_user_waits_for_a_server_that_is_slow_to_stop(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("loupe.runtime.redis_server.STOP_SECONDS", 0.5)
    with open_redis(settings) as redis:
        server = psutil.Process(redis.info("server")["process_id"])
        server.suspend()
    assert server.is_running()
    server.resume()

    until(lambda: gone(server))


def test_a_server_that_does_not_answer_is_an_error(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with open_redis(settings) as redis:
        server = psutil.Process(redis.info("server")["process_id"])
        monkeypatch.setattr("loupe.runtime.redis_server.START_SECONDS", 0.5)
        server.suspend()
        with pytest.raises(RedisUnavailable), open_redis(settings):
            pass
        server.resume()
