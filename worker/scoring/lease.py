"""The claim on a step while its handler runs: progress, and the lease that keeps it."""

import logging
import threading
import time
from concurrent.futures import CancelledError

from redis.exceptions import RedisError

from worker.queue.claims import Claims, Delivery
from worker.queue.local import LocalQueue

logger = logging.getLogger(__name__)

CHECK_SECONDS = 0.4  # between renewals at most: a cancelled job is noticed then


class Lease:
    """Renews the lease of a step from a thread until it is stopped.

    Attributes:
        scored: Images scored so far.
    """

    def __init__(self, claims: Claims | LocalQueue, delivery: Delivery) -> None:
        self.scored = 0
        self._claims = claims
        self._delivery = delivery
        self._lost_at: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    @property
    def lost(self) -> bool:
        """True if the result is no longer needed."""
        return self._lost_at is not None

    @property
    def lost_seconds(self) -> float:
        """Seconds since the lease was lost, or 0."""
        return 0.0 if self._lost_at is None else time.monotonic() - self._lost_at

    def check(self) -> None:
        """Raise `CancelledError` if the result is no longer needed."""
        if self.lost:
            raise CancelledError

    def start(self) -> None:
        """Start to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing."""
        self._stopping.set()
        self._thread.join()

    def release(self) -> bool:
        """Return the step to the queue; `False` if another worker has it."""
        self._lose()  # first, so that the handler does not commit it
        self._stopping.set()
        return self._claims.release(self._delivery)

    def renew(self) -> bool:
        """Restart the lease and report the progress; `False` if the lease is lost."""
        if not self._claims.renew(self._delivery, self.scored):
            self._lose()
        return not self.lost

    def _lose(self) -> None:
        if self._lost_at is None:
            self._lost_at = time.monotonic()

    def _keep_renewing(self) -> None:
        while not self._stopping.wait(min(self._claims.lease_seconds / 4, CHECK_SECONDS)):
            try:
                if not self.renew():
                    return
            except RedisError:
                logger.warning("cannot renew a lease: Redis does not answer")
