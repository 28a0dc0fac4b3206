"""One service for all tests that do not end it."""

from collections.abc import Iterator

import httpx
import pytest

from loupe.store import StoredModel
from tests.programs import RunningService, serving


@pytest.fixture(scope="session")
def service(
    digits_model: StoredModel, shapes_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """A service with both models; the digits answer where no model is named."""
    log = tmp_path_factory.mktemp("service") / "log"
    with serving(log, LOUPE_MODEL=digits_model.tag) as running:
        yield running


@pytest.fixture(scope="session")
def client(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=50) as client:
        yield client
