"""The configuration of Prometheus and Grafana: alerts with tests, and dashboards with data.

A real service and a real worker answer and score during the tests. If Prometheus is on the PATH,
it scrapes them.
"""

import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import yaml

from loupe.models.store import StoredModel
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from tests.support import pictures
from tests.support.job_requests import submit
from tests.support.programs import free_port, running, serving, until
from worker.queue.jobs import Jobs
from worker.queue.records import Job

ROOT = Path(__file__).parents[2]
MONITORING = ROOT / "deploy" / "monitoring"
DASHBOARDS = {
    path.stem: json.loads(path.read_text())
    for path in sorted(MONITORING.glob("grafana/dashboards/*.json"))
}
PANELS = {
    f"{name}: {panel['title']}": panel
    for name, board in DASHBOARDS.items()
    for panel in board["panels"]
}
RULES = [
    rule
    for group in yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
ALERTS = {rule["alert"]: rule for rule in RULES if "alert" in rule}
RECORDED = {rule["record"] for rule in RULES if "record" in rule}
TESTS_OF_ALERTS = sorted(MONITORING.glob("alerts_*test.yml"))
GUIDE = (ROOT / "docs" / "monitoring.md").read_text()
METRIC = re.compile(r"\b(?:\w+:)?(?:loupe|process)_\w+(?::\w+)?")
# The key that Prometheus and the load use, and one that has used up its limit.
KEYS = {name: f"the-key-of-{name}-0001" for name in ("alice", "bob")}
ALICE, BOB = ({"authorization": f"Bearer {key}"} for key in KEYS.values())
SCRAPES = 12  # seconds of load, with a scrape in each
PAUSE_SECONDS = 0.2  # between two loads; more of them would only take CPU time
WINDOW = "4s"  # has four scrapes, and as many lie before it

needs_prometheus = pytest.mark.skipif(
    not shutil.which("prometheus") or not shutil.which("promtool"),
    reason="needs prometheus and promtool on the PATH; Debian has both in the package prometheus",
)


@dataclass
class Stack:
    """A service and a worker that share a queue and have work to do.

    Attributes:
        service: Address of the service.
        worker: Address of the worker's metrics.
        folder: Has pictures, one of which is broken.
        jobs: The queue.
        model: What answers and scores.
    """

    service: str
    worker: str
    folder: Path
    jobs: Jobs
    model: StoredModel
    job: Job | None = None
    submitted: int = 0

    def load(self) -> None:
        """Give them a little more work."""
        for image in pictures.digits(5):
            url, picture = f"{self.service}/predict?threshold=0.9", pictures.png(image)
            httpx.post(url, content=picture, headers=ALICE).raise_for_status()
        assert httpx.post(url, content=picture, headers=BOB).status_code in (200, 429)
        assert httpx.post(url, content=b"no picture", headers=ALICE).status_code == 422
        if self.job is None or self.jobs.get(self.job.id).state == "done":
            self.submitted += 1
            output = self.folder.parent / f"results-{self.submitted}"
            self.job = submit(self.jobs, self.folder, output, self.model.tag, 10)


@pytest.fixture(scope="module")
def stack(digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder, port = tmp_path_factory.mktemp("monitoring"), free_port()
    settings = {"LOUPE_DATA_DIR": folder / "data"}
    limits = {
        "LOUPE_API_KEYS": ",".join(f"{name}:{key}" for name, key in KEYS.items()),
        "LOUPE_KEY_LIMITS": "alice:1000000/day,bob:1/day",
    }
    images = folder / "images"
    images.mkdir()
    for place, image in enumerate(pictures.digits(25)):
        (images / f"{place}.png").write_bytes(pictures.png(image))
    (images / "broken.png").write_bytes(b"no picture")
    with (
        open_redis(Settings(data_dir=folder / "data")) as redis,
        serving(folder / "log", LOUPE_MODELS=digits_model.tag, **settings, **limits) as service,
        running(folder / "worker", "worker", LOUPE_WORKER_METRICS_PORT=port, **settings),
    ):
        jobs = Jobs(redis)
        until(jobs.workers)
        stack = Stack(service.url, f"http://127.0.0.1:{port}", images, jobs, digits_model)
        stack.load()
        first = stack.job
        assert first is not None
        until(lambda: jobs.get(first.id).state == "done")
        yield stack


@dataclass(frozen=True)
class Prometheus:
    """A Prometheus that has scraped for some seconds.

    Attributes:
        url: Its address.
        moment: Seconds since the epoch, at a time with load.
    """

    url: str
    moment: float

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an instant query at that moment."""
        answer = httpx.get(
            f"{self.url}/api/v1/query", params={"query": expression, "time": self.moment}
        ).json()
        assert answer["status"] == "success", answer
        assert not answer.get("warnings"), answer
        return cast("list[dict[str, Any]]", answer["data"]["result"])


@pytest.fixture(scope="module")
def prometheus(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Run a Prometheus that scrapes every second and evaluates the real alerts."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    targets = {"service": stack.service, "worker": stack.worker}
    jobs = [
        {
            "job_name": job,
            "static_configs": [{"targets": [url.removeprefix("http://")]}],
            "authorization": {"credentials": KEYS["alice"]},
        }
        for job, url in targets.items()
    ]
    (folder / "prometheus.yml").write_text(
        yaml.safe_dump(
            {
                "global": {
                    "scrape_interval": "1s",
                    "scrape_timeout": "1s",
                    "evaluation_interval": "1s",
                },
                "rule_files": [str(MONITORING / "alerts.yml")],
                "scrape_configs": jobs,
            }
        )
    )
    url, log = f"http://127.0.0.1:{port}", folder / "log"
    options = {
        "config.file": folder / "prometheus.yml",
        "storage.tsdb.path": folder,
        "web.listen-address": url[7:],
    }
    command = ["prometheus", *(f"--{name}={value}" for name, value in options.items())]
    with log.open("wb") as words:
        process = subprocess.Popen(command, stdout=words, stderr=words)

    def moment_after_enough_scrapes() -> float | None:
        if process.poll() is not None:
            raise RuntimeError(f"Prometheus ended with {process.returncode}: {log.read_text()}")
        stack.load()
        time.sleep(PAUSE_SECONDS)
        try:
            answer = httpx.get(
                f"{url}/api/v1/query", params={"query": "min(sum_over_time(up[1m]))"}
            )
        except httpx.TransportError:
            return None
        if answer.status_code != 200:  # it is not ready yet
            return None
        samples = answer.json()["data"]["result"]
        return (
            samples[0]["value"][0] if samples and float(samples[0]["value"][1]) >= SCRAPES else None
        )

    try:
        yield Prometheus(url, until(moment_after_enough_scrapes))
    finally:
        process.terminate()
        process.wait()


def expressions(panel: dict[str, Any]) -> list[str]:
    """Return the queries of a panel with its variables filled in, as Grafana does."""
    values = {"$__rate_interval": WINDOW, "$__range": "1m", "$window": WINDOW, "$model": "digits"}
    found = [target["expr"] for target in panel["targets"]]
    for name, value in values.items():
        found = [expression.replace(name, value) for expression in found]
    assert not [expression for expression in found if "$" in expression]
    return found


def test_every_alert_says_how_bad_it_is_what_it_means_and_what_to_do() -> None:
    for name, alert in ALERTS.items():
        assert "for" in alert, name
        assert alert["labels"]["severity"] in ("critical", "warning"), name
        assert set(alert["annotations"]) == {"summary", "description", "action"}, name


@pytest.mark.parametrize("name", ALERTS)
def test_guide_describes_alerts_in_their_own_words(name: str) -> None:
    _, _, after = GUIDE.partition(f"### {name}\n")
    section = " ".join(after.partition("\n#")[0].split())

    assert section.startswith(ALERTS[name]["annotations"]["summary"])
    assert ALERTS[name]["annotations"]["action"] in section


@pytest.mark.parametrize("name", DASHBOARDS)
def test_guide_describes_panels_in_their_own_words(name: str) -> None:
    board = DASHBOARDS[name]
    _, _, after = GUIDE.partition(f"## Dashboard: {board['title'].removeprefix('Loupe: ')}\n")
    rows = [line for line in after.partition("\n## ")[0].splitlines() if line.startswith("| ")]

    assert rows[1:] == [
        f"| {panel['title']} | {panel['description']} |" for panel in board["panels"]
    ]


def test_panels_ask_the_data_source_that_is_provisioned_and_do_not_overlap() -> None:
    (source,) = yaml.safe_load(
        (MONITORING / "grafana/provisioning/datasources/prometheus.yml").read_text()
    )["datasources"]
    for board in DASHBOARDS.values():
        places = [panel["gridPos"] for panel in board["panels"]]
        fields = [
            (place["x"] + x, place["y"] + y)
            for place in places
            for x in range(place["w"])
            for y in range(place["h"])
        ]
        assert len(fields) == len(set(fields))
        assert max(x for x, _ in fields) == 23
    for panel in PANELS.values():
        for asked in (panel, *panel["targets"]):
            assert asked["datasource"] == {"type": "prometheus", "uid": source["uid"]}
    assert len(PANELS) == sum(
        len(board["panels"]) for board in DASHBOARDS.values()
    )  # names are unique
    assert len({board["uid"] for board in DASHBOARDS.values()}) == len(DASHBOARDS) == 3


def test_alerts_and_panels_name_only_metrics_that_the_service_and_the_worker_have(
    stack: Stack,
) -> None:
    urls = (stack.service, stack.worker)
    exposed = "".join(httpx.get(f"{url}/metrics", headers=ALICE).text for url in urls)
    asked = [rule["expr"] for rule in RULES]
    for panel in PANELS.values():
        asked += expressions(panel)
    named = {metric for expression in asked for metric in METRIC.findall(expression)}

    assert len(named) > 20
    missing = {
        name for name in named - RECORDED if not re.search(rf"^{name}[{{ ]", exposed, re.MULTILINE)
    }
    assert not missing


@needs_prometheus
def test_configuration_and_the_alerts_are_valid() -> None:
    for subject, path in {
        "config": MONITORING / "prometheus.yml",
        "rules": MONITORING / "alerts.yml",
    }.items():
        checked = subprocess.run(
            ["promtool", "check", subject, path], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout + checked.stderr


@needs_prometheus
def test_alerts_fire_when_they_should_and_not_before() -> None:
    tested = subprocess.run(
        ["promtool", "test", "rules", *TESTS_OF_ALERTS],
        capture_output=True,
        text=True,
    )

    assert tested.returncode == 0, tested.stdout + tested.stderr


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_has_a_test_that_fires_and_one_that_does_not(name: str) -> None:
    looks = [
        look
        for path in TESTS_OF_ALERTS
        for test in yaml.safe_load(path.read_text())["tests"]
        for look in test["promql_expr_test"]
        if f'"{name}"' in look["expr"]
    ]

    assert any(look["exp_samples"] for look in looks)
    assert any(not look["exp_samples"] for look in looks)


@needs_prometheus
@pytest.mark.parametrize("title", PANELS)
def test_panel_shows_something_while_there_is_load(prometheus: Prometheus, title: str) -> None:
    for expression in expressions(PANELS[title]):
        samples = prometheus.query(expression)
        assert samples, expression
        assert all(sample["value"][1] != "NaN" for sample in samples), (expression, samples)


@needs_prometheus
def test_no_alert_fires_under_a_little_load_and_none_is_erroneous(prometheus: Prometheus) -> None:
    def rules() -> list[dict[str, Any]] | None:
        groups = httpx.get(f"{prometheus.url}/api/v1/rules").json()["data"]["groups"]
        found = [rule for group in groups for rule in group["rules"]]
        return found if all(rule["health"] != "unknown" for rule in found) else None

    found = until(rules)
    assert len(found) == len(RULES)
    assert [rule["name"] for rule in found if rule["health"] != "ok"] == []
    assert [rule["name"] for rule in found if rule.get("state", "inactive") != "inactive"] == []
