"""Single PNGs over HTTP: Loupe beside a bare app and beside BentoML's own batching."""

import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.pictures import find_images, save_pngs
from bench.report import Row, median_ratio
from bench.wrk import Load, find_wrk, run_wrk
from loupe.ports import free_port
from loupe.processes import running, wait_until_ready
from loupe.store import StoredModel

CONNECTIONS = {16: 0.65, 1: None}  # connections: least ratio to the bare app
ROUNDS = 12  # many short turns: other work on the machine then hits all alike
ROUND_SECONDS = 1
LOUPE, BARE, BATCHABLE = "loupe", "bare Starlette + ONNX Runtime", "BentoML batchable=True"
ROUTE = "/predict"


def measure(model: StoredModel) -> Iterator[Row]:
    """Requests per second and latency, in turns."""
    if not find_wrk():
        print("service: skipped, it needs wrk (apt install wrk, brew install wrk)")
        return
    with tempfile.TemporaryDirectory() as folder, _all_running(model, Path(folder)) as urls:
        save_pngs(find_images(model, 1), Path(folder) / "png")
        image = next((Path(folder) / "png").iterdir())
        for connections, target in CONNECTIONS.items():
            loads = _take_turns(urls, image, connections)
            for peer, peer_target in ((BARE, target), (BATCHABLE, None)):
                yield _compare(f"PNG over HTTP, {connections} at a time", loads, peer, peer_target)


@contextmanager
def _all_running(model: StoredModel, folder: Path) -> Iterator[dict[str, str]]:
    """The three programs, ready; the URL of each by name."""
    ports = {name: free_port() for name in (LOUPE, BARE, BATCHABLE)}
    commands = {
        LOUPE: ["loupe.cli", "serve", "--model", model.tag, "--port", str(ports[LOUPE])],
        BARE: ["bench.bare_app", str(model.folder), str(ports[BARE])],
        BATCHABLE: ["bentoml", "serve", "bench.batchable_app:Batchable", "--port", str(ports[BATCHABLE])],
    }
    commands[BATCHABLE] += ["--host", "127.0.0.1", "--timeout-graceful-shutdown", "1"]
    environment = {
        "PROMETHEUS_MULTIPROC_DIR": str(folder / "metrics"),
        "BENTOML_DO_NOT_TRACK": "True",
        "PYTHONPATH": str(Path.cwd()),
    }
    with ExitStack() as stack:
        for name, command in commands.items():
            log = folder / f"{ports[name]}.log"
            program = running(name, [sys.executable, "-m", *command], environment=environment, log=log)
            wait_until_ready(f"http://127.0.0.1:{ports[name]}/readyz", stack.enter_context(program))
        yield {name: f"http://127.0.0.1:{port}{ROUTE}" for name, port in ports.items()}


def _take_turns(urls: dict[str, str], image: Path, connections: int) -> dict[str, list[Load]]:
    loads: dict[str, list[Load]] = {name: [] for name in urls}
    for turn in range(ROUNDS + 1):
        for name, url in urls.items():
            load = run_wrk(url, image, connections, ROUND_SECONDS)
            if turn:  # the first one only warms up
                loads[name].append(load)
    return loads


def _compare(what: str, loads: dict[str, list[Load]], peer: str, target: float | None) -> Row:
    ours, theirs = ([load.requests_per_second for load in loads[name]] for name in (LOUPE, peer))
    return Row(what, _words(loads[LOUPE]), f"{peer}\n{_words(loads[peer])}", median_ratio(ours, theirs), target)


def _words(loads: list[Load]) -> str:
    rate = median(load.requests_per_second for load in loads)
    p50, p99 = median(load.p50_ms for load in loads), median(load.p99_ms for load in loads)
    errors = sum(load.errors for load in loads)
    return f"{rate:,.0f}/s, {errors} errors\np50 {p50:.1f} ms, p99 {p99:.1f} ms"
