"""Addresses of Redis: one server, with TLS, behind Sentinels, or a cluster."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from loupe.errors import InvalidSetting, RedisUnavailable
from loupe.runtime.redis_server import HASTY, open_redis
from loupe.settings import Settings, load_settings
from tests.support.programs import free_port
from tests.support.servers.redis_groups import PRIMARY, cluster_url, redis_cluster, watched_redis
from tests.support.servers.redis_servers import redis_server
from tests.support.servers.tls_server import make_certificate, tls_proxy


def refusal(url: str, password_file: Path | None = None) -> str:
    """Return the error of a Redis that cannot be opened."""
    settings = Settings(redis_url=url, redis_password_file=password_file)
    with pytest.raises(RedisUnavailable) as refused, open_redis(settings, HASTY):
        pass
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.fixture(scope="module")
def nowhere() -> str:
    return f"127.0.0.1:{free_port()}"


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Host and port of a Redis that is neither a Sentinel nor in a cluster."""
    with redis_server(tmp_path_factory.mktemp("redis"), requirepass="right") as server:
        yield server.url.partition("@")[2].partition("/")[0]


def test_sentinels_name_the_primary_and_its_successor(tmp_path: Path) -> None:
    with watched_redis(tmp_path / "redis", sentinels=1, requirepass="right") as group:
        password = tmp_path / "password"
        password.write_text("right\n")
        url = group.url.replace(":right@", "").replace("/queue/0", "/queue")
        settings = Settings(redis_url=url, redis_password_file=password)
        with open_redis(settings) as client, open_redis(Settings(redis_url=group.url)) as other:
            client.set("name", "value")
            other.wait(1, 0)
            group.fail_over()
            assert client.get("name") == "value"
            client.set("name", "new")
            assert group.primary.client.get("name") == "new"
        sentinel = url.rpartition("/")[0]
        assert "'unknown'" in refusal(f"{sentinel}/unknown")
        wrong = refusal(f"{sentinel.replace('://', '://:wrong@')}/{PRIMARY}")
        assert "wrong" not in wrong
        assert "password" in wrong


def test_a_cluster_keeps_keys_on_several_nodes(tmp_path: Path) -> None:
    with redis_cluster(tmp_path) as nodes, open_redis(Settings(redis_url=cluster_url(nodes))) as it:
        for number in range(30):
            it.set(f"key-{number}", number)
        with it.pipeline(transaction=False) as pipeline:
            for number in range(30):
                pipeline.get(f"key-{number}")
            assert pipeline.execute() == [str(number) for number in range(30)]
        assert all(node.client.dbsize() for node in nodes)
        for node in nodes:
            node.process.kill()
        with pytest.raises(RedisUnavailable), open_redis(Settings(redis_url=cluster_url(nodes))):
            pass


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("redis+sentinel://{nowhere},{nowhere}/queue", "refused"),
        ("redis+sentinel://{plain}/queue", "asks for a password"),
        ("redis+sentinel://:right@{plain}/queue", "SENTINEL"),
        ("redis+sentinel://{plain}", "/mymaster/0"),
        ("redis+sentinel://{plain}/queue/first", "/mymaster/0"),
        ("redis+cluster://{nowhere}", "cannot be connected"),
        ("redis+cluster://:right@{plain}", "cluster"),
        ("redis+cluster://{plain}/1", "database 0"),
        ("redis+cluster://{plain},", "lacks a host"),
        ("redis://{nowhere}", "refused"),
        ("redis://{plain}", "asks for a password"),
        ("redis://:wrong@{plain}", "username-password"),
        ("redis://{plain}?color=red", "color"),
    ],
)
def test_a_redis_that_cannot_be_opened_is_one_clear_error(
    nowhere: str, plain: str, path: str, reason: str
) -> None:
    url = path.format(nowhere=nowhere, plain=plain)
    words = refusal(url)
    assert reason in words
    assert "LOUPE_REDIS_URL" in words
    assert "wrong@" not in words


def test_an_unknown_scheme_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOUPE_REDIS_URL", "redis+raft://:secret@host")
    with pytest.raises(InvalidSetting) as refused:
        load_settings()
    assert "redis+cluster://" in str(refused.value)
    assert "secret" not in str(refused.value)


def test_tls_needs_a_certificate_that_is_trusted(plain: str, tmp_path: Path) -> None:
    folders = [tmp_path / "right", tmp_path / "wrong"]
    for folder in folders:
        folder.mkdir()
    with tls_proxy(int(plain.rpartition(":")[2]), folders[0]) as (port, certificate):
        url = f"rediss://:right@127.0.0.1:{port}/0"
        with open_redis(Settings(redis_url=f"{url}?ssl_ca_certs={certificate}")) as client:
            assert client.ping()
        other, _ = make_certificate(folders[1])
        assert "CERTIFICATE_VERIFY_FAILED" in refusal(f"{url}?ssl_ca_certs={other}")
        assert "CERTIFICATE_VERIFY_FAILED" in refusal(url)
        assert "/nowhere" in refusal(f"{url}?ssl_ca_certs=/nowhere")
        sentinel = f"rediss+sentinel://127.0.0.1:{port}/queue?ssl_ca_certs={other}"
        assert "CERTIFICATE_VERIFY_FAILED" in refusal(sentinel)
