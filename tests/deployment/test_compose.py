"""The promises of docker-compose.yml and the Dockerfile, checked without an engine."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any, TypeAlias

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE_TEXT = (ROOT / "docker-compose.yml").read_text()
COMPOSE = yaml.safe_load(COMPOSE_TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
EXAMPLE = (ROOT / ".env.example").read_text()
LONG_LIVED = [name for name, service in SERVICES.items() if service["restart"] != "no"]
TARGETS = ["service", "worker", "train"]  # of the Dockerfile
PROGRAMS = [*TARGETS, "improve"]
PERSONAL = {
    "AWS_DEFAULT_REGION",
    "AWS_ENDPOINT_URL",
    "COMPOSE_PROFILES",
}  # for Loupe's programs, and for compose itself

Stages: TypeAlias = dict[str, str]


@pytest.fixture
def stages() -> Stages:
    """Return the text of each stage of the Dockerfile, by name."""
    found = re.findall(
        r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", DOCKERFILE, re.MULTILINE | re.DOTALL
    )
    return dict(found)


def test_compose_file_follows_its_specification() -> None:
    command: list[str | Path] = [
        TOOLS / "check-jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        ROOT / "docker-compose.yml",
    ]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout


@pytest.mark.skipif(
    not (TOOLS / "hadolint").exists(), reason="hadolint has no package for this platform"
)
def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    checked = subprocess.run(
        [TOOLS / "hadolint", ROOT / "Dockerfile"], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def test_extras_run_only_with_their_profile() -> None:
    assert {"redis", *PROGRAMS} <= {name for name in SERVICES if "profiles" not in SERVICES[name]}
    assert {
        profile for service in SERVICES.values() for profile in service.get("profiles", [])
    } <= {"s3", "monitoring"}
    assert SERVICES["s3"]["profiles"] == ["s3"]


@pytest.mark.parametrize("name", LONG_LIVED)
def test_long_running_containers_restart_have_health_checks_and_limits(
    name: str,
) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert {"stop_grace_period", "mem_limit"} <= service.keys()
    assert {"max-size", "max-file"} == service["logging"]["options"].keys()
    assert service["cap_drop"] == ["ALL"]


@pytest.mark.parametrize("name", ["redis", *PROGRAMS])
def test_containers_write_only_to_their_volumes(name: str) -> None:
    assert SERVICES[name]["read_only"] is True
    assert SERVICES[name]["tmpfs"] == ["/tmp"]  # noqa: S108 - in its container


def test_only_the_service_and_dashboards_can_be_reached_from_outside() -> None:
    assert {name for name in SERVICES if "ports" in SERVICES[name]} <= {"service", "grafana"}
    assert SERVICES["service"]["ports"] == ["${LOUPE_ADDRESS:-127.0.0.1}:${LOUPE_PORT:-3000}:3000"]
    environment = SERVICES["service"]["environment"]
    assert environment["LOUPE_HOST"] == "0.0.0.0"  # noqa: S104 - inside its container
    assert COMPOSE["networks"]["inside"] == {"internal": True}
    assert SERVICES["redis"]["networks"] == SERVICES["s3"]["networks"] == ["inside"]


def test_redis_persists_to_a_volume_and_evicts_no_job() -> None:
    command = SERVICES["redis"]["command"][-1]
    assert "--appendonly yes" in command
    assert "--maxmemory-policy noeviction" in command
    assert SERVICES["redis"]["volumes"] == ["queue:/data"]


def test_redis_password_is_a_secret_of_the_containers_that_need_it() -> None:
    holders = {name for name in SERVICES if "redis_password" in SERVICES[name].get("secrets", [])}
    assert holders >= {"redis", "service", "worker"}
    assert "train" not in holders
    assert not re.search(r"--requirepass|redis://[^ \"}]*@", COMPOSE_TEXT)
    default = re.search(r":-(.+)}", COMPOSE["secrets"]["redis_password"]["file"])
    assert default
    assert (ROOT / default[1]).read_text().strip()


def test_all_programs_use_one_model_store() -> None:
    assert "BENTOML_HOME=/var/lib/loupe/store" in DOCKERFILE
    for name in PROGRAMS:
        assert "store:/var/lib/loupe/store" in SERVICES[name]["volumes"]


def test_service_and_workers_wait_for_a_model_and_workers_for_redis() -> None:
    trained = {"train": {"condition": "service_completed_successfully"}}
    assert SERVICES["service"]["depends_on"] == trained  # predictions do not need Redis
    assert SERVICES["worker"]["depends_on"] == {"redis": {"condition": "service_healthy"}} | trained
    assert SERVICES["train"]["command"].startswith("train --quick --if-empty ")


def test_full_model_is_trained_beside_the_service_and_promoted_once() -> None:
    improve, first = SERVICES["improve"], SERVICES["train"]
    assert improve["command"].startswith("train --if-missing --promote ")
    assert improve["depends_on"] == {"service": {"condition": "service_healthy"}}
    for options in (improve["command"], first["command"]):
        assert options.endswith("${LOUPE_TRAIN:-fashion-mnist}")
    assert improve["cpu_shares"] < 1024  # Docker's default


def test_container_of_the_full_training_stays_when_it_is_done_and_fails_with_it() -> None:
    shell, option, script, name = SERVICES["improve"]["entrypoint"]
    script = script.replace("$$", "$").replace("python -m loupe", "sh -c")

    def start(training: str) -> subprocess.Popen[str]:
        command = [shell, option, script, name, training]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    with start("exit 3") as container:
        assert container.wait(30) == 3
    for training in ("echo ready", "echo ready; exec sleep 60"):  # done, and still busy
        with start(training) as container:
            assert container.stdout is not None
            assert container.stdout.readline() == "ready\n"
            with pytest.raises(subprocess.TimeoutExpired):
                container.wait(0.2)
            container.terminate()
            assert container.wait(30) == 0


def test_several_workers_can_run() -> None:
    assert not {"container_name", "ports"} & SERVICES["worker"].keys()


def test_every_volume_that_is_mounted_is_declared() -> None:
    mounted = {
        volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service.get("volumes", [])
    }
    assert {name for name in mounted if name.isalpha()} == set(COMPOSE["volumes"])


def test_env_example_lists_every_variable_with_its_default() -> None:
    default = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", COMPOSE_TEXT))
    shown = dict(re.findall(r"^#([A-Z][A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE))

    assert {name: value for name, value in shown.items() if name not in PERSONAL} == default
    assert not re.search(r"^[^#\n]", EXAMPLE, re.MULTILINE)


@pytest.mark.parametrize("target", TARGETS)
def test_images_are_labelled_unprivileged_and_stop_on_sigterm(stages: Stages, target: str) -> None:
    assert SERVICES[target]["build"]["target"] == target
    assert f'org.opencontainers.image.title="loupe-{target}"' in stages[target]
    assert "USER 1000:1000" in stages[target]
    assert ("HEALTHCHECK" in stages[target]) == (target != "train")  # it ends
    assert "STOPSIGNAL SIGTERM" in stages["base"]


@pytest.mark.parametrize(
    ("target", "locks"),
    [
        ("service", ["service", "grpc", "heif", "tracing"]),
        ("worker", ["worker", "heif", "s3"]),
        ("train", ["train", "heif"]),
    ],
)
def test_packages_are_installed_from_hashed_locks_before_the_code(
    stages: Stages, target: str, locks: list[str]
) -> None:
    install = "--require-hashes " + " ".join(f"-r {lock}.txt" for lock in locks)
    assert install in stages[f"{target}-packages"]
    packages = stages[target].index(f"COPY --from={target}-packages /opt/venv /opt/venv")
    assert packages < stages[target].index("COPY loupe/")
    assert "RUN" not in stages[target][packages:]


def test_base_images_are_pinned_and_no_frontend_is_needed() -> None:
    bases = set(re.findall(r"^FROM (\S+) AS", DOCKERFILE, re.MULTILINE))
    assert bases == {"python:3.11-slim-bookworm", "venv", "base"}
    assert not DOCKERFILE.startswith("# syntax")


@pytest.mark.parametrize("name", ["service", "grpc", "heif", "tracing", "worker", "s3"])
def test_only_training_has_tensorflow(name: str) -> None:
    assert not re.search(
        r"^(tensorflow|keras)==", (ROOT / f"requirements/{name}.txt").read_text(), re.MULTILINE
    )
    assert re.search(r"^tensorflow==", (ROOT / "requirements/train.txt").read_text(), re.MULTILINE)
