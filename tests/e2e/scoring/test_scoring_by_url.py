"""Bulk scoring from a bucket into a bucket on the command line."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from loupe.models.engines.engine import Engine
from loupe.models.store import StoredModel
from loupe.runtime.redis_server import open_redis
from loupe.settings import Settings
from tests.support import pictures
from tests.support.programs import run, running, until
from tests.support.servers import buckets
from worker.queue.jobs import Jobs
from worker.remote_path import RemotePath
from worker.results.outputs import read_errors

IMAGES = pictures.digits(40, seed=4)


@pytest.fixture
def images(bucket: RemotePath) -> RemotePath:
    """Put 40 pictures and a text file into a bucket."""
    for number, image in enumerate(IMAGES):
        buckets.put(pictures.png(image), bucket / f"images/{number:02}.png")
    buckets.put(b"no image", bucket / "images/17-text.png")
    return bucket / "images"


def test_bucket_is_scored_into_a_bucket(
    tmp_path: Path,
    bucket: RemotePath,
    images: RemotePath,
    digits_model: StoredModel,
    engine: Engine,
) -> None:
    settings = {"LOUPE_DATA_DIR": tmp_path / "data", "LOUPE_SHARD_IMAGES": 12}
    with running(tmp_path / "log", "worker", **settings):
        ended = run(
            "score", images, "--out", bucket / "out", "--model", "digits", "--single", **settings
        )
        with open_redis(Settings(data_dir=tmp_path / "data")) as redis:
            (job,) = Jobs(redis).all()

    assert ended.returncode == 0, ended.stderr + (tmp_path / "log").read_text()
    assert "40 scored, errors: 1" in ended.stdout
    assert buckets.names(bucket / "out") == [
        "_SUCCESS",
        "_columns.json",
        "_errors-00001-of-00004.jsonl",
        "_least-confident.png",
        "_sample.png",
        "_summary.json",
        "predictions.parquet",
    ]
    with (bucket / "out/predictions.parquet").open("rb") as file:
        table = pq.read_table(file)
    assert table["id"].to_pylist() == [f"{number:02}.png" for number in range(40)]
    found = np.stack(
        [table[f"p_{name}"].to_numpy() for name in digits_model.card.class_names], axis=1
    )
    np.testing.assert_allclose(found, engine.predict(IMAGES), atol=1e-5)
    assert (job.source, job.output) == (str(images), f"{bucket}/out")
    assert [error["id"] for error in read_errors(bucket / "out")] == ["17-text.png"]

    converted = run(
        "score", images, "--out", bucket / "out", "--model", "digits", "--format", "csv", **settings
    )
    assert converted.returncode == 0, converted.stderr
    parts = [name for name in buckets.names(bucket / "out") if name.startswith("predictions")]
    assert parts == ["predictions-00000-of-00001.csv"]
    assert len((bucket / "out" / parts[0]).read_bytes().splitlines()) == 1 + 40


def test_bucket_is_scored_into_one_file(
    tmp_path: Path, bucket: RemotePath, images: RemotePath, digits_model: StoredModel
) -> None:
    out, settings = bucket / "rows.jsonl", {"LOUPE_DATA_DIR": tmp_path / "data"}
    for _ in range(2):
        ended = run("score", images, "--out", out, "--model", "digits", "--local", **settings)
        assert ended.returncode == 0, ended.stderr
    assert len(out.read_bytes().splitlines()) == 40
    assert "_SUCCESS" in buckets.names(bucket / "rows.jsonl.job")


def test_worker_without_credentials_leaves_the_job_to_another(
    tmp_path: Path, bucket: RemotePath, images: RemotePath, digits_model: StoredModel
) -> None:
    settings = {"LOUPE_DATA_DIR": tmp_path / "data", "LOUPE_MAX_ATTEMPTS": 100}
    sent = run(
        "score", images, "--out", bucket / "out", "--model", "digits", "--detach", **settings
    )
    assert sent.returncode == 0, sent.stderr
    log = tmp_path / "without"
    with running(log, "worker", AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="", **settings):
        until(lambda: "Unable to locate credentials" in log.read_text())
    assert "Traceback" not in log.read_text()
    with (
        open_redis(Settings(data_dir=tmp_path / "data")) as redis,
        running(tmp_path / "with", "worker", **settings),
    ):
        (job,) = Jobs(redis).all()
        until(lambda: Jobs(redis).get(job.id).state == "done")

    assert "_SUCCESS" in buckets.names(bucket / "out")


@pytest.mark.parametrize(
    ("arguments", "variables", "message"),
    [
        (["{bucket}/images", "s3://no-such-bucket/out"], {}, "invalid_output: "),
        (
            ["{bucket}/images"],
            {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""},
            "storage_refused: ",
        ),
    ],
    ids=["no bucket for the output", "no credentials"],
)
def test_unusable_url_is_reported_in_one_line(
    tmp_path: Path,
    bucket: RemotePath,
    images: RemotePath,
    digits_model: StoredModel,
    arguments: list[str],
    variables: dict[str, str],
    message: str,
) -> None:
    source, output = [
        *(argument.format(bucket=bucket) for argument in arguments),
        str(tmp_path / "out"),
    ][:2]
    ended = run(
        "score",
        source,
        "--out",
        output,
        "--model",
        "digits",
        LOUPE_DATA_DIR=tmp_path / "data",
        **variables,
    )

    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.startswith(f"error: {message}")
    assert ended.stderr.count("\n") == 1
