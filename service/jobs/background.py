"""What a service does with jobs on its own: it deletes old ones and sends webhooks."""

import asyncio
import logging
from collections.abc import Callable, Coroutine

from loupe.errors import RedisUnavailable
from loupe.settings import Settings
from service.jobs.queue import JobQueue
from service.jobs.webhooks import Webhooks, read_secret
from service.metrics import Metrics

SWEEP_SECONDS = 3600.0  # between two looks for old jobs

logger = logging.getLogger(__name__)


def background_work(
    settings: Settings, jobs: JobQueue, metrics: Metrics
) -> dict[str, Callable[[], Coroutine[None, None, None]]]:
    """Return by name what the settings ask for. One process of a service runs it until it stops.

    Raises:
        InvalidSetting: If the webhooks' secret cannot be read.
    """
    work: dict[str, Callable[[], Coroutine[None, None, None]]] = {}
    if settings.keep_results_days is not None:
        work["delete old jobs"] = lambda: _delete_old(jobs, metrics)
    if settings.webhook_url is not None:
        secret = read_secret(settings)
        work["send webhooks"] = Webhooks(settings.webhook_url, secret, jobs, metrics).run
    return work


async def _delete_old(jobs: JobQueue, metrics: Metrics) -> None:
    while True:
        try:
            metrics.jobs_deleted += await jobs.delete_old()
        except RedisUnavailable:
            pass  # it is logged
        except Exception:
            logger.exception("old jobs cannot be deleted")
        await asyncio.sleep(SWEEP_SECONDS)
