"""The embedded Redis: shared by the users of a folder, stopped by the last, with lasting data."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import psutil
import pytest
from redis import Redis

from loupe.errors import RedisUnavailable
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from tests.support.programs import environment, free_port, until
from tests.support.servers.redis_servers import redis_server, servers_in

USER = """
import sys
from loupe.runtime.redis_server import open_redis
from loupe.settings import load_settings
with open_redis(load_settings()) as redis:
    print(redis.info("server")["process_id"], flush=True)
    sys.stdin.readline()
"""


def server_of(redis: Redis) -> psutil.Process:
    information = redis.info("server")
    return psutil.Process(information["process_id"])


def another_user(data: Path) -> "subprocess.Popen[str]":
    """Start a process that uses the folder's Redis until it reads a line."""
    return subprocess.Popen(
        [sys.executable, "-c", USER],
        env=environment(LOUPE_DATA_DIR=data),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_data_stays_when_the_server_stops(settings: Settings) -> None:
    with open_redis(settings) as redis:
        redis.set("name", "Ärmel")
        server = server_of(redis)
    assert not server.is_running()

    with open_redis(settings) as redis:
        assert redis.get("name") == "Ärmel"


def test_users_of_a_folder_share_one_server_and_the_last_stops_it(
    settings: Settings,
) -> None:
    with open_redis(settings) as first:
        server = server_of(first)
        with open_redis(settings) as second:
            assert server_of(second).pid == server.pid
        assert server.is_running()
        assert first.ping()
    assert not server.is_running()


def test_another_process_shares_it_and_may_be_the_last(settings: Settings) -> None:
    with open_redis(settings) as redis:
        server = server_of(redis)
        with another_user(settings.home) as other:
            assert other.stdout is not None
            assert int(other.stdout.readline()) == server.pid
            other.communicate("go\n")
        assert redis.ping()
    with another_user(settings.home) as other:
        assert other.stdout is not None
        pid = int(other.stdout.readline())
        with open_redis(settings):
            pass
        assert psutil.pid_exists(pid)
        other.communicate("go\n")
    assert not psutil.pid_exists(pid)


def test_server_stops_when_its_last_user_is_killed(settings: Settings) -> None:
    with another_user(settings.home) as other, another_user(settings.home) as last:
        assert other.stdout is not None
        assert last.stdout is not None
        pid = int(other.stdout.readline())
        assert int(last.stdout.readline()) == pid
        other.kill()
        other.wait()
        with open_redis(settings) as redis:
            redis.set("name", "value")
        last.kill()
    until(lambda: not psutil.pid_exists(pid))

    with open_redis(settings) as redis:
        assert redis.get("name") == "value"


def test_server_that_was_killed_is_started_again_with_its_data(settings: Settings) -> None:
    with open_redis(settings) as redis:
        redis.set("name", "value")
        server = server_of(redis)
    assert not server.is_running()
    with open_redis(settings) as redis:
        os.kill(server_of(redis).pid, signal.SIGKILL)
        with open_redis(settings) as second:
            assert second.get("name") == "value"


def test_loading_server_is_awaited_and_not_started_twice(
    settings: Settings,
) -> None:
    folder = settings.home / "redis"
    folder.mkdir(parents=True)
    command = b"*3\r\n$3\r\nSET\r\n$8\r\n%08d\r\n$1\r\nx\r\n"
    (folder / "appendonly.aof").write_bytes(b"".join(command % number for number in range(500_000)))
    with another_user(settings.home) as starter:
        until((folder / "redis.sock").exists)
        starter.kill()

    with open_redis(settings) as redis:
        assert redis.dbsize() == 500_000
        assert [each.pid for each in servers_in(folder)] == [server_of(redis).pid]
    assert servers_in(folder) == []


def test_configured_redis_is_awaited_while_it_loads_its_data(
    tmp_path: Path,
) -> None:
    command = b"*3\r\n$3\r\nSET\r\n$8\r\n%08d\r\n$1\r\nx\r\n"
    (tmp_path / "appendonly.aof").write_bytes(
        b"".join(command % number for number in range(1_000_000))
    )
    with (
        redis_server(tmp_path, appendonly="yes") as server,
        open_redis(Settings(redis_url=server.url)) as redis,
    ):
        assert redis.dbsize() == 1_000_000


def test_redis_password_can_be_read_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("secret-word\n")
    with redis_server(tmp_path, requirepass="secret-word") as server:
        named = Settings(
            redis_url=server.url.replace(":secret-word@", ""),
            redis_password_file=tmp_path / "password",
        )
        with open_redis(named) as redis:
            assert redis.ping()


@pytest.mark.parametrize(
    ("words", "received"),
    [("another-word", "invalid username-password pair"), (None, "No such file or directory")],
)
def test_error_about_a_wrong_or_missing_password_does_not_show_it(
    tmp_path: Path, words: str | None, received: str
) -> None:
    if words:
        (tmp_path / "password").write_text(words)
    with redis_server(tmp_path, requirepass="secret-word") as server:
        url = server.url.replace(":secret-word@", "")
        named = Settings(redis_url=url, redis_password_file=tmp_path / "password")
        with pytest.raises(RedisUnavailable, match=received) as raised, open_redis(named):
            pass
    assert f"{url} (LOUPE_REDIS_URL)" in raised.value.message
    assert "-word" not in raised.value.message


def test_concurrent_users_share_one_server(settings: Settings) -> None:
    servers: set[int] = set()
    together = threading.Barrier(8)

    def come_and_go() -> None:
        for _ in range(3):
            with open_redis(settings) as redis:
                servers.add(server_of(redis).pid)
                together.wait(30)

    threads = [threading.Thread(target=come_and_go) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(servers) <= 3  # one at a time
    assert not any(psutil.pid_exists(pid) for pid in servers)


def test_two_folders_have_two_servers(tmp_path: Path) -> None:
    with (
        open_redis(Settings(data_dir=tmp_path / "a")) as one,
        open_redis(Settings(data_dir=tmp_path / "b")) as two,
    ):
        one.set("name", "one")
        assert two.get("name") is None


def test_folder_with_a_long_path_has_a_server_too(tmp_path: Path) -> None:
    folder = tmp_path / ("long" * 30)
    with open_redis(Settings(data_dir=folder)) as redis:
        assert redis.ping()
        assert (folder / "redis" / "redis.sock").is_socket()  # not in a folder of all users
        with another_user(folder) as other:
            assert other.stdout is not None
            assert int(other.stdout.readline()) == server_of(redis).pid
            other.communicate("go\n")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_folder_of_another_user_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "redis"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    with (
        redis_server(tmp_path, unixsocket=str(folder / "redis.sock"), unixsocketperm="777"),
        pytest.raises(RedisUnavailable, match="65534"),
        open_redis(Settings(data_dir=tmp_path)),
    ):
        pass


def test_folder_that_others_can_enter_becomes_private(settings: Settings) -> None:
    folder = settings.home / "redis"
    folder.mkdir(parents=True, mode=0o777)
    folder.chmod(0o777)
    with open_redis(settings):
        assert folder.stat().st_mode & 0o077 == 0


def test_redis_folder_is_private(settings: Settings) -> None:
    with open_redis(settings):
        assert (settings.home / "redis").stat().st_mode & 0o077 == 0


def test_error_of_a_server_that_cannot_start_quotes_its_log(settings: Settings) -> None:
    folder = settings.home / "redis"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof").write_bytes(b"no such file format")

    with (
        pytest.raises(RedisUnavailable, match=r"did not start.*append only file"),
        open_redis(settings),
    ):
        pass


def test_configured_redis_is_used(settings: Settings) -> None:
    with open_redis(settings) as embedded:
        port = free_port()
        embedded.config_set("port", port)
        until(lambda: embedded.ping())
        embedded.set("name", "value")
        named = Settings(data_dir=settings.home / "unused", redis_url=f"redis://127.0.0.1:{port}/0")
        with open_redis(named) as redis:
            assert redis.get("name") == "value"
        assert embedded.ping()  # it is not ours to stop
    assert not named.home.exists()


@pytest.mark.parametrize(
    ("url", "where"),
    [
        ("redis://127.0.0.1:1/0", "redis://127.0.0.1:1/0"),
        ("redis://somebody:a@secret@[::1/0", "redis://[::1/0"),
        ("redis://somebody:secret@127.0.0.1:1/0", "redis://127.0.0.1:1/0"),
        ("unix:///nowhere.sock", "unix:///nowhere.sock"),
    ],
)
def test_error_about_a_url_without_redis_hides_its_password(
    tmp_path: Path, url: str, where: str
) -> None:
    with (
        pytest.raises(RedisUnavailable) as raised,
        open_redis(Settings(data_dir=tmp_path, redis_url=url)),
    ):
        pass

    assert f"{where} (LOUPE_REDIS_URL)" in raised.value.message
    assert "secret" not in raised.value.message
