"""A container engine: Docker, or the substitute program in LOUPE_CONTAINER_ENGINE.

A substitute prepares a private engine (`prepare`), starts it for builds on this machine's network
(`build`) or for containers on a private network (`run`), prints the variables that point to it
(`env`), runs commands on that network (`exec`) and stops it (`stop`).
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

BASE = "python:3.11-slim-bookworm"  # of Loupe's images
PROXY = "haproxy:3.0"
PROXY_RECIPE = f"""FROM {BASE}
RUN apt-get update && apt-get install --yes haproxy
USER haproxy
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
"""
S3 = "minio/minio:RELEASE.2025-09-07T16-13-09Z"
# A substitute for MinIO's two programs. It keeps objects in memory, and creates the bucket
# that its folder names.
S3_RECIPE = f"""FROM {BASE}
RUN apt-get update && apt-get install --yes curl
RUN pip install --no-cache-dir 'moto[s3,server]>=5,<6'
RUN printf '%s\\n' '#!/bin/sh' \
        'curl --retry 30 --retry-connrefused --retry-delay 1 -sSf -X PUT \\' \
        '  http://127.0.0.1:9000/$(ls $2) &' \
        'exec moto_server --host 0.0.0.0 --port 9000' > /usr/local/bin/minio \
    && printf '%s\\n' '#!/bin/sh' 'curl -sSf http://127.0.0.1:9000/loupe' > /usr/local/bin/mc \
    && chmod +x /usr/local/bin/minio /usr/local/bin/mc
"""
PROMETHEUS = (
    "prom/prometheus:latest",
    "prom/prometheus:v3.5.0",
)  # the name that the substitute builds, and the one in the compose file
FOREIGN = (
    "LOUPE_",
    "AWS_",
    "OTEL_",
    "COMPOSE_",
    "BENTOML_",
)  # variables that must not reach the containers


@dataclass(frozen=True)
class Engine:
    """An engine, and a checkout whose compose file it runs.

    Attributes:
        folder: The checkout.
        environment: Variables that point commands to the engine.
        substitute: The program that provides the engine, if Docker does not.
    """

    folder: Path
    environment: dict[str, str]
    substitute: str | None

    @property
    def more_files(self) -> str:
        """Extra compose files for builds, which a substitute runs on this machine's network."""
        return ":network.yml" if self.substitute else ""

    def bash(self, command: str) -> str:
        """Run a command in the checkout, on the engine's network, and return its output."""
        ended = self.try_bash(command)
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout

    def try_bash(self, command: str) -> subprocess.CompletedProcess[str]:
        """Run a command that may fail, as `bash` does."""
        return subprocess.run(
            self._in_bash(command),
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )

    def start(self, command: str) -> subprocess.Popen[bytes]:
        """Start a command in the background, as `bash` does."""
        return subprocess.Popen(self._in_bash(command), cwd=self.folder, env=self.environment)

    @contextmanager
    def building(self) -> Iterator[None]:
        """Allow builds in the block; a substitute then uses this machine's network."""
        if self.substitute:
            self._call("build")
        yield
        if self.substitute:
            self._call("run")

    def build(self) -> None:
        """Build the images of all services; with a substitute, also third-party images."""
        if self.substitute:
            network = [
                f"  {name}: {{ build: {{ network: host }} }}"
                for name in ("service", "worker", "train", "improve")
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
            if self.substitute:
                self._build(PROXY, PROXY_RECIPE)
                self._build(S3, S3_RECIPE)
                subprocess.run(["docker", "tag", *PROMETHEUS], env=self.environment, check=True)

    def _in_bash(self, command: str) -> list[str]:
        network = [self.substitute, "exec"] if self.substitute else []
        return [*network, "bash", "-eu", "-o", "pipefail", "-c", command]

    def _build(self, name: str, recipe: str) -> None:
        """Build an image under the name of a third-party image."""
        command = ["docker", "build", "--network", "host", "--tag", name, "-"]
        built = subprocess.run(
            command, env=self.environment, input=recipe, capture_output=True, text=True
        )
        assert built.returncode == 0, built.stderr[-5000:]

    def _call(self, verb: str) -> None:
        assert self.substitute
        ended = subprocess.run([self.substitute, verb], capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr


@contextmanager
def engine(folder: Path, project: str, **variables: str) -> Iterator[Engine]:
    """Provide an engine for a checkout while the block runs; skip the test if there is none.

    Args:
        folder: The checkout.
        project: Docker's name of the project.
        variables: Environment variables for the compose file.
    """
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)
    }
    environment |= {"COMPOSE_PROJECT_NAME": project, **variables}
    substitute = os.environ.get("LOUPE_CONTAINER_ENGINE")
    if substitute is None:
        try:
            subprocess.run(["docker", "info"], check=True, capture_output=True)
        except (FileNotFoundError, subprocess.CalledProcessError) as error:
            pytest.skip(f"no container engine: {error}; LOUPE_CONTAINER_ENGINE names none")
        yield Engine(folder, environment, None)
        return
    prepared = subprocess.run([substitute, "prepare"], capture_output=True, text=True)
    assert prepared.returncode == 0, prepared.stderr
    try:
        printed = subprocess.run(
            ["bash", "-c", f'eval "$({substitute} env)"; env -0'],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
        )
        yield Engine(
            folder,
            dict(line.split("=", 1) for line in printed.stdout.split("\0") if line),
            substitute,
        )
    finally:
        subprocess.run([substitute, "stop"], check=True)
