"""One service for all tests that do not end it."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loupe.store import StoredModel
from tests.programs import RunningService, serving


@pytest.fixture(scope="session")
def service_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data folder of that service, for workers that share its queue."""
    return tmp_path_factory.mktemp("service") / "data"


@pytest.fixture(scope="session")
def service(
    digits_model: StoredModel, shapes_model: StoredModel, service_data: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """A service with both models; the digits answer where no model is named. Jobs may read the folders of all tests."""
    log = service_data.with_name("log")
    settings = {"LOUPE_DATA_DIR": service_data, "LOUPE_JOB_ROOTS": tmp_path_factory.getbasetemp()}
    with serving(log, LOUPE_MODEL=digits_model.tag, **settings) as running:
        yield running


@pytest.fixture(scope="session")
def client(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=50) as client:
        yield client
