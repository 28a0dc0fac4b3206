"""Clusters that run numbered tasks: Ray, and Spark."""

import logging
import os
import re
import shutil
import socket
import textwrap
import threading
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from loupe.errors import InvalidUsage, LoupeError, ProgramFailed, ServiceUnreachable

T = TypeVar("T")
ClusterName = Literal["ray", "spark"]

CONNECT_SECONDS = 60.0  # for an engine to start or connect; Java alone takes ten on a busy machine
ANSWER_SECONDS = 5.0  # for its host to accept a connection
POLL_SECONDS = 0.1
RAY_PORT = 6379
MAX_REASON = 400  # characters of an engine's error
UNREACHABLE = "cluster_unreachable"
JAVA_MISSING = (
    "Spark needs Java 17 or newer, which is not installed. "
    "On Debian: apt-get install openjdk-17-jre-headless"
)


class Outcome(NamedTuple):
    """The images of a slice that has ended, and why it failed if it did."""

    done: int
    failed: int
    error: str | None = None


Task = Callable[[int], Outcome]
"""Does the work of one number in any process of a cluster, into which pickle brings it."""
Outcomes = Generator[Outcome | None, None, None]


@dataclass(frozen=True)
class Cluster:
    """A cluster that this process is connected to.

    Attributes:
        cores: How many tasks it runs at a time.
        run: Runs a task for each number below a count. Yields the outcome of each that has ended,
            in any order, and `None` every `POLL_SECONDS`.
    """

    cores: int
    run: Callable[[Task, int], Outcomes]


def connect(name: ClusterName, master: str | None) -> AbstractContextManager[Cluster]:
    """Return a connection to a cluster, which ends with the block and takes its tasks with it.

    Args:
        name: Its engine.
        master: URL of the Spark master; `None` for the one that Spark is configured for.

    Raises:
        InvalidUsage: If the URL is that of Spark Connect.
        ProgramFailed: If the engine or its Java is not installed.
        ServiceUnreachable: If the cluster does not answer in time, or refuses this version.
    """
    return _ray() if name == "ray" else _spark(master)


@contextmanager
def _ray() -> Iterator[Cluster]:
    """Connect to the cluster of `RAY_ADDRESS`, one on this machine, or one that starts here."""
    _check_installed("ray", "Ray", "ray")
    address = os.environ.get("RAY_ADDRESS", "")
    found = re.fullmatch(r"(?:ray://)?\[?([^\s/\]]+?)\]?(?::(\d+))?", address)
    if found and address not in ("auto", "local"):
        _check_answers("Ray", [(found[1], int(found[2] or RAY_PORT))])
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no reports to its makers
    import ray

    _within("Ray", address, partial(ray.init, log_to_driver=False, logging_level=logging.ERROR))
    try:
        yield Cluster(int(ray.cluster_resources().get("CPU", 0)), _run_in_ray)
    finally:
        ray.shutdown()


def _run_in_ray(task: Task, count: int) -> Outcomes:
    import ray

    run = ray.remote(num_cpus=1)(_call)
    work = ray.put(task)
    waiting = [run.remote(work, number) for number in range(count)]
    with _one_line("Ray"):
        while waiting:
            ended, waiting = ray.wait(waiting, timeout=POLL_SECONDS)
            yield from ray.get(ended)
            yield None


def _call(task: Task, number: int) -> Outcome:
    return task(number)


@contextmanager
def _spark(master: str | None) -> Iterator[Cluster]:
    """Connect to a master, by default the one of Spark's own configuration."""
    _check_installed("pyspark", "Spark", "pyspark")
    if master is not None and master.startswith("sc://"):
        raise InvalidUsage(
            "--master is spark://HOST:PORT, yarn, k8s://…, or local[N], not Spark Connect (sc://)."
        )
    if not has_java():
        raise ProgramFailed(JAVA_MISSING)
    scheme, _, hosts = (master or "").partition("://")
    if scheme == "spark":
        pairs = [host.rpartition(":") for host in hosts.split(",")]
        _check_answers("Spark", [(host, int(port)) for host, _, port in pairs if port.isdecimal()])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of versions of pandas
        from pyspark import SparkConf, SparkContext

        settings = SparkConf().setAppName("loupe score")
        settings.set("spark.ui.showConsoleProgress", "false")
        settings.setIfMissing("spark.log.level", "ERROR")
        if master is not None:
            settings.setMaster(master)
        context = _within("Spark", master or "", partial(SparkContext, conf=settings))
    try:
        yield Cluster(context.defaultParallelism, partial(_run_in_spark, context))
    finally:
        context.stop()


def _run_in_spark(context: Any, task: Task, count: int) -> Outcomes:
    from pyspark.accumulators import AccumulatorParam

    class Lists(AccumulatorParam):  # type: ignore[misc]
        def zero(self, value: list[Outcome]) -> list[Outcome]:
            return []

        def addInPlace(self, ours: list[Outcome], more: list[Outcome]) -> list[Outcome]:  # noqa: N802
            return ours + more

    outcomes = context.accumulator([], Lists())
    numbers = context.parallelize(range(count), count)
    with _one_line("Spark"), ThreadPoolExecutor(1) as threads:
        job = threads.submit(numbers.foreach, lambda number: outcomes.add([task(number)]))
        seen, is_last = 0, False
        try:
            while not is_last:
                wait([job], POLL_SECONDS)
                is_last = job.done()
                new: Sequence[Outcome] = outcomes.value[seen:]
                seen += len(new)
                yield from new
                yield None
            job.result()
        finally:
            context.cancelAllJobs()


def _check_installed(module: str, name: str, package: str) -> None:
    if find_spec(module) is None:
        raise ProgramFailed(
            f"--on {name.lower()} needs {name}, which is not installed. Install the version of "
            f"the cluster: pip install {package}"
        )


def has_java() -> bool:
    """Return whether Spark finds a Java."""
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=str(Path(home, "bin")) if home else None) is not None


def _check_answers(name: str, addresses: Sequence[tuple[str, int]]) -> None:
    """Raise `ServiceUnreachable` unless a port accepts a connection: engines try for minutes."""
    problems = []
    for address in addresses:
        try:
            with socket.create_connection(address, ANSWER_SECONDS):
                return
        except OSError as error:
            problems.append(f"{address[0]}:{address[1]}: {error.strerror or error}")
    if problems:
        raise ServiceUnreachable(
            f"No {name} cluster answers at {'; '.join(problems)}.", code=UNREACHABLE
        )


def _within(name: str, address: str, start: Callable[[], T]) -> T:
    """Return what a function returns within `CONNECT_SECONDS`; it cannot be interrupted."""
    started: Future[T] = Future()

    def run() -> None:
        try:
            started.set_result(start())
        except BaseException as error:  # noqa: BLE001 - the other thread raises it
            started.set_exception(error)
        threading.Event().wait()  # a Ray that starts here ends with the thread that started it

    threading.Thread(target=run, name="connect", daemon=True).start()
    where = f"{name} at {address}" if address else name
    try:
        return started.result(CONNECT_SECONDS)
    except TimeoutError:
        reason = f"no answer within {CONNECT_SECONDS:.0f} s"
    except Exception as error:  # noqa: BLE001 - engines raise errors of many kinds
        reason = _reason(error)
    raise ServiceUnreachable(f"Cannot connect to {where}: {reason}.", code=UNREACHABLE)


@contextmanager
def _one_line(name: str) -> Iterator[None]:
    """Replace the errors of an engine, which quote stacks of several processes."""
    try:
        yield
    except LoupeError:
        raise
    except Exception as error:
        raise ProgramFailed(f"{name} ended the job: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    """Return the line of an engine's error that names the cause, in Python or else in Java."""
    text = str(error)
    causes = [
        *re.findall(r"^: [\w.$]+: (.*)", text, re.M)[:1],
        *re.findall(r"^(?!\s|py4j|org\.|java\.)[\w.]*(?:Error|Exception): .*", text, re.M)[-1:],
    ]
    return textwrap.shorten(causes[-1] if causes else text, MAX_REASON, placeholder=" …").rstrip(
        "."
    )
