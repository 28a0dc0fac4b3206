"""Counts and times of one served version since it was loaded, for the Open Inference Protocol."""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Duration:
    """A number of events, and the seconds that they took together."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Add an event."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Statistics:
    """The work of one version.

    Attributes:
        images: Images that were answered.
        last_request: When the last request ended, in seconds since 1970; 0 before the first one.
        succeeded: Requests that were answered.
        decode_seconds: Of these, reading and decoding.
        encode_seconds: Of these, writing the response.
        failed: Requests that were refused, or had no answer in time.
        waits: Requests in runs; a large request is in several.
        queue_seconds: Of these, waiting for a run.
        compute_seconds: Of these, the run.
        runs: Runs by their number of images.
    """

    images: int = 0
    last_request: float = 0.0
    succeeded: Duration = field(default_factory=Duration)
    decode_seconds: float = 0.0
    encode_seconds: float = 0.0
    failed: Duration = field(default_factory=Duration)
    waits: int = 0
    queue_seconds: float = 0.0
    compute_seconds: float = 0.0
    runs: defaultdict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))

    def ran(self, images: int, waited: Sequence[float], seconds: float) -> None:
        """Add a run: its images, the seconds that each request waited, and its duration."""
        requests = len(waited)
        self.waits += requests
        self.queue_seconds += sum(waited)
        self.compute_seconds += seconds * requests
        self.runs[images].add(seconds)

    def answered(self, images: int, begun: float, decoded: float, computed: float) -> None:
        """Add an answered request; all times are on the clock of `time.monotonic`."""
        now = time.monotonic()
        self.images += images
        self.last_request = time.time()
        self.succeeded.add(now - begun)
        self.decode_seconds += decoded - begun
        self.encode_seconds += now - computed

    def refused(self, begun: float) -> None:
        """Add a request without an answer."""
        self.last_request = time.time()
        self.failed.add(time.monotonic() - begun)
