"""Redis servers on a port, with any configuration, that tests can stop and start."""

import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
from redis import Redis

from loupe.runtime.redis_server import _find_executable
from tests.support.programs import free_port, until


@dataclass
class RedisServer:
    """A Redis server on a port of this machine."""

    url: str
    client: Redis
    command: list[str]
    process: subprocess.Popen[bytes]

    def start_again(self) -> None:
        """Start it again after it was killed."""
        self.process = _start(self.command, self.client)


@contextmanager
def redis_server(
    folder: Path, arguments: Sequence[str] = (), **configuration: str
) -> Iterator[RedisServer]:
    """Run a server with its data in a folder while the block runs."""
    port, password = free_port(), configuration.get("requirepass")
    options = {
        "port": str(port),
        "dir": str(folder),
        "save": "",
        "bind": "127.0.0.1",
    } | configuration
    command = [
        _find_executable(),
        *arguments,
        *(word for name, value in options.items() for word in (f"--{name}", value)),
    ]
    client = Redis(port=port, password=password, decode_responses=True)
    account = f":{password}@" if password else ""
    server = RedisServer(
        f"redis://{account}127.0.0.1:{port}/0", client, command, _start(command, client)
    )
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        client.close()


def _start(command: list[str], client: Redis) -> subprocess.Popen[bytes]:
    """Start a server and wait until it listens, even if it answers with errors."""
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    address = ("127.0.0.1", client.get_connection_kwargs()["port"])

    def listens() -> bool:
        try:
            socket.create_connection(address).close()
        except ConnectionRefusedError:
            return False
        return True

    until(listens)
    return process


def servers_in(folder: Path) -> list[psutil.Process]:
    """Return the Redis or Valkey servers that run in a folder or below it."""
    found = []
    for process in psutil.process_iter(["name"]):
        if process.info["name"] in ("redis-server", "valkey-server"):
            with suppress(psutil.Error):
                if Path(process.cwd()).is_relative_to(folder):
                    found.append(process)
    return found
