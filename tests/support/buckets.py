"""A server that speaks S3, as a process of its own, and what tests put into its buckets."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.programs import environment, free_port, until
from worker.storage import RemotePath, parse_path


@contextmanager
def serving(log: Path) -> Iterator[dict[str, str]]:
    """The server while a block lasts; the environment that leads to it."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    port = endpoint.rpartition(":")[2]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", port]
    with log.open("wb") as words:
        server = subprocess.Popen(
            command, stdout=words, stderr=subprocess.STDOUT, env=environment()
        )

    def answers() -> bool:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}: {log.read_text()}")
        try:
            return httpx.get(f"{endpoint}/moto-api/").is_success
        except httpx.TransportError:
            return False

    try:
        until(answers)
        yield {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",  # nobody is asked for credentials that are not there
            "AWS_CONFIG_FILE": "/nowhere",
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        }
    finally:
        server.kill()
        server.wait()


def new_bucket() -> RemotePath:
    """An empty bucket."""
    bucket = parse_path(f"s3://loupe-{uuid.uuid4().hex[:12]}")
    assert isinstance(bucket, RemotePath)
    bucket.fs.mkdir(bucket.path)
    return bucket


def put(data: bytes, to: RemotePath) -> None:
    """Make or replace an object."""
    to.fs.pipe_file(to.path, data)


def put_all(folder: Path, to: RemotePath) -> None:
    """Put a folder's files below a URL, or a file there."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        put(path.read_bytes(), to / path.relative_to(folder).as_posix())


def names(folder: RemotePath) -> list[str]:
    """Of all objects below a URL."""
    start = len(folder.path) + 1
    return sorted(path[start:] for path in folder.find() if path[start:])


def forbid(action: str, bucket: RemotePath) -> None:
    """Let nobody do something in a bucket any more."""
    resource = [f"arn:aws:s3:::{bucket.path}", f"arn:aws:s3:::{bucket.path}/*"]
    statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": resource}
    bucket.fs.call_s3(
        "put_bucket_policy",
        Bucket=bucket.path,
        Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
