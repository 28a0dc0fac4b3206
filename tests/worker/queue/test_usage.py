"""Images that API keys have used, in Redis."""

from pathlib import Path

from tests.support.servers.redis_servers import redis_server
from worker.queue.jobs import Jobs
from worker.queue.keys import IMAGES
from worker.queue.usage import KEEP_SECONDS


def test_images_of_a_day_are_summed_until_they_expire(tmp_path: Path) -> None:
    with redis_server(tmp_path) as server:
        usage = Jobs(server.client).usage
        names = ["alice", "bob"]

        assert usage.update(7, "one", {}, names) == {"alice": 0, "bob": 0}
        assert server.client.keys("*") == []

        assert usage.update(7, "one", {"alice": 3, "bob": 1}, names) == {"alice": 3, "bob": 1}
        assert usage.update(7, "two", {"alice": 4}, names) == {"alice": 7, "bob": 1}
        for _ in range(2):
            assert usage.update(7, "one", {"alice": 2}, ["alice"]) == {"alice": 6}
        assert usage.update(8, "one", {"alice": 5}, ["alice"]) == {"alice": 5}
        assert KEEP_SECONDS - 60 < server.client.ttl(f"{IMAGES}:7:alice") <= KEEP_SECONDS
