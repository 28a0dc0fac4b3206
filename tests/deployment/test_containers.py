"""The README's commands in real containers, and then failures of the containers.

The tests build on each other.
"""

import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.deployment.engines import BASE, Engine, engine
from tests.documentation.places import CONTAINERS, commands_at
from tests.support import pictures
from tests.support.programs import until
from train.data.datasets import load_dataset

ROOT = Path(__file__).parents[2]
PROJECT = "loupe-test"
PICTURES = len(list((ROOT / "examples" / "clothes").iterdir()))
STORE = "/var/lib/loupe/store"  # in the containers
MANY = 300_000  # images of a job long enough to interrupt
# The settings of --quick: the full model would take a quarter of an hour.
FIRST_MODEL = "fashion-mnist --architecture cnn-small --epochs 2"
pytestmark = [pytest.mark.containers, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Build the images from a copy of the checkout with the files of a clone."""
    folder = tmp_path_factory.mktemp("clone")
    tracked = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    for name in subprocess.run(
        tracked, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0"):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / name)
    with engine(folder, PROJECT, LOUPE_TRAIN=FIRST_MODEL) as found:
        found.build()
        remove = "docker compose --profile '*' down --volumes --remove-orphans"
        found.try_bash(remove)  # leftovers of killed tests
        try:
            yield found
        finally:
            found.try_bash(remove)


@pytest.fixture(scope="module")
def commands(built: Engine) -> dict[str, str]:
    """Run each command of the README's section on containers; return the output by command."""
    images, labels = (
        load_dataset("fashion-mnist").test.images,
        load_dataset("fashion-mnist").test.labels,
    )
    Image.fromarray(images[np.flatnonzero(labels == 9)[0]]).save(built.folder / "boot.png")
    return {command: built.bash(command) for command in readme_commands()}


@pytest.fixture
def stack(built: Engine, commands: dict[str, str]) -> Engine:
    """Return the engine after the README's commands have run."""
    return built


@pytest.fixture
def volume(stack: Engine) -> Iterator[str]:
    """Return the name of a volume that does not exist yet."""
    name = f"{PROJECT}-other"
    yield name
    stack.bash(f"docker volume rm --force {name}")


def readme_commands() -> list[str]:
    """Return the commands of the README's section on containers, after the clone."""
    section = (
        (ROOT / "README.md").read_text().partition("## In containers\n")[2].partition("\n## ")[0]
    )
    lines = re.findall(r"^    (\S.*?)(?: {2,}#.*)?$", section, re.MULTILINE)
    return [line for line in lines if not line.startswith(("git clone", "{"))]


def guide_commands(page: str, title: str) -> list[str]:
    """Return the blocks of commands in a section of a docs page, for this project."""
    section = (ROOT / "docs" / page).read_text().partition(f"## {title}\n")[2].partition("\n##")[0]
    blocks = re.findall(r"(?:^    \S.*\n)+", section, re.MULTILINE)
    return [
        re.sub(r"^    ", "", block, flags=re.MULTILINE).replace("loupe_", f"{PROJECT}_")
        for block in blocks
    ]


def other_commands() -> list[str]:
    """Return the documented commands with containers that are in none of the sections below."""
    sections = ("Back up", "Restore"), ("Two services behind a proxy",), ("Remove it",)
    pages = zip(("backup.md", "upgrade.md", "deploy.md"), sections, strict=True)
    blocks = [guide_commands(page, title) for page, titles in pages for title in titles]
    run = "\n".join([*readme_commands(), *chain(*blocks)]).replace(f"{PROJECT}_", "loupe_")
    return [each.text for each in commands_at(CONTAINERS) if each.text not in run]


@pytest.mark.timeout(
    1800
)  # they are built for it, and an engine that has built none yet fetches all packages
def test_images_are_small(built: Engine) -> None:
    sizes = {
        name: int(built.bash(f"docker image inspect --format '{{{{.Size}}}}' {name}")) / 1e6
        for name in (BASE, "loupe-service", "loupe-worker", "loupe-train")
    }
    assert sizes["loupe-service"] - sizes[BASE] <= 600, sizes
    assert sizes["loupe-worker"] - sizes[BASE] <= 600, sizes


@pytest.mark.parametrize("profile", ["", "s3", "monitoring"])
def test_compose_understands_every_profile(built: Engine, profile: str) -> None:
    built.bash(f"COMPOSE_PROFILES={profile} docker compose config --quiet")


def test_readme_commands_lead_to_a_prediction_and_to_scored_pictures(
    stack: Engine, commands: dict[str, str]
) -> None:
    predicted = next(words for command, words in commands.items() if command.startswith("curl"))
    results = stack.folder / "data" / "results" / "first"

    assert json.loads(predicted)["label"] == "Ankle boot"
    assert (results / "_SUCCESS").is_file()
    assert json.loads((results / "_summary.json").read_text())["done"] == PICTURES


def test_another_model_is_served_as_soon_as_it_is_trained(stack: Engine) -> None:
    until(lambda: "digits:" in curl(stack, "/models"))
    answer = curl(
        stack, "/predict?model=digits", "--data-binary @boot.png -H 'Content-Type: image/png'"
    )
    assert json.loads(answer)["model"].startswith("digits:")


def test_existing_model_prevents_the_first_training(stack: Engine) -> None:
    assert "nothing to train" in stack.bash("docker compose run --rm train")


@pytest.mark.skipif(os.geteuid() != 0, reason="killing a container's process takes root")
@pytest.mark.parametrize("victim", ["worker", "service", "redis"])
def test_job_survives_the_kill_of_any_container(stack: Engine, victim: str) -> None:
    stack.bash("docker compose up --detach --wait --scale worker=3")
    job = submit(stack)
    until(lambda: begun(stack, job))
    container = stack.bash(f"docker compose ps --quiet {victim}").split()[0]

    os.kill(int(inspect(stack, container, ".State.Pid")), signal.SIGKILL)

    state = until(lambda: ended(stack, job))
    assert (state["state"], state["done"]) == ("done", MANY), state
    rows = f"curl -sSf 'localhost:3000/jobs/{job}/results?format=csv' | tail -n +2"
    assert int(stack.bash(f"{rows} | wc -l")) == MANY
    assert int(stack.bash(f"{rows} | cut -d, -f1 | sort -u | wc -l")) == MANY
    until(lambda: inspect(stack, container, ".State.Health.Status") == "healthy")
    assert inspect(stack, container, ".RestartCount") == "1"


def test_wrong_redis_password_stops_jobs_but_not_predictions(stack: Engine) -> None:
    (stack.folder / "other-password").write_text("another-word\n")
    stack.bash(
        "LOUPE_REDIS_PASSWORD_FILE=./other-password docker compose up --detach --wait --no-deps "
        "--force-recreate service"
    )

    predicted = curl(stack, "/predict", "--data-binary @boot.png -H 'Content-Type: image/png'")
    refused = stack.bash("curl -sS -w ' %{http_code}' localhost:3000/jobs")

    assert "label" in json.loads(predicted)
    assert refused.endswith(" 503")
    assert "redis" in refused.lower()
    stack.bash("docker compose up --detach --wait --no-deps --force-recreate service")


def test_full_queue_refuses_jobs_and_keeps_existing_ones(stack: Engine) -> None:
    redis = (
        "docker compose exec redis sh -c 'REDISCLI_AUTH=$(cat /run/secrets/redis_password) "
        "redis-cli config set maxmemory {}'"
    )
    known = json.loads(curl(stack, "/jobs"))
    stack.bash(redis.format("1mb"))
    body = json.dumps({"source": "/data/many.npy"})
    refused = stack.bash(
        f"curl -sS -w ' %{{http_code}}' -H 'Content-Type: application/json' -d '{body}' "
        "localhost:3000/jobs"
    )

    assert refused.endswith(" 503"), refused
    assert json.loads(curl(stack, "/jobs")) == known
    stack.bash(redis.format("256mb"))


def test_read_only_store_is_served_and_refuses_models(stack: Engine) -> None:
    mount = f"{PROJECT}_store:{STORE}:ro"

    with detached(stack, mount, "service"):
        pass  # it is healthy
    assert "nothing to train" in output_of(stack, mount, "train train --if-empty", status=0)
    refused = output_of(stack, mount, "train train --dataset digits", status=1)
    assert "store_unwritable" in refused
    assert "Read-only file system" in refused


def test_full_store_is_left_unchanged(stack: Engine, volume: str) -> None:
    options = (
        "--driver local --opt type=tmpfs --opt device=tmpfs --opt o=size=200k,uid=1000,gid=1000"
    )
    stack.bash(f"docker volume create {options} {volume}")
    stack.bash(
        f"docker run --detach --name {volume} --volume {volume}:{STORE} {BASE} sleep 300"
    )  # keeps its contents
    try:
        quick = "train train --dataset digits --architecture softmax --epochs 1 --min-accuracy 0.1"
        refused = output_of(stack, f"{volume}:{STORE}", quick, status=1)
        left = stack.bash(f"docker exec {volume} find {STORE} -type f")
    finally:
        stack.bash(f"docker rm --force {volume}")

    assert "store_unwritable" in refused
    assert "No space left on device" in refused
    assert left == ""


def test_empty_store_says_what_to_train(stack: Engine, volume: str) -> None:
    assert "Train one: loupe train" in output_of(stack, f"{volume}:{STORE}", "service", status=1)


def test_damaged_model_is_neither_served_nor_scored_with(stack: Engine, volume: str) -> None:
    copy = (
        "cp -a /from/. /to && for model in /to/models/fashion-mnist/*/model.onnx; "
        "do printf x >> $model; done"
    )
    volumes = f"--volume {PROJECT}_store:/from:ro --volume {volume}:/to"
    stack.bash(f"docker run --rm --network none --user root {volumes} {BASE} sh -c '{copy}'")
    mount = f"{volume}:{STORE}"
    score = "worker score /data/pictures --out /data/results/damaged --model fashion-mnist"

    # The default model is the first one, whichever was trained last.
    models = "--env LOUPE_MODELS=digits,fashion-mnist"
    with detached(stack, f"{mount} {models}", "service") as service:
        log = stack.bash(f"docker logs {service} 2>&1")

    damage = "model.onnx is not the file that was saved"
    assert damage in log
    assert "serving digits:" in log
    assert damage in output_of(stack, mount, score, status=1)


def test_port_that_is_taken_is_named(stack: Engine) -> None:
    other = stack.start("exec python3 -m http.server 3077 2> other.log")
    try:
        until(lambda: stack.try_bash("curl -sSf localhost:3077").returncode == 0)
        refused = stack.try_bash("LOUPE_PORT=3077 docker compose up --detach --no-deps service")
    finally:
        other.terminate()
        other.wait(30)
        stack.bash("docker compose up --detach --wait")

    assert refused.returncode != 0
    assert "3077" in refused.stderr
    assert "address already in use" in refused.stderr


def test_worker_refuses_a_job_of_another_protocol_version(stack: Engine) -> None:
    records = (stack.folder / "worker" / "queue" / "records.py").read_text()
    (stack.folder / "other_records.py").write_text(
        re.sub('^PROTOCOL = ".*"', 'PROTOCOL = "999"', records, flags=re.M)
    )
    stack.bash("docker compose stop worker")
    job = submit(stack)

    output_of(
        stack,
        f"{stack.folder}/other_records.py:/opt/loupe/worker/queue/records.py:ro",
        "worker worker --burst",
        status=0,
    )
    stack.bash("docker compose up --detach --wait worker")

    state = state_of(stack, job)
    assert state is not None
    assert state["state"] == "failed"
    assert "999" in state["error"]


def test_worker_without_the_redis_password_is_unhealthy(stack: Engine) -> None:
    ended = stack.try_bash(
        "LOUPE_REDIS_PASSWORD_FILE=./other-password docker compose run --rm --no-deps "
        "worker worker --burst"
    )
    assert ended.returncode != 0
    assert "password" in ended.stdout + ended.stderr


def test_update_behind_the_proxy_loses_no_request(stack: Engine) -> None:
    begin, update = guide_commands("upgrade.md", "Two services behind a proxy")
    ask = (
        "curl -sS -o answer.json -w '%{http_code}\\n' --data-binary @boot.png "
        "-H 'Content-Type: image/png' localhost:3000/predict"
    )
    with (stack.folder / "service" / "__init__.py").open("a") as code:
        code.write("# another version\n")

    stack.bash(begin)
    asking = stack.start(f"while [ ! -e enough ]; do {ask}; done > codes")
    try:
        stack.bash(f"{begin.splitlines()[0]}{stack.more_files}\n{update}")
    finally:
        (stack.folder / "enough").touch()
        asking.wait(30)
        stack.bash("docker compose up --detach --wait --remove-orphans")

    codes = (stack.folder / "codes").read_text().split()
    assert set(codes) == {"200"}, {code: codes.count(code) for code in codes}
    assert len(codes) > 100
    last = "docker compose exec service tail -n 1 service/__init__.py"
    assert stack.bash(last) == "# another version\n"


@pytest.fixture
def monitored(stack: Engine) -> Iterator[Engine]:
    """Run the stack with Prometheus."""
    stack.bash("docker compose --profile monitoring up --detach --wait prometheus")
    yield stack
    stack.bash("docker compose --profile monitoring rm --stop --force --volumes prometheus")


def test_prometheus_scrapes_service_and_workers_and_knows_every_alert(monitored: Engine) -> None:
    def asked(path: str) -> Any:
        url = f"http://prometheus:9090/api/v1/{path}"
        fetch = f"import urllib.request as r; print(r.urlopen('{url}').read().decode())"
        return json.loads(monitored.bash(f'docker compose exec service python -c "{fetch}"'))[
            "data"
        ]

    def up() -> set[tuple[str, str]]:
        return {
            (each["metric"]["job"], each["value"][1]) for each in asked("query?query=up")["result"]
        }

    well = {("service", "1"), ("worker", "1")}
    with suppress(TimeoutError):
        until(lambda: up() == well)
    assert up() == well
    assert asked("query?query=loupe_requests_total")["result"]
    assert asked("query?query=loupe_worker_images_total")["result"]
    known = {rule["name"] for group in asked("rules")["groups"] for rule in group["rules"]}
    written = yaml.safe_load((ROOT / "deploy" / "monitoring" / "alerts.yml").read_text())
    assert known == {
        rule.get("alert") or rule["record"]
        for group in written["groups"]
        for rule in group["rules"]
    }


@pytest.fixture
def with_s3(stack: Engine) -> Iterator[Engine]:
    """Run the stack with an S3 store, as `.env.example` describes."""
    example = (stack.folder / ".env.example").read_text()
    chosen = re.findall("^#((?:COMPOSE_PROFILES=s3|AWS_).*)$", example, re.MULTILINE)
    (stack.folder / ".env").write_text("\n".join(chosen))
    stack.bash("docker compose up --detach --wait")
    yield stack
    stack.bash("docker compose rm --stop --force s3")
    (stack.folder / ".env").unlink()
    stack.bash("docker compose up --detach --wait")


def test_pictures_in_buckets_are_scored_into_buckets(with_s3: Engine) -> None:
    def copy(verb: str, here: str, there: str) -> None:
        call = f"import fsspec; fsspec.filesystem('s3').{verb}('{here}', '{there}', recursive=True)"
        with_s3.bash(f'docker compose exec worker python -c "{call}"')

    copy("put", "/data/pictures/", "s3://loupe/pictures/")
    score = "score s3://loupe/pictures --out s3://loupe/results/first --model fashion-mnist"
    with_s3.bash(f"docker compose run --rm worker {score}")
    copy("get", "s3://loupe/results/first/", "/data/results/s3/")

    results = with_s3.folder / "data" / "results" / "s3"
    assert json.loads((results / "_summary.json").read_text())["done"] == PICTURES
    assert (results / "_SUCCESS").is_file()


def test_models_and_jobs_come_back_from_a_backup(stack: Engine) -> None:
    (backup,) = guide_commands("backup.md", "Back up")
    (restore,) = guide_commands("backup.md", "Restore")
    models, jobs = (json.loads(curl(stack, path)) for path in ("/models", "/jobs"))

    stack.bash(backup)
    stack.bash(restore)

    tags = [
        [model["model"] for model in found["models"]]
        for found in (models, json.loads(curl(stack, "/models")))
    ]
    assert tags[0] == tags[1]
    assert json.loads(curl(stack, "/jobs")) == jobs


def test_containers_stop_with_exit_code_0_and_keep_their_data(
    stack: Engine,
) -> None:
    job = submit(stack)
    until(lambda: begun(stack, job))
    containers = stack.bash("docker compose ps --quiet").split()
    stack.bash("docker compose stop")
    codes = {
        inspect(stack, name, ".Name"): inspect(stack, name, ".State.ExitCode")
        for name in containers
    }
    assert set(codes.values()) == {"0"}, codes

    stack.bash("docker compose up --detach --wait")
    state = until(lambda: ended(stack, job))
    assert (state["state"], state["done"]) == ("done", MANY)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("command", other_commands())
def test_command_of_another_page_runs(stack: Engine, command: str) -> None:
    photos = {"boots": 20, "bags": 20}
    pictures.sort_into_folders(stack.folder / "data" / "photos", photos)
    if "rollback" in command:  # there has to be an earlier version
        other = "fashion-mnist --architecture softmax --epochs 1 --min-accuracy 0.1"
        stack.bash(f"docker compose run --rm train train {other}")
        stack.bash("docker compose run --rm train models promote fashion-mnist:latest --force")
    epochs = " --epochs 1" if "train train" in command else ""  # all would take minutes

    builds = command.startswith("docker build")
    if builds:
        stack.bash("docker compose down")  # a substitute waits for containers before it builds
    network = " --network host" if builds and stack.substitute else ""
    with stack.building() if builds else nullcontext():
        stack.bash(command + epochs + network)


def test_removal_leaves_nothing(stack: Engine) -> None:
    (remove,) = guide_commands("deploy.md", "Remove it")
    stack.bash(remove)
    for kind in ("ps --all", "volume ls", "network ls"):
        assert (
            stack.bash(f"docker {kind} --quiet --filter label=com.docker.compose.project={PROJECT}")
            == ""
        )


def curl(stack: Engine, path: str, options: str = "") -> str:
    """Return the answer of the service."""
    return stack.bash(f"curl -sSf {options} 'localhost:3000{path}'")


def submit(stack: Engine) -> str:
    """Submit a long job and return its id."""
    if not (stack.folder / "data" / "many.npy").exists():
        image = np.asarray(Image.open(stack.folder / "boot.png"))
        np.save(stack.folder / "data" / "many.npy", np.broadcast_to(image, (MANY, *image.shape)))
    body = json.dumps(
        {"source": "/data/many.npy", "model": "fashion-mnist", "probabilities": False}
    )
    answer = curl(stack, "/jobs", f"-H 'Content-Type: application/json' -d '{body}'")
    return str(json.loads(answer)["id"])


def state_of(stack: Engine, job: str) -> dict[str, Any] | None:
    """Return the service's description of a job, or `None` if it or Redis does not answer."""
    answer = stack.try_bash(f"curl -sSf localhost:3000/jobs/{job}")
    return json.loads(answer.stdout) if answer.returncode == 0 else None


def begun(stack: Engine, job: str) -> bool:
    """Return whether a part of a job is done."""
    state = state_of(stack, job)
    return state is not None and state["done"] > 0


def ended(stack: Engine, job: str) -> dict[str, Any] | None:
    """Return the description of a job once it has ended."""
    state = state_of(stack, job)
    return state if state and state["state"] in ("done", "failed", "cancelled") else None


@contextmanager
def detached(stack: Engine, mount: str, container: str) -> Iterator[str]:
    """Run an extra container with another mount until it is healthy; yield its name."""
    name = f"{PROJECT}-{container}-other"
    stack.bash(f"docker compose run --detach --no-deps --name {name} --volume {mount} {container}")
    try:
        until(lambda: inspect(stack, name, ".State.Health.Status") == "healthy")
        yield name
    finally:
        stack.bash(f"docker rm --force {name}")


def output_of(stack: Engine, mount: str, container: str, *, status: int) -> str:
    """Run an extra container with another mount until it exits with a status; return its output."""
    name = f"{PROJECT}-ends"
    run = f"docker compose run --rm --no-deps --name {name} --volume {mount} {container}"
    ended = stack.try_bash(f"timeout 180 {run}")
    stack.try_bash(f"docker rm --force {name}")  # it goes on if it took too long
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def inspect(stack: Engine, container: str, what: str) -> str:
    """Return a field of the engine's description of a container."""
    return stack.bash(f"docker inspect --format '{{{{{what}}}}}' {container}").strip()
