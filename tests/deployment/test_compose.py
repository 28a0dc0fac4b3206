"""What docker-compose.yml and the Dockerfile promise, read without an engine."""

import re
from pathlib import Path
from typing import TypeAlias

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES = COMPOSE["services"]
LONG_LIVED = ["redis", "service", "worker"]

Stages: TypeAlias = dict[str, str]


@pytest.fixture
def stages() -> Stages:
    """The text of each stage of the Dockerfile, by name."""
    found = re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL)
    return dict(found)


def test_compose_runs_redis_the_service_and_workers_and_trains_only_when_asked() -> None:
    assert set(SERVICES) == {*LONG_LIVED, "train"}
    assert [name for name in SERVICES if "profiles" in SERVICES[name]] == ["train"]
    assert SERVICES["train"]["profiles"] == ["train"]


@pytest.mark.parametrize("name", LONG_LIVED)
def test_what_runs_for_long_comes_back_after_a_crash_and_shows_its_health(name: str) -> None:
    assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    assert "stop_grace_period" in SERVICES[name]


def test_only_the_service_can_be_reached_from_outside() -> None:
    assert [name for name in SERVICES if "ports" in SERVICES[name]] == ["service"]
    assert SERVICES["service"]["ports"] == ["${LOUPE_ADDRESS:-127.0.0.1}:${LOUPE_PORT:-3000}:3000"]
    assert SERVICES["service"]["environment"]["LOUPE_HOST"] == "0.0.0.0"  # noqa: S104 - inside its container


def test_redis_writes_what_it_holds_to_a_volume() -> None:
    command = SERVICES["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert SERVICES["redis"]["volumes"] == ["queue:/data"]


def test_all_programs_use_one_model_store() -> None:
    assert "BENTOML_HOME=/var/lib/loupe/store" in DOCKERFILE
    for name in ("service", "worker", "train"):
        assert "store:/var/lib/loupe/store" in SERVICES[name]["volumes"]


def test_workers_can_be_many() -> None:
    assert "container_name" not in SERVICES["worker"]
    assert SERVICES["worker"]["depends_on"] == {"redis": {"condition": "service_healthy"}}
    assert SERVICES["worker"]["environment"]["LOUPE_REDIS_URL"] == "redis://redis:6379/0"


def test_every_volume_that_is_mounted_is_declared() -> None:
    mounted = {volume.split(":")[0] for service in SERVICES.values() for volume in service["volumes"]}
    assert {name for name in mounted if name.isalpha()} == set(COMPOSE["volumes"])


@pytest.mark.parametrize("target", ["service", "worker", "train"])
def test_images_run_as_a_user_without_rights_and_stop_on_sigterm(stages: Stages, target: str) -> None:
    assert SERVICES[target]["build"]["target"] == target
    assert "USER 1000:1000" in stages[target]
    assert "HEALTHCHECK" in stages[target]
    assert "STOPSIGNAL SIGTERM" in stages["base"]


@pytest.mark.parametrize("target", ["service", "worker", "train"])
def test_packages_are_installed_from_hashed_locks_in_a_stage_of_their_own(stages: Stages, target: str) -> None:
    assert f"--require-hashes -r /requirements/{target}.txt" in stages[f"{target}-packages"]
    assert f"COPY --from={target}-packages /opt/venv /opt/venv" in stages[target]
    assert not re.search(r"^RUN", stages[target], re.MULTILINE)


def test_nothing_is_built_on_a_moving_base_or_needs_a_frontend() -> None:
    bases = set(re.findall(r"^FROM (\S+) AS", DOCKERFILE, re.MULTILINE))
    assert bases == {"python:3.11-slim-bookworm", "packages", "base"}
    assert not DOCKERFILE.startswith("# syntax")


@pytest.mark.parametrize("program", ["service", "worker"])
def test_only_training_has_tensorflow(program: str) -> None:
    assert not re.search(r"^(tensorflow|keras)==", (ROOT / f"requirements/{program}.txt").read_text(), re.MULTILINE)
    assert re.search(r"^tensorflow==", (ROOT / "requirements/train.txt").read_text(), re.MULTILINE)


def test_what_the_images_copy_is_sent_to_the_engine() -> None:
    sent = (ROOT / ".dockerignore").read_text().splitlines()
    copied = re.findall(r"^COPY (?!--from)(\w+)/", DOCKERFILE, re.MULTILINE)
    for folder in set(copied) - {"requirements"}:
        assert f"!{folder}" in sent
        assert (ROOT / folder).is_dir()
