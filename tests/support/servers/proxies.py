"""Programs of other makers: nginx and HAProxy in front of a service, and clients."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.programs import PATIENCE_SECONDS, until

OPTIONS = {"nginx": ["-p", ".", "-e", "nginx.log", "-c"], "haproxy": ["-db", "-f"]}


def installed(name: str) -> str:
    """Return the path of a program, or skip the test."""
    path = shutil.which(name, path=f"{os.environ['PATH']}{os.pathsep}/usr/sbin")
    if path is None:
        pytest.skip(f"{name} is not installed")
    return path


def printed(*command: object) -> str:
    """Return what a program prints; it must succeed."""
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, timeout=PATIENCE_SECONDS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@contextmanager
def running_proxy(template: Path, folder: Path, values: Mapping[str, object]) -> Iterator[None]:
    """Run nginx or HAProxy while the block runs.

    Args:
        template: The configuration, named after the program and what it is for.
        folder: A folder for the configuration and what the program writes.
        values: Words of the template, and what replaces them. `PORT` is where it listens.
    """
    name, text = template.stem.partition("_")[0], template.read_text()
    for word, value in values.items():
        text = text.replace(word, str(value))
    (folder / template.name).write_text(text)
    command = [installed(name), *OPTIONS[name], template.name]
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)

    def is_listening() -> bool:
        if process.poll() is not None:
            raise RuntimeError(f"{name} has ended: {(folder / 'output').read_text()}")
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", int(str(values["PORT"])))) == 0

    try:
        until(is_listening)
        yield
    finally:
        process.kill()
        process.wait()
