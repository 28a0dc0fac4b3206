"""Groups of Redis servers: a primary with a replica and Sentinels, and a cluster."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redis.crc import key_slot

from tests.support.programs import until
from tests.support.servers.redis_servers import RedisServer, redis_server

PRIMARY = "queue"  # the name by which Sentinels know it
DOWN_MS = 2000  # without an answer, after which a server counts as dead
SLOTS = 16384


@dataclass
class Watched:
    """A primary with a replica, and the Sentinels that watch them."""

    url: str
    primary: RedisServer
    replica: RedisServer

    def fail_over(self) -> None:
        """Kill the primary, and wait until its replica has taken over: they change names."""
        self.primary.process.kill()
        self.primary.process.wait()
        self.primary, self.replica = self.replica, self.primary
        until(lambda: self.primary.client.info("replication")["role"] == "master")

    def restart_replica(self) -> None:
        """Start the killed server, and wait until Sentinels have made it a replica."""
        self.replica.start_again()
        until(lambda: self.replica.client.info("replication").get("master_link_status") == "up")


@contextmanager
def watched_redis(folder: Path, sentinels: int = 3, **configuration: str) -> Iterator[Watched]:
    """Run a primary, a replica and Sentinels while the block runs.

    Args:
        folder: A folder for their data.
        sentinels: How many; more than half must agree that the primary is dead.
        configuration: Of the two servers.
    """
    with ExitStack() as stack:
        password = configuration.get("requirepass", "")
        account = {"masterauth": password} if password else {}

        def start(name: str, *arguments: str, **options: str) -> RedisServer:
            (folder / name).mkdir(parents=True)
            return stack.enter_context(redis_server(folder / name, arguments, **options))

        at_once = {"repl-diskless-sync-delay": "0"}
        primary = start("primary", **configuration, **account, **at_once)
        host, port = "127.0.0.1", _port(primary)
        options = configuration | account | {"replicaof": f"{host} {port}"}
        replica = start("replica", **options)
        until(lambda: replica.client.info("replication")["master_link_status"] == "up")
        found = []
        for number in range(sentinels):
            name = f"sentinel-{number}"
            file = folder / f"{name}.conf"  # a Sentinel writes what it learns into it
            file.write_text(
                f"sentinel monitor {PRIMARY} {host} {port} {sentinels // 2 + 1}\n"
                f"sentinel down-after-milliseconds {PRIMARY} {DOWN_MS}\n"
                f"sentinel failover-timeout {PRIMARY} 4000\n"
                + (f"sentinel auth-pass {PRIMARY} {password}\n" if password else "")
            )
            found.append(start(name, str(file), "--sentinel"))

        def all_know() -> bool:
            masters = [_run(each, "SENTINEL MASTER", PRIMARY) for each in found]
            return all(
                each["num-slaves"] == 1 and each["num-other-sentinels"] == sentinels - 1
                for each in masters
            )

        until(all_know)
        hosts = ",".join(f"{host}:{_port(each)}" for each in found)
        account_text = f":{password}@" if password else ""
        url = f"redis+sentinel://{account_text}{hosts}/{PRIMARY}/0"
        yield Watched(url, primary, replica)


@contextmanager
def redis_cluster(
    folder: Path, nodes: int = 3, *, has_replica: bool = False, **configuration: str
) -> Iterator[list[RedisServer]]:
    """Run a cluster of primaries while the block runs.

    Args:
        folder: A folder for their data.
        nodes: How many primaries; the last one has the lists of jobs.
        has_replica: Whether a replica of the last primary comes after them.
        configuration: Of all servers.
    """
    options = {
        "cluster-enabled": "yes",
        "cluster-node-timeout": str(DOWN_MS),
        "repl-diskless-sync-delay": "0",
    } | configuration
    with ExitStack() as stack:
        found = []
        for number in range(nodes + has_replica):
            (folder / f"node-{number}").mkdir(parents=True)
            found.append(stack.enter_context(redis_server(folder / f"node-{number}", **options)))
        for number, node in enumerate(found[:nodes]):
            first, stop = (SLOTS * each // nodes for each in (number, number + 1))
            _run(node, "CLUSTER ADDSLOTSRANGE", first, stop - 1)
            _run(node, "CLUSTER SET-CONFIG-EPOCH", number + 1)
        for node in found[1:]:
            _run(node, "CLUSTER MEET", "127.0.0.1", _port(found[0]))

        def is_ready(node: RedisServer) -> bool:
            info = _run(node, "CLUSTER INFO")
            return (info["cluster_state"], info["cluster_known_nodes"]) == ("ok", str(len(found)))

        until(lambda: all(map(is_ready, found)))
        if has_replica:
            _run(found[-1], "CLUSTER REPLICATE", _run(found[nodes - 1], "CLUSTER MYID"))
            until(lambda: found[-1].client.info("replication").get("master_link_status") == "up")
        yield found


def node_of(nodes: Sequence[RedisServer], key: str) -> RedisServer:
    """Return the primary of a cluster that has a key."""
    slot = key_slot(key.encode())
    return nodes[max(n for n in range(len(nodes)) if slot >= SLOTS * n // len(nodes))]


def cluster_url(nodes: list[RedisServer]) -> str:
    """Return the address of a cluster."""
    return "redis+cluster://" + ",".join(f"127.0.0.1:{_port(node)}" for node in nodes)


def _run(server: RedisServer, *command: object) -> Any:
    return server.client.execute_command(*command)  # type: ignore[no-untyped-call]


def _port(server: RedisServer) -> int:
    return int(server.client.get_connection_kwargs()["port"])
