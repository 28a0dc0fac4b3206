"""A service shared by the tests, and a separate queue for tests that need one."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from redis import Redis

from loupe.models.store import StoredModel
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from tests.support.programs import RunningService, serving
from worker.queue.jobs import Jobs


@pytest.fixture(scope="session")
def service_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the data folder of that service, for workers that share its queue."""
    return tmp_path_factory.mktemp("service") / "data"


@pytest.fixture(scope="session")
def service(
    digits_model: StoredModel,
    shapes_model: StoredModel,
    service_data: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[RunningService]:
    """Run a service with both models and digits as default; jobs may read all tests' folders."""
    log = service_data.with_name("log")
    settings = {"LOUPE_DATA_DIR": service_data, "LOUPE_JOB_ROOTS": tmp_path_factory.getbasetemp()}
    with serving(log, LOUPE_MODEL=digits_model.tag, **settings) as running:
        yield running


@pytest.fixture(scope="session")
def client(service: RunningService) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=service.url, timeout=50) as client:
        yield client


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Return a data folder for the embedded Redis of one test."""
    return tmp_path / "data"


@pytest.fixture
def redis_here(data: Path) -> Iterator[Redis]:
    """Return a client of that Redis."""
    with open_redis(Settings(data_dir=data)) as client:
        yield client


@pytest.fixture
def jobs(redis_here: Redis) -> Jobs:
    """Return the jobs in that Redis."""
    return Jobs(redis_here)
