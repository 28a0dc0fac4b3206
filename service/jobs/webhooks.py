"""Webhooks: signed messages about ended jobs to the address in the settings.

Their form is that of https://www.standardwebhooks.com.
"""

import asyncio
import base64
import binascii
import hmac
import logging
import time
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Literal, TypeAlias

import orjson

from loupe.errors import InvalidSetting, RedisUnavailable
from loupe.settings import Settings
from service.jobs.queue import JobQueue
from service.metrics import Metrics

if TYPE_CHECKING:
    import httpx

    from worker.queue.jobs import Jobs
    from worker.queue.records import Job

SECRET_PREFIX = "whsec_"  # noqa: S105 - comes before the secret
SECRET_BYTES = range(24, 65)
MEASURE_SECONDS = 15.0  # between two looks at all webhooks; Prometheus asks as often
POLL_SECONDS = 1.0  # between two looks at a job that has not ended
UNAVAILABLE_SECONDS = 30.0  # until the next look after an error
MAX_TAKEN = 1000  # submissions in one look
MAX_SENT = 20  # webhooks at a time
TIMEOUT_SECONDS = 10.0  # of one attempt
LEASE_SECONDS = 60.0  # longer than a look and an attempt
FIRST_PAUSE_SECONDS = 5.0  # each further pause is as long as all before
MAX_AGE_SECONDS = 6 * 3600.0  # of an end; then an attempt is the last one

Outcome: TypeAlias = Literal["delivered", "retried", "failed"]

logger = logging.getLogger(__name__)


def read_secret(settings: Settings) -> bytes:
    """Return the key that signs webhooks.

    Raises:
        InvalidSetting: If it is missing or invalid; the error does not show it.
    """
    given = "" if settings.webhook_secret is None else settings.webhook_secret.get_secret_value()
    try:
        secret = base64.b64decode(given.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not given.startswith(SECRET_PREFIX) or len(secret) not in SECRET_BYTES:
        raise InvalidSetting(
            f"LOUPE_WEBHOOK_SECRET must be {SECRET_PREFIX} and {SECRET_BYTES[0]} to "
            f"{SECRET_BYTES[-1]} random bytes in base64. "
            f'Make one: echo "{SECRET_PREFIX}$(openssl rand -base64 32)"'
        )
    return secret


def signature(secret: bytes, message_id: str, timestamp: int, body: bytes) -> str:
    """Return the value of the header `webhook-signature`."""
    signed = f"{message_id}.{timestamp}.".encode() + body
    return f"v1,{base64.b64encode(hmac.digest(secret, signed, 'sha256')).decode()}"


class Webhooks:
    """Sends a webhook for each ended job, at least once.

    Args:
        url: The address.
        secret: The key that signs the messages.
        jobs: The queue.
        metrics: Counts attempts by outcome, and has the age of what is not delivered.
    """

    def __init__(self, url: str, secret: bytes, jobs: JobQueue, metrics: Metrics) -> None:
        self._url = url
        self._secret = secret
        self._jobs = jobs
        self._metrics = metrics
        self._measured = -inf

    async def run(self) -> None:
        """Send the webhooks of jobs that end, until the task is cancelled."""
        import httpx  # 20 ms

        from loupe.client.client import trust

        verify, uses_proxies = await asyncio.to_thread(trust, self._url)
        async with httpx.AsyncClient(verify=verify, trust_env=uses_proxies) as client:
            while True:
                try:
                    await self.send_due(client)
                    await self.measure()
                    pause = POLL_SECONDS
                except RedisUnavailable:  # it is logged
                    pause = UNAVAILABLE_SECONDS
                except Exception:
                    logger.exception("webhooks cannot be sent")
                    pause = UNAVAILABLE_SECONDS
                await asyncio.sleep(pause)

    async def send_due(self, client: "httpx.AsyncClient") -> None:
        """Send the webhooks of jobs that have ended, at most `MAX_SENT`.

        Raises:
            RedisUnavailable: If Redis does not answer; other webhooks are sent again later.
        """
        ended = await self._jobs.ask(_take_ended)
        outcomes = await asyncio.gather(*(self._send(client, job) for job in ended.values()))
        pauses = {
            submission: _pause_seconds(job)
            for (submission, job), outcome in zip(ended.items(), outcomes, strict=True)
            if outcome == "retried"
        }
        done = ended.keys() - pauses.keys()

        def store(jobs: "Jobs") -> None:
            jobs.webhooks.remove(done)
            jobs.webhooks.postpone(pauses)

        if ended:
            await self._jobs.ask(store)

    async def measure(self) -> None:
        """Find the first end of a job whose webhook is not delivered, unless it is just known.

        Raises:
            RedisUnavailable: If Redis does not answer.
        """
        now = time.monotonic()
        if now >= self._measured + MEASURE_SECONDS:
            self._metrics.webhooks_since = await self._jobs.ask(_first_end)
            self._measured = now

    async def _send(self, client: "httpx.AsyncClient", job: "Job") -> Outcome:
        """Try once to send the webhook of a job. Redirects are not followed."""
        import httpx

        message_id = f"{job.id}-{1000 * (job.finished or 0):.0f}"
        timestamp = int(time.time())
        body = message(job)
        headers = {
            "content-type": "application/json",
            "webhook-id": message_id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": signature(self._secret, message_id, timestamp, body),
        }
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                client.stream("POST", self._url, content=body, headers=headers) as response,
            ):
                problem = "" if response.is_success else f"status {response.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            problem = f"{type(error).__name__} {error}".strip()
        outcome: Outcome = "delivered"
        if problem:
            outcome = "retried" if _age_seconds(job) < MAX_AGE_SECONDS else "failed"
            logger.warning("the webhook of job %s is %s: %s", job.id, outcome, problem)
        self._metrics.webhooks[(outcome,)] += 1
        return outcome


def message(job: "Job") -> bytes:
    """Return the body of a job's webhook."""
    finished = datetime.fromtimestamp(job.finished or 0, UTC)
    return orjson.dumps(
        {
            "type": f"job.{job.state}",
            "timestamp": finished.isoformat(),
            "data": {**job.to_json(), "owner": job.owner},
        }
    )


def _take_ended(jobs: "Jobs") -> "dict[str, Job]":
    """Return ended jobs whose webhooks are due, by submission, and postpone the others."""
    from worker.queue.webhooks import job_of, submission_of

    taken = jobs.webhooks.take(MAX_TAKEN, LEASE_SECONDS)
    found = jobs.find_all([job_of(submission) for submission in taken])
    ended: dict[str, Job] = {}
    gone, pauses = [], {}
    for submission, job in zip(taken, found, strict=True):
        if job is None or submission_of(job) != submission:
            gone.append(submission)
        elif job.finished is None:
            pauses[submission] = POLL_SECONDS
        elif len(ended) == MAX_SENT:
            pauses[submission] = 0.0
        else:
            ended[submission] = job
    jobs.webhooks.remove(gone)
    jobs.webhooks.postpone(pauses)
    return ended


def _first_end(jobs: "Jobs") -> float | None:
    """Return the first end of a job, in seconds since the epoch, whose webhook is not delivered."""
    from worker.queue.webhooks import job_of, submission_of

    pending = jobs.webhooks.last(MAX_TAKEN)
    found = jobs.find_all([job_of(submission) for submission in pending])
    return min(
        (
            job.finished
            for submission, job in zip(pending, found, strict=True)
            if job is not None and job.finished is not None and submission_of(job) == submission
        ),
        default=None,
    )


def _age_seconds(job: "Job") -> float:
    return time.time() - (job.finished or 0)


def _pause_seconds(job: "Job") -> float:
    """Return how long to wait for the next attempt."""
    return max(FIRST_PAUSE_SECONDS, _age_seconds(job))
