"""The servers that are compared: how to start them, and their CPU time."""

import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import psutil

from loupe.models.store import StoredModel
from loupe.runtime.ports import free_port
from loupe.runtime.processes import Program, running, wait_until_ready

LOUPE = "Loupe"
UNBATCHED = "Loupe, LOUPE_BATCHING=off"
TWO_PROCESSES = "Loupe, two processes"
THREE_PROCESSES = "Loupe, three processes"
BARE = "bare Starlette + ONNX Runtime"
BATCHABLE = "BentoML batchable=True"
TWO_SERVICES = "BentoML, two services"
LITSERVE = "LitServe"
KERAS = "FastAPI + model.predict"
CPU_CLOCK = 2  # of a process, in the ID of its clock. Source: clock_getcpuclockid in glibc


@dataclass(frozen=True)
class Server:
    """A server that can be started.

    Attributes:
        command: A module and its arguments, with `{port}` and `{folder}` of the model.
        package: A package it needs that may be missing.
        environment: Additional environment variables.
    """

    command: str
    package: str = "bentoml"
    environment: Mapping[str, str] = field(default_factory=dict)


_BENTO = "bentoml serve bench.peers.bento_apps:{} --port {{port}} --host 127.0.0.1 "
_BENTO += "--timeout-graceful-shutdown 1"
_LOUPE = "loupe serve --port {port}"
SERVERS = {
    LOUPE: Server(_LOUPE),
    UNBATCHED: Server(_LOUPE, environment={"LOUPE_BATCHING": "off"}),
    TWO_PROCESSES: Server(_LOUPE, environment={"LOUPE_PROCESSES": "2"}),
    THREE_PROCESSES: Server(_LOUPE, environment={"LOUPE_PROCESSES": "3"}),
    BARE: Server("bench.peers.bare_app {folder} {port}"),
    BATCHABLE: Server(_BENTO.format("Batchable")),
    TWO_SERVICES: Server(_BENTO.format("TwoServices")),
    LITSERVE: Server("bench.peers.litserve_app {folder} {port}", package="litserve"),
    KERAS: Server("bench.peers.keras_app {folder} {port}", package="fastapi"),
}


@dataclass(frozen=True)
class RunningServer:
    """A server that is ready for requests."""

    port: int
    program: Program

    @property
    def url(self) -> str:
        """The base URL, without a trailing slash."""
        return f"http://127.0.0.1:{self.port}"

    def cpu_seconds(self) -> float:
        """Return user and system time of all its processes since they started."""
        process = psutil.Process(self.program.process.pid)
        return sum(_cpu_seconds(each) for each in (process, *process.children(recursive=True)))


def _cpu_seconds(process: psutil.Process) -> float:
    """Return user and system time of a process, on Linux to the nanosecond, else to 10 ms."""
    if sys.platform == "linux":
        return time.clock_gettime((~process.pid << 3) | CPU_CLOCK)
    times = process.cpu_times()
    return times.user + times.system


@contextmanager
def serving(names: Sequence[str], model: StoredModel) -> Iterator[dict[str, RunningServer]]:
    """Run servers while the block lasts. Servers whose package is missing are left out.

    Args:
        names: Keys of `SERVERS`.
        model: The model they serve.
    """
    with ExitStack() as stack:
        temporary = tempfile.TemporaryDirectory(prefix="loupe-bench-", ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        servers: dict[str, RunningServer] = {}
        for name in names:
            server, port = SERVERS[name], free_port()
            if not is_installed(name, server.package):
                continue
            arguments = server.command.format(port=port, folder=model.folder).split()
            variables = {
                "LOUPE_DATA_DIR": str(folder / "data"),
                "LOUPE_MODELS": model.tag,  # ignores models saved during the run
                "BENCH_MODEL_FOLDER": str(model.folder),
                "BENTOML_DO_NOT_TRACK": "True",
                "PROMETHEUS_MULTIPROC_DIR": str(folder / f"metrics-{port}"),
                "PYTHONPATH": str(Path.cwd()),
                **server.environment,
            }
            command = [sys.executable, "-m", *arguments]
            program = stack.enter_context(
                running(name, command, environment=variables, log=folder / f"{port}.log")
            )
            servers[name] = RunningServer(port, program)
            wait_until_ready(f"{servers[name].url}/readyz", program)
        yield servers


def is_installed(name: str, package: str, target: str = "bench") -> bool:
    """Return whether a package is installed, and print that `name` is skipped if not."""
    if find_spec(package) is None:
        print(f"{name}: skipped, it needs the package {package} (make {target} installs it)")
        return False
    return True
