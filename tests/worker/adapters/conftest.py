"""Real Ray and Spark, which start once for all tests."""

import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from loupe.models.store import StoredModel
from worker.adapters.clusters import has_java


@pytest.fixture(scope="session")
def ray(digits_model: StoredModel) -> Iterator[Any]:
    """Start Ray with two cores; its processes have the environment of this one."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - by default, others go first
    ray = pytest.importorskip("ray")
    pytest.importorskip("ray.data").DataContext.get_current().enable_progress_bars = False
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="session")
def java() -> None:
    """Skip tests of Spark without Java."""
    if not has_java():
        pytest.skip("Spark needs Java 17: apt-get install openjdk-17-jre-headless")


@pytest.fixture(scope="session")
def spark(java: None, digits_model: StoredModel) -> Iterator[Any]:
    """Start Spark with two cores."""
    os.environ["PYSPARK_PYTHON"] = sys.executable
    sql = pytest.importorskip("pyspark.sql")
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = builder.config("spark.ui.showConsoleProgress", "false").getOrCreate()
    gateway = session.sparkContext._gateway
    yield session
    session.stop()
    gateway.shutdown()
    gateway.proc.stdin.close()  # ends Java
    gateway.proc.wait()
