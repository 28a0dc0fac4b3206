"""A service that speaks HTTP and gRPC."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from loupe.models.store import StoredModel
from tests.support.programs import RunningService, free_port, serving

MAX_BYTES = 4_000_000  # of a body or message


@dataclass(frozen=True)
class BothProtocols:
    """A service that is ready.

    Attributes:
        service: As HTTP reaches it.
        address: As gRPC does.
    """

    service: RunningService
    address: str

    def metrics(self, **headers: str) -> str:
        return httpx.get(f"{self.service.url}/metrics", headers=headers).text


@contextlib.contextmanager
def serving_both(log: Path, **variables: object) -> Iterator[BothProtocols]:
    """Run a service over HTTP and gRPC while the block runs."""
    port = free_port()
    with serving(log, LOUPE_GRPC_PORT=port, **variables) as service:
        yield BothProtocols(service, f"127.0.0.1:{port}")


@pytest.fixture(scope="package")
def both(
    digits_model: StoredModel, shapes_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BothProtocols]:
    """Run a service with both models; digits is the default."""
    log = tmp_path_factory.mktemp("both") / "log"
    with serving_both(log, LOUPE_MODEL=digits_model.tag, LOUPE_MAX_BODY_BYTES=MAX_BYTES) as running:
        yield running
