"""Triton's perf_analyzer against a service, over HTTP and gRPC.

Its binary is in the wheel `tritonclient` 2.50.0. It needs `libb64-0d` of Debian and the library of
`nvidia-cuda-runtime-cu12`, also without a GPU.
"""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from loupe.models.store import StoredModel
from tests.support.programs import RunningService, free_port, serving
from tests.support.servers.proxies import installed, printed
from tests.support.stores import copied

GRPC_PORT = free_port()
REQUESTS = 50


@pytest.fixture(scope="module")
def service(
    digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningService]:
    """Run a service whose version is no number, as perf_analyzer would like it."""
    installed("perf_analyzer")
    home: Path = tmp_path_factory.mktemp("home")
    copied(digits_model, home, "digits:better")
    settings = {"BENTOML_HOME": home, "LOUPE_MODEL": "digits:better", "LOUPE_GRPC_PORT": GRPC_PORT}
    with serving(home / "log", LOUPE_DATA_DIR=home / "data", **settings) as service:
        yield service


@pytest.mark.parametrize("options", [[], ["-b", "8"], ["-x", "better"], ["-a"]], ids=" ".join)
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_perf_analyzer_measures_the_service(
    service: RunningService, protocol: str, options: list[str]
) -> None:
    port = GRPC_PORT if protocol == "grpc" else service.url.rpartition(":")[2]
    command = [installed("perf_analyzer"), "-m", "digits", "-i", protocol]
    load = ["--request-count", REQUESTS, "--concurrency-range", "2"]

    report = printed(*command, "-u", f"127.0.0.1:{port}", *load, *options)

    assert f"Request count: {REQUESTS}\n" in report
    assert float(re.findall(r"Throughput: ([0-9.]+)", report)[0]) > 0
