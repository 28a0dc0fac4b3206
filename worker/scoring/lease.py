"""The claim on a step while its handler runs: progress, and the lease that keeps it."""

import logging
import threading

from redis.exceptions import RedisError

from worker.queue.claims import Claims, Delivery

logger = logging.getLogger(__name__)


class Progress:
    """The progress of a step, and whether its result is still needed.

    Args:
        lost: Set when the result is no longer needed.

    Attributes:
        scored: Images scored so far.
    """

    def __init__(self, lost: threading.Event | None = None) -> None:
        self.scored = 0
        self._lost = lost or threading.Event()

    @property
    def lost(self) -> bool:
        """True if the result is no longer needed."""
        return self._lost.is_set()

    def renew(self) -> bool:
        """Return whether the step is still claimed."""
        return not self.lost


class Lease(Progress):
    """Renews the lease of a step from a thread until it is stopped."""

    def __init__(self, claims: Claims, delivery: Delivery) -> None:
        super().__init__()
        self._claims = claims
        self._delivery = delivery
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="lease", daemon=True)

    def start(self) -> None:
        """Start to renew."""
        self._thread.start()

    def stop(self) -> None:
        """Stop renewing."""
        self._stopping.set()
        self._thread.join()

    def release(self) -> bool:
        """Return the step to the queue; `False` if the lease was lost already."""
        self._lost.set()  # first, so that the handler does not commit it
        self._stopping.set()
        return self._claims.release(self._delivery)

    def renew(self) -> bool:
        """Restart the lease and report the progress; `False` if the lease is lost."""
        if not self._claims.renew(self._delivery, self.scored):
            self._lost.set()
        return not self.lost

    def _keep_renewing(self) -> None:
        while not self._stopping.wait(self._claims.lease_seconds / 4):
            try:
                if not self.renew():
                    return
            except RedisError:
                logger.warning("cannot renew a lease: Redis does not answer")
