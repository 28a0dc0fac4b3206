"""Clients of one Redis, of the primary that Sentinels name, and of a cluster.

The URLs of the last two are those of the package `limits`, with `rediss` for TLS:
`redis+sentinel://HOST:26379,HOST:26379/PRIMARY/0` and `redis+cluster://HOST:6379,HOST:6379`.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast
from urllib.parse import unquote, urlsplit

from redis import Redis, RedisCluster, SSLConnection
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, ClusterPipeline
from redis.connection import parse_url
from redis.exceptions import AuthenticationError, RedisClusterException, RedisError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry
from redis.sentinel import Sentinel

SENTINEL_PORT, CLUSTER_PORT = 26379, 6379


@contextmanager
def connect(url: str, password: str | None, connection: Mapping[str, Any]) -> Iterator[Redis]:
    """Open a client while the block runs. One of a cluster has the same commands.

    Args:
        url: Where Redis is. A password in it takes precedence.
        password: Password of the URL's user, or of the default one.
        connection: Options of redis-py.

    Raises:
        ValueError: If the URL is malformed.
        TypeError: If redis-py has no such option as the URL's query names.
    """
    parts = urlsplit(url)
    scheme, _, kind = parts.scheme.partition("+")
    if not kind:
        with Redis.from_url(url, password=password, **connection) as client:
            yield client
        return
    account, at, hosts = parts.netloc.rpartition("@")
    every: list[dict[str, Any]] = [
        parse_url(f"{scheme}://{account}{at}{host}/?{parts.query}")  # type: ignore[no-untyped-call]
        for host in hosts.split(",")
    ]
    if not all(each.get("host") for each in every):
        raise ValueError("the URL lacks a host")
    options: dict[str, Any] = {"password": password, **connection, **every[0]}
    options["ssl"] = options.pop("connection_class", None) is SSLConnection
    del options["host"]
    options.pop("port", None)
    if kind == "sentinel":
        addresses = [(each["host"], each.get("port", SENTINEL_PORT)) for each in every]
        with _primary(addresses, parts.path, options) as client:
            yield client
        return
    if parts.path.strip("/") not in ("", "0"):
        raise ValueError("a cluster has only the database 0")
    nodes = [
        ClusterNode(each["host"], each.get("port", CLUSTER_PORT))  # type: ignore[no-untyped-call]
        for each in every
    ]
    with _Cluster(startup_nodes=nodes, **options) as cluster:
        yield cast(Redis, cluster)


@contextmanager
def _primary(
    addresses: list[tuple[str, int]], path: str, options: dict[str, Any]
) -> Iterator[Redis]:
    """Open a client of the primary that the path names; each new connection asks Sentinels."""
    name, _, database = path.strip("/").partition("/")
    if not name or not (database or "0").isdigit():
        raise ValueError("the URL must end with the primary's name and a database, as /mymaster/0")
    own = {name: value for name, value in options.items() if name.startswith(("socket_", "ssl"))}
    own["retry"] = Retry(NoBackoff(), 0)  # the next Sentinel answers sooner
    own |= _account_for(addresses, own, {key: options.get(key) for key in ("username", "password")})
    options = {"db": int(database or 0), **options}
    with (
        Sentinel(addresses, sentinel_kwargs=own) as sentinel,  # type: ignore[no-untyped-call]
        sentinel.master_for(unquote(name), **options) as client,
    ):
        yield client


def _account_for(
    addresses: list[tuple[str, int]], options: dict[str, Any], account: dict[str, Any]
) -> dict[str, Any]:
    """Return the account that Sentinels want: that of Redis, or none.

    Raises:
        RedisError: If no Sentinel answers.
    """
    problem = RedisError()
    for host, port in addresses:
        for wanted in ({}, account):
            with Redis(host, port, **options, **wanted) as sentinel:
                try:
                    sentinel.ping()
                except AuthenticationError as error:
                    problem = error
                except RedisError as error:
                    problem = error
                    break
                else:
                    return wanted
    raise problem


class _Cluster(RedisCluster):
    """A client of a cluster whose errors are all `RedisError`, which redis-py's are not."""

    def execute_command(self, *args: Any, **kwargs: Any) -> Any:
        """See `Redis.execute_command`."""
        with _redis_errors():
            return super().execute_command(*args, **kwargs)  # type: ignore[no-untyped-call]

    def pipeline(self, transaction: Any = None, shard_hint: Any = None) -> ClusterPipeline:
        """See `Redis.pipeline`."""
        pipeline: ClusterPipeline = super().pipeline(transaction, shard_hint)  # type: ignore[no-untyped-call]
        execute: Callable[[bool], list[Any]] = pipeline.execute

        def translated(raise_on_error: bool = True) -> list[Any]:
            with _redis_errors():
                return execute(raise_on_error)

        pipeline.execute = translated  # type: ignore[method-assign]
        return pipeline


@contextmanager
def _redis_errors() -> Iterator[None]:
    try:
        yield
    except RedisClusterException as error:
        raise RedisConnectionError(str(error)) from error
