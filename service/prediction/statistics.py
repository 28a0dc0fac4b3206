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

    def add(self, seconds: float, count: int = 1) -> None:
        """Add events."""
        self.count += count
        self.seconds += seconds


@dataclass(slots=True)
class Statistics:
    """What one version did.

    Attributes:
        images: Images that were answered.
        last_request: When the last request ended, in seconds since 1970; 0 before the first one.
        succeeded: Requests that were answered.
        failed: Requests that were refused, or had no answer in time.
        decode: Answered requests: reading and decoding.
        encode: Answered requests: writing the response.
        queue: Waiting for a run; a large request waits for several.
        compute: Runs, each counted for every request in it.
        runs: Runs by their number of images.
    """

    images: int = 0
    last_request: float = 0.0
    succeeded: Duration = field(default_factory=Duration)
    failed: Duration = field(default_factory=Duration)
    decode: Duration = field(default_factory=Duration)
    encode: Duration = field(default_factory=Duration)
    queue: Duration = field(default_factory=Duration)
    compute: Duration = field(default_factory=Duration)
    runs: defaultdict[int, Duration] = field(default_factory=lambda: defaultdict(Duration))

    def ran(self, images: int, waited: Sequence[float], seconds: float) -> None:
        """Add a run: its images, the seconds that each request waited, and its duration."""
        requests = len(waited)
        self.queue.add(sum(waited), requests)
        self.compute.add(seconds * requests, requests)
        self.runs[images].add(seconds)

    def answered(self, images: int, begun: float, decoded: float, computed: float) -> None:
        """Add an answered request; all times are on the clock of `time.monotonic`."""
        now = time.monotonic()
        self.images += images
        self.last_request = time.time()
        self.succeeded.add(now - begun)
        self.decode.add(decoded - begun)
        self.encode.add(now - computed)

    def refused(self, begun: float) -> None:
        """Add a request without an answer."""
        self.last_request = time.time()
        self.failed.add(time.monotonic() - begun)
