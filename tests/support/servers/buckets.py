"""An S3 server in its own process, and helpers to fill its buckets."""

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from tests.support.programs import environment, free_port, until
from worker.remote_path import RemotePath
from worker.storage import parse_path


@contextmanager
def serving(log: Path) -> Iterator[dict[str, str]]:
    """Run the server; yield the environment variables of its clients."""
    endpoint = f"http://127.0.0.1:{free_port()}"
    port = endpoint.rpartition(":")[2]
    command = [sys.executable, "-m", "moto.server", "--host", "127.0.0.1", "--port", port]
    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, env=environment()
        )

    def is_ready() -> bool:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with {server.returncode}: {log.read_text()}")
        try:
            return httpx.get(f"{endpoint}/moto-api/").is_success
        except httpx.TransportError:
            return False

    try:
        until(is_ready)
        yield {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": "/nowhere",
            "AWS_SHARED_CREDENTIALS_FILE": "/nowhere",
        }
    finally:
        server.kill()
        server.wait()


def new_bucket() -> RemotePath:
    """Create an empty bucket."""
    bucket = parse_path(f"s3://loupe-{uuid.uuid4().hex[:12]}")
    assert isinstance(bucket, RemotePath)
    bucket.fs.mkdir(bucket.path)
    return bucket


def put(data: bytes, to: RemotePath) -> None:
    """Write an object."""
    to.fs.pipe_file(to.path, data)


def put_all(folder: Path, to: RemotePath) -> None:
    """Upload the files of a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    for path in files:
        put(path.read_bytes(), to / path.relative_to(folder).as_posix())


def names(folder: RemotePath) -> list[str]:
    """Return the names of all objects below a URL."""
    return sorted(filter(None, folder.find()))


def forbid(action: str, bucket: RemotePath) -> None:
    """Forbid an action in a bucket to all users."""
    resource = [f"arn:aws:s3:::{bucket.path}", f"arn:aws:s3:::{bucket.path}/*"]
    statement = {"Effect": "Deny", "Principal": "*", "Action": action, "Resource": resource}
    bucket.fs.call_s3(
        "put_bucket_policy",
        Bucket=bucket.path,
        Policy=json.dumps({"Version": "2012-10-17", "Statement": [statement]}),
    )
