"""Images that API keys have used, in Redis."""

from pathlib import Path

from tests.support.servers.redis_servers import redis_server
from worker.queue.jobs import Jobs
from worker.queue.keys import IMAGES
from worker.queue.usage import KEEP_SECONDS


def test_images_of_a_day_are_summed_until_they_expire(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        usage = Jobs(server.client).usage

        assert usage.add(7, {"alice": 0, "bob": 0}) == {"alice": 0, "bob": 0}
        assert server.client.keys("*") == []

        assert usage.add(7, {"alice": 3, "bob": 1}) == {"alice": 3, "bob": 1}
        assert usage.add(7, {"alice": -1}) == {"alice": 2}
        assert usage.add(8, {"alice": 5}) == {"alice": 5}
        assert KEEP_SECONDS - 60 < server.client.ttl(f"{IMAGES}:7") <= KEEP_SECONDS
