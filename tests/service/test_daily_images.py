"""The images of API keys on one day, over restarts and for several services."""

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from loupe.errors import RedisUnavailable, TooManyRequests
from loupe.settings import Settings
from service.daily_images import DailyImages
from service.jobs.queue import JobQueue
from service.key_limits import DAY_SECONDS, KeyLimit, KeyLimits
from tests.support.servers.redis_servers import RedisServer, redis_server

DAILY = 10
LIMITS = {"alice": KeyLimit(images_per_day=DAILY), "bob": KeyLimit(1.0)}
TODAY = 20_000.5 * DAY_SECONDS


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["redis", "file"])
def settings(request: pytest.FixtureRequest, server: RedisServer, tmp_path: Path) -> Settings:
    """Return settings with an empty Redis, or without its address and an empty data folder."""
    server.client.flushall()
    url = server.url if request.param == "redis" else None
    return Settings(data_dir=tmp_path / "data", redis_url=url)


@asynccontextmanager
async def service(
    settings: Settings, clock: Callable[[], float] = lambda: TODAY
) -> AsyncIterator[tuple[KeyLimits, DailyImages]]:
    """Count and save images as a service does, which has asked for the sums once."""
    limits, jobs = KeyLimits(LIMITS, clock=clock), JobQueue(settings)
    daily = DailyImages(limits, jobs, settings)
    await daily.save()
    yield limits, daily
    await daily.close()
    await jobs.close()


def images_today(limits: KeyLimits) -> float:
    (_, used) = limits.metrics()
    return used.samples[0].value


def test_restart_keeps_the_images_of_the_day(settings: Settings) -> None:
    async def story() -> None:
        async with service(settings) as (limits, _):
            limits.take_images("alice", 8)
            limits.give_back("alice", 1)
        async with service(settings) as (limits, _):
            assert images_today(limits) == 7
            with pytest.raises(TooManyRequests):
                limits.take_images("alice", 4)
            limits.take_images("alice", 3)

    asyncio.run(story())


def test_services_share_the_limit_of_a_day(settings: Settings) -> None:
    async def story() -> None:
        async with service(settings) as (here, saving), service(settings) as (there, learning):
            here.take_images("alice", 6)
            there.take_images("alice", 3)
            await saving.save()
            await learning.save()
            assert images_today(there) == 9
            await saving.save()
            assert images_today(here) == 9
            here.give_back("alice", 2)
            await saving.save()
            await learning.save()
            assert images_today(here) == images_today(there) == 7

    asyncio.run(story())


def test_images_of_yesterday_count_no_more(settings: Settings) -> None:
    now = TODAY

    async def story() -> None:
        nonlocal now
        async with service(settings, lambda: now) as (limits, daily):
            limits.take_images("alice", 6)
            await daily.save()
            limits.take_images("alice", 2)
            now += DAY_SECONDS
            limits.give_back("alice", 1)
            limits.take_images("alice", 4)
            await daily.save()
            assert images_today(limits) == 4
        async with service(settings, lambda: now) as (limits, _):
            assert images_today(limits) == 4

    asyncio.run(story())


def test_images_count_while_redis_fails_and_are_saved_later(
    tmp_path: Path, server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings(data_dir=tmp_path, redis_url=server.url)
    server.client.flushall()

    async def story() -> None:
        async with service(settings) as (limits, daily):
            limits.take_images("alice", 4)
            with monkeypatch.context() as patch:
                patch.setattr(daily._jobs, "_settings", Settings(redis_url="redis://127.0.0.1:1"))
                daily._jobs._disconnect()
                with pytest.raises(RedisUnavailable):
                    await daily.save()
                limits.take_images("alice", 5)
                assert images_today(limits) == 9
                with pytest.raises(TooManyRequests):
                    limits.take_images("alice", 2)
            await daily.save()
        async with service(settings) as (limits, _):
            assert images_today(limits) == 9

    asyncio.run(story())


def test_redis_that_hangs_counts_no_image_twice(tmp_path: Path, server: RedisServer) -> None:
    settings = Settings(data_dir=tmp_path, redis_url=server.url)
    server.client.flushall()

    async def story() -> None:
        async with service(settings) as (limits, daily):
            limits.take_images("alice", 4)
            server.process.send_signal(signal.SIGSTOP)
            try:
                with pytest.raises(RedisUnavailable):
                    await daily.save()
            finally:
                server.process.send_signal(signal.SIGCONT)
            await daily.save()
            assert images_today(limits) == 4
        async with service(settings) as (limits, _):
            assert images_today(limits) == 4

    asyncio.run(story())


def test_images_that_redis_loses_are_saved_again(settings: Settings, server: RedisServer) -> None:
    async def story() -> None:
        async with service(settings) as (limits, daily):
            limits.take_images("alice", 4)
            await daily.save()
            server.client.flushall()
            (settings.home / "key-images.json").unlink(missing_ok=True)
            await daily.save()
            assert images_today(limits) == 4
            await daily.save()
        async with service(settings) as (limits, _):
            assert images_today(limits) == 4

    asyncio.run(story())


def test_counts_are_saved_every_second(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.daily_images.SAVE_SECONDS", 0.01)

    async def story() -> None:
        async with service(settings) as (here, saving), service(settings) as (there, learning):
            tasks = [asyncio.create_task(each.run()) for each in (saving, learning)]
            here.take_images("alice", 6)
            while images_today(there) != 6:
                await asyncio.sleep(0.01)
            for task in tasks:
                task.cancel()

    asyncio.run(story())


def test_service_without_daily_limits_saves_nothing(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path / "data", redis_url="redis://127.0.0.1:1")
    limits = KeyLimits({"bob": KeyLimit(1.0)})
    daily = DailyImages(limits, JobQueue(settings), settings)

    asyncio.run(daily.run())
    asyncio.run(daily.close())
    assert not settings.home.exists()
