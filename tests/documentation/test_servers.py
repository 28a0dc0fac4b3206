"""The documented programs that run until they are stopped: each gets ready, and ends with 0."""

import re
import shlex
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from loupe.models.promotion import promote
from loupe.models.store import StoredModel
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from service.http.keys import Role, digest_of, new_key
from tests.documentation.conftest import using_store, worse
from tests.documentation.places import BUCKETS, KEYS, SERVERS, WORKER, commands_at
from tests.documentation.world import AT_ROOT, ROOT, answers, shell_environment, with_silent_curl
from tests.support import pictures
from tests.support.command import Loupe
from tests.support.programs import free_port, until
from tests.support.servers import buckets
from tests.support.servers.redis_servers import redis_server
from tests.support.servers.tls_server import make_certificate
from tests.support.shell_examples import Command
from tests.support.stores import copied
from worker.queue.jobs import Jobs
from worker.remote_path import RemotePath
from worker.storage import parse_path

KEY = "a-key-of-some-length"
END_SECONDS = 50  # within which a program stops
REDIS = "rediss://:PASSWORD@redis.internal:6379/0"
BENTO = "bentoml serve loupe:latest"  # test_checkout.py builds it
FEWER_SHARDS = "{000..099}", "{000..002}"  # the server of the tests is slow
Condition = Callable[[], bool]


@pytest.fixture
def variables(tmp_path: Path, digits_model: StoredModel) -> dict[str, str]:
    """Return the environment of a program with a data folder of its own."""
    port = str(free_port())
    return {
        "LOUPE_DATA_DIR": str(tmp_path / "data"),
        "LOUPE_MODEL": digits_model.tag,
        "LOUPE_PORT": port,
        "BENTOML_PORT": port,
        "BENTOML_HOST": "127.0.0.1",
    }


@contextmanager
def started(
    script: str,
    folder: Path,
    variables: Mapping[str, str],
    ready: Condition,
    checkout: Path = ROOT,
) -> Iterator[None]:
    """Run a program until it is ready, and while the block runs; then stop it.

    Args:
        script: Ends with its command.
        folder: For its log; its home.
        variables: Its environment.
        ready: Returns whether it is ready.
        checkout: Where it runs. Never run `make` in this one: it may install packages anew.
    """
    assert checkout != ROOT or "make" not in script
    *before, command = script.splitlines()
    log = folder / "program.log"
    with log.open("wb") as output:
        program = subprocess.Popen(
            ["bash", "-euc", "\n".join([*before, f"exec env {command}"])],
            cwd=checkout,
            env=shell_environment(folder, **variables),
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        until(lambda: program.poll() is not None or ready())
        assert program.poll() is None, log.read_text()
        yield
        process = psutil.Process(program.pid)
        if process.name() == "make":  # it passes on neither the signal nor its end
            (process,) = process.children()
        process.send_signal(signal.SIGTERM)
        assert program.wait(END_SECONDS) == 0, log.read_text()
        assert "Traceback" not in log.read_text()
    finally:
        program.kill()
        program.wait()


def works(settings: Settings) -> Condition:
    """Return a function that returns whether a worker waits for jobs."""

    def ready() -> bool:
        with open_redis(settings) as redis:
            return bool(Jobs(redis).workers())

    return ready


@pytest.mark.docs
@pytest.mark.parametrize(
    "command",
    [command for command in commands_at(SERVERS) if command.text != BENTO],
    ids=lambda command: f"{command.page}: {command.text}",
)
def test_program_gets_ready_and_ends(
    command: Command, variables: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "redis").mkdir()
    certificate, key = make_certificate(tmp_path)
    text = command.text.replace("CERT", str(certificate)).replace("KEY", str(key))
    text = re.sub(r"PORT=\d+", lambda _: f"PORT={free_port()}", text)
    if port := re.search(r"LOUPE_PORT=(\d+)", text):
        variables["LOUPE_PORT"] = port[1]
    url = f"http://127.0.0.1:{variables['LOUPE_PORT']}"
    with redis_server(tmp_path / "redis", requirepass="PASSWORD") as redis:
        text = text.replace(REDIS, redis.url)  # the Redis of the tests has no TLS
        if "loupe worker" in text:
            settings = Settings(
                data_dir=tmp_path / "data",
                redis_url=redis.url if redis.url in text else None,
            )
            ready = works(settings)
        elif "--ssl-certfile" in text:
            ready = answers(url.replace("http", "https"), certificate)
        else:
            ready = answers(url)
        with started(command.before + text, tmp_path, variables, ready):
            assert ready()


def test_service_takes_the_keys_of_the_pages(
    variables: dict[str, str], tmp_path: Path, digits_model: StoredModel
) -> None:
    serve, call = (command for command in commands_at(KEYS) if command.page == "security.md")
    promotions = [command for command in commands_at(KEYS) if command.page == "models.md"]
    home = tmp_path / "store"
    (home / "models").mkdir(parents=True)
    with using_store(home):
        promote(copied(worse(digits_model), home, "digits:first").tag)
        copied(digits_model, home, "digits:fhcy7uhfl6fhoax4")
    key, entry = new_key("ops", [Role.ADMIN])
    variables |= {"BENTOML_HOME": str(home), "LOUPE_MODEL": "digits"}
    url = f"http://127.0.0.1:{variables['LOUPE_PORT']}"
    curl = with_silent_curl(call.text, url)
    script = serve.text.replace("1b2c…", f"{digest_of(KEY)},{entry}")

    with started(script, tmp_path, variables, answers(url)):
        subprocess.run(["bash", "-euc", curl.replace("KEY", KEY)], check=True)
        refused = subprocess.run(["bash", "-euc", curl], capture_output=True, text=True)
        for command in promotions:
            environment = shell_environment(tmp_path, LOUPE_API_KEY=key)
            request = with_silent_curl(command.text, url)
            subprocess.run(["bash", "-euc", request], check=True, env=environment)

    assert "401" in refused.stderr


@pytest.mark.docs
def test_worker_scores_buckets(
    bucket: RemotePath, variables: dict[str, str], tmp_path: Path, loupe: Loupe
) -> None:
    worker, *scored = commands_at(BUCKETS)
    assert worker.text == WORKER
    photos, results = parse_path("s3://photos"), parse_path("s3://results")
    assert isinstance(photos, RemotePath)
    assert isinstance(results, RemotePath)
    for each in (photos, results):
        bucket.fs.mkdir(each.path)
    folder = pictures.sort_into_folders(tmp_path / "photos", {"a": 2, "b": 1})
    buckets.put_all(folder, photos / "2026")
    tar = tmp_path / "shard.tar"
    subprocess.run(["tar", "--create", "--file", tar, "--directory", folder, "."], check=True)
    for number in range(3):  # as in FEWER_SHARDS
        buckets.put(tar.read_bytes(), photos / f"shards-{number:03}.tar")
    ready = works(Settings(data_dir=tmp_path / "data"))

    with started(worker.text, tmp_path, variables, ready):
        for command in scored:
            text = AT_ROOT.sub(f"{tmp_path}/", command.text).replace(*FEWER_SHARDS)
            ended = loupe(*shlex.split(text)[1:], **variables)
            assert ended.code == 0, ended

    assert "2026/_SUCCESS" in buckets.names(results)
    assert len(list((tmp_path / "data/results").glob("_SUCCESS"))) == 1
