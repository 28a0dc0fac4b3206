"""A container engine: Docker, or a program that stands in for one, named by LOUPE_CONTAINER_ENGINE.

Such a program prepares an engine of its own (`prepare`), starts it for building with the network of this machine (`build`) or for running
in a network of its own (`run`), prints the variables that lead to it (`env`), runs commands in that network (`exec`) and stops it (`stop`).
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BASE = "python:3.11-slim-bookworm"  # of our images
PROXY = "haproxy:3.0"
PROXY_RECIPE = f"""FROM {BASE}
RUN apt-get update && apt-get install --yes haproxy
USER haproxy
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
"""
S3 = "minio/minio:RELEASE.2025-09-07T16-13-09Z"
# Another program that speaks S3, under the names of MinIO's two. It keeps all in memory, and makes a bucket of the folder it is given.
S3_RECIPE = f"""FROM {BASE}
RUN apt-get update && apt-get install --yes curl && pip install --no-cache-dir 'moto[s3,server]>=5,<6'
RUN printf '%s\\n' '#!/bin/sh' 'curl --retry 30 --retry-connrefused --retry-delay 1 -sSf -X PUT http://127.0.0.1:9000/$(ls $2) &' \
        'exec moto_server --host 0.0.0.0 --port 9000' > /usr/local/bin/minio \
    && printf '%s\\n' '#!/bin/sh' 'curl -sSf http://127.0.0.1:9000/loupe' > /usr/local/bin/mc \
    && chmod +x /usr/local/bin/minio /usr/local/bin/mc
"""
PROMETHEUS = (
    "prom/prometheus:latest",
    "prom/prometheus:v3.5.0",
)  # as a stand-in makes it, and as the compose file names it
FOREIGN = (
    "LOUPE_",
    "AWS_",
    "OTEL_",
    "COMPOSE_",
    "BENTOML_",
)  # what would reach the containers from here


@dataclass(frozen=True)
class Engine:
    """An engine, and a checkout whose compose file it runs.

    Attributes:
        folder: The checkout.
        environment: What leads commands to the engine.
        stand_in: The program that is the engine, if it is none that is installed.
    """

    folder: Path
    environment: dict[str, str]
    stand_in: str | None

    @property
    def more_files(self) -> str:
        """What is to be added to the compose files to build images with: a stand-in has no network of its own for that."""
        return ":network.yml" if self.stand_in else ""

    def bash(self, command: str) -> str:
        """What a command, run in the checkout and in the engine's network, prints."""
        ended = self.try_bash(command)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def try_bash(self, command: str) -> subprocess.CompletedProcess[str]:
        """The same, for a command that may fail."""
        return subprocess.run(
            self._in_bash(command),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """The same, for one that goes on meanwhile."""
        return subprocess.Popen(self._in_bash(command), cwd=self.folder, env=self.environment)

    @contextmanager
    def building(self) -> Iterator[None]:
        """A block in which images are built: a stand-in has the network of this machine then, and runs nothing."""
        if self.stand_in:
            self._tell("build")
        yield
        if self.stand_in:
            self._tell("run")

    def build(self) -> None:
        """Build the images of all services; a stand-in makes those of others that it can make of Debian's packages."""
        if self.stand_in:
            network = [
                f"  {name}: {{ build: {{ network: host }} }}"
                for name in ("service", "worker", "train")
            ]
            (self.folder / "network.yml").write_text("\n".join(["services:", *network]))
        with self.building():
            built = subprocess.run(
                ["docker", "compose", "build"],
                cwd=self.folder,
                env={**self.environment, "COMPOSE_FILE": f"docker-compose.yml{self.more_files}"},
                capture_output=True,
                text=True,
            )
            assert built.returncode == 0, built.stderr[-5000:]
            if self.stand_in:
                self._build(PROXY, PROXY_RECIPE)
                self._build(S3, S3_RECIPE)
                subprocess.run(["docker", "tag", *PROMETHEUS], env=self.environment, check=True)

    def _in_bash(self, command: str) -> list[str]:
        network = [self.stand_in, "exec"] if self.stand_in else []
        return [*network, "bash", "-eu", "-o", "pipefail", "-c", command]

    def _build(self, name: str, recipe: str) -> None:
        """Make what has the name of another's image."""
        command = ["docker", "build", "--network", "host", "--tag", name, "-"]
        built = subprocess.run(
            command, env=self.environment, input=recipe, capture_output=True, text=True
        )
        assert built.returncode == 0, built.stderr[-5000:]

    def _tell(self, verb: str) -> None:
        assert self.stand_in
        told = subprocess.run([self.stand_in, verb], capture_output=True, text=True)
        assert told.returncode == 0, told.stderr


@contextmanager
def engine(folder: Path, project: str, **variables: str) -> Iterator[Engine]:
    """An engine for a checkout, while a block lasts; without one the test is skipped.

    Args:
        folder: The checkout.
        project: The name of what runs there, for Docker.
        variables: Of the environment that the compose file is read in.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)
    }
    environment |= {"COMPOSE_PROJECT_NAME": project, **variables}
    stand_in = os.environ.get("LOUPE_CONTAINER_ENGINE")
    if stand_in is None:
        try:
            subprocess.run(["docker", "info"], check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no container engine: {error}; LOUPE_CONTAINER_ENGINE names none")
        yield Engine(folder, environment, None)
        return
    prepared = subprocess.run([stand_in, "prepare"], capture_output=True, text=True)
    assert prepared.returncode == 0, prepared.stderr
    try:
        led = subprocess.run(
            ["bash", "-c", f'eval "$({stand_in} env)"; env -0'],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        yield Engine(
            folder, dict(line.split("=", 1) for line in led.stdout.split("\0") if line), stand_in
        )
    finally:
        subprocess.run([stand_in, "stop"], check=True)
