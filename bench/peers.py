"""The programs that are measured side by side: how each is started, and what it needs."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from loupe.ports import free_port
from loupe.processes import Program, running, wait_until_ready
from loupe.store import StoredModel

LOUPE = "Loupe"
UNBATCHED = "Loupe, LOUPE_BATCHING=off"
BARE = "bare Starlette + ONNX Runtime"
BATCHABLE = "BentoML batchable=True"
TWO_SERVICES = "BentoML, two services"
LITSERVE = "LitServe"
KERAS = "FastAPI + model.predict"


@dataclass(frozen=True)
class Peer:
    """A program.

    Attributes:
        command: A module and its arguments, in which `{port}` and `{folder}` (of the model) are filled in.
        needs: The package it cannot do without.
        environment: Variables of its own.
    """

    command: str
    needs: str = "bentoml"
    environment: Mapping[str, str] = field(default_factory=dict)


BENTO = "bentoml serve bench.{app} --port {{port}} --host 127.0.0.1 --timeout-graceful-shutdown 1"
PEERS = {
    LOUPE: Peer("loupe.cli serve --port {port}"),
    UNBATCHED: Peer("loupe.cli serve --port {port}", environment={"LOUPE_BATCHING": "off"}),
    BARE: Peer("bench.bare_app {folder} {port}"),
    BATCHABLE: Peer(BENTO.format(app="batchable_app:Batchable")),
    TWO_SERVICES: Peer(BENTO.format(app="two_services_app:TwoServices")),
    LITSERVE: Peer("bench.litserve_app {folder} {port}", needs="litserve"),
    KERAS: Peer("bench.keras_app {folder} {port}", needs="fastapi"),
}


@dataclass(frozen=True)
class Serving:
    """A program that is ready: where it answers, and its process."""

    url: str
    program: Program

    @property
    def port(self) -> int:
        """Where it listens on this machine."""
        return int(self.url.rpartition(":")[2])


@contextmanager
def serving(names: Sequence[str], model: StoredModel, folder: Path, **environment: str) -> Iterator[dict[str, Serving]]:
    """Some of the programs, ready, while a block lasts; one whose package is missing is passed over.

    Args:
        names: Of the programs.
        model: What they serve.
        folder: For their logs.
        environment: More variables for all of them.
    """
    with ExitStack() as stack:
        ready: dict[str, Serving] = {}
        for name in names:
            peer, port = PEERS[name], free_port()
            if not is_there(name, peer.needs):
                continue
            command = [part.format(port=port, folder=model.folder) for part in peer.command.split()]
            variables = {
                "LOUPE_MODELS": model.tag,  # nothing that is saved meanwhile
                "BENTOML_DO_NOT_TRACK": "True",
                "PROMETHEUS_MULTIPROC_DIR": str(folder / f"metrics-{port}"),
                "PYTHONPATH": str(Path.cwd()),
                **peer.environment,
                **environment,
            }
            log = folder / f"{port}.log"
            program = running(name, [sys.executable, "-m", *command], environment=variables, log=log)
            ready[name] = Serving(f"http://127.0.0.1:{port}", stack.enter_context(program))
            wait_until_ready(f"{ready[name].url}/readyz", ready[name].program)
        yield ready


def is_there(name: str, package: str) -> bool:
    """Whether the package that a peer needs is installed; says so if it is not."""
    if find_spec(package) is None:
        print(f"{name}: skipped, it needs the package {package} (make bench installs it)")
        return False
    return True
