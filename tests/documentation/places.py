"""Which test runs each documented command, and which commands none can run.

`python -m tests.documentation` lists all of them.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.support.shell_examples import Command, commands

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
MAKE_TEST, MAKE_TEST_DOCS = "make test", "make test-docs"
CLUSTER = "needs a Kubernetes cluster"
BENCHMARK = "measures for up to half an hour, and needs a machine without other work"
# Commands that no test runs, and why. Their programs, options and paths are checked.
NOWHERE = {
    "sudo apt install python3 python3-venv make git": "changes the system",
    "brew install python@3.12 make": "needs macOS",
    "docker compose up": "does not end; tests/deployment runs it with --detach --wait",
    "docker compose --profile monitoring up --detach --wait": (
        "needs Grafana's image; tests/deployment starts Prometheus without it"
    ),
    "bentoml containerize loupe:latest": "tests/deployment runs it with a version and a tag",
    "kubectl port-forward service/loupe-loupe-service 3000:3000": CLUSTER,
    "kubectl create secret generic loupe-keys --from-file=keys=keys.txt": CLUSTER,
    "kubectl apply -f score.yaml": CLUSTER,
    "kubectl wait --for=condition=complete --timeout=24h job/score": CLUSTER,
    "kubectl apply -f finish.yaml": CLUSTER,
    "perf_analyzer -m fashion-mnist -u localhost:3000 --concurrency-range 1:16:4": "is NVIDIA's",
    "perf_analyzer -m fashion-mnist -u localhost:8001 -i grpc -b 8": "is NVIDIA's",
    "python -m bench batching --plot docs/batching-benchmark.png": BENCHMARK,
    "python -m bench peers bulk-peers": BENCHMARK,
    "make bench": BENCHMARK,
}
# Programs that run until they are stopped; `make test` starts the first two.
FIRST_STEPS = "loupe up --train digits"
WITH_KEYS = "LOUPE_API_KEYS=alice:sha256:1b2c… loupe serve"
WORKER = "loupe worker"


@dataclass(frozen=True)
class Place:
    """A test that runs commands.

    Attributes:
        test: Its file or folder below `tests`.
        make: The `make` target that runs it.
        holds: Returns whether it runs a command.
    """

    test: str
    make: str
    holds: Callable[[Command], bool]


def _matches(pattern: str) -> Callable[[Command], bool]:
    return lambda command: bool(re.search(pattern, command.text))


# The first one that holds a command runs it.
NONE = Place("", "no test", lambda command: command.text in NOWHERE)
SYNTAX = Place(
    "documentation/test_places.py",
    "only the names of options",
    lambda command: command.synopsis and command.text != WITH_KEYS,
)
API_EXAMPLES = Place(
    "e2e/service/test_http_api_docs.py",
    MAKE_TEST,
    lambda command: command.page == "http-api.md" and command.text.startswith("curl"),
)
CONTAINERS = Place(
    "deployment/test_containers.py",
    "make test-deployment",
    lambda command: (
        command.page == "backup.md" or bool(re.search("^docker|COMPOSE_FILE", command.text))
    ),
)
CHART = Place("documentation/test_chart.py", MAKE_TEST, _matches("^helm"))
ENGINES = Place(
    "worker/adapters/test_documented_clusters.py", "make test-engines", _matches("--on (ray|spark)")
)
TRAININGS = Place(
    "documentation/test_trainings.py",
    MAKE_TEST_DOCS,
    _matches("^loupe train (?!digits --architecture cnn-small)|mnist_cnn"),
)
CHECKOUT = Place(
    "documentation/test_checkout.py",
    MAKE_TEST_DOCS,
    _matches(r"^(make|git|pip|source)\b"),
)
KEYS = Place(
    "documentation/test_servers.py",
    MAKE_TEST,
    lambda command: command.text == WITH_KEYS or bool(re.search("^curl.*KEY", command.text)),
)
BUCKETS = Place(
    "documentation/test_servers.py",
    MAKE_TEST_DOCS,
    lambda command: command.text == WORKER or "s3://" in command.text,
)
SERVERS = Place(
    "documentation/test_servers.py",
    MAKE_TEST_DOCS,
    lambda command: (
        bool(re.search(r"\bloupe (up|serve|worker)\b|^bentoml serve", command.text))
        and command.text != FIRST_STEPS
    ),
)
QUICK = Place("documentation/test_quick_commands.py", MAKE_TEST, lambda command: True)
PLACES = (
    *(NONE, SYNTAX, API_EXAMPLES, CONTAINERS, CHART, ENGINES, TRAININGS, CHECKOUT, KEYS, BUCKETS),
    *(SERVERS, QUICK),
)


def place_of(command: Command) -> Place:
    """Return the place that runs a command."""
    return next(place for place in PLACES if place.holds(command))


@cache
def all_commands() -> tuple[Command, ...]:
    """Return the commands of all pages."""
    return tuple(command for page in PAGES for command in commands(page))


def commands_at(place: Place) -> list[Command]:
    """Return the commands that a place runs."""
    return [command for command in all_commands() if place_of(command) is place]
