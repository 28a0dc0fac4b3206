"""A Redis of one's own that listens on a port, as the one of many machines does."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from bench.workers import until
from loupe.ports import free_port
from loupe.processes import running
from loupe.redis_server import open_redis
from loupe.settings import Settings

ONCE = Retry(NoBackoff(), 0)


@contextmanager
def redis_over_tcp(folder: Path) -> Iterator[str]:
    """The URL of an empty Redis that writes its data to disk as the embedded one does."""
    home = Path(tempfile.mkdtemp(dir=folder))
    port = free_port()
    command = [_executable(home), "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home)]
    command += ["--appendonly", "yes", "--appendfsync", "everysec", "--save", ""]
    with running("redis-server", command, log=home / "log") as program, Redis(port=port, retry=ONCE) as client:

        def answers() -> bool:
            program.check()
            try:
                return bool(client.ping())
            except RedisConnectionError:
                return False

        until(answers)
        yield f"redis://127.0.0.1:{port}/0"


def _executable(home: Path) -> str:
    """The redis-server that Loupe would start, as it says itself."""
    with open_redis(Settings(data_dir=home)) as redis:
        return str(redis.info("server")["executable"])
