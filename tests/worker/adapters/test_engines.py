"""Scorers inside real Ray, Spark and Dask: the same rows as in this process."""

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from loupe.models.store import StoredModel
from tests.support import pictures
from worker.adapters.engines import score_dask, score_ray, score_spark
from worker.adapters.scorer import Scorer

IMAGES = 60

pytestmark = [
    pytest.mark.engines,
    pytest.mark.timeout(300),
    # Engines warn of each other's versions, and leave sockets to the end of the process.
    pytest.mark.filterwarnings("ignore"),
]


@pytest.fixture
def table() -> pa.Table:
    files: list[bytes | None] = [pictures.png(image) for image in pictures.digits(IMAGES)]
    files[2], files[3] = b"text", None
    names = [f"{number}.png" for number in range(IMAGES)]
    return pa.table({"image": files, "id": names, "shop": list(range(IMAGES))})


@pytest.fixture
def scorer(digits_model: StoredModel) -> Scorer:
    return Scorer(digits_model.tag, keep="shop", top_k=2, threshold=0.4)


def with_shop(rows: pa.Table) -> pa.Table:
    """Return rows without the order of errors, whose kept columns are null."""
    return rows.sort_by([("shop", "ascending"), ("id", "ascending")])


def test_ray_has_the_same_rows(ray: Any, table: pa.Table, scorer: Scorer) -> None:
    dataset = ray.data.from_arrow(table).repartition(3)
    parts = ray.get(score_ray(dataset, scorer, batch_size=16).to_arrow_refs())

    expected = scorer(table)
    found = pa.concat_tables(parts).cast(expected.schema)
    assert with_shop(found).equals(with_shop(expected))


def test_ray_scores_arrays(ray: Any, scorer: Scorer) -> None:
    images = pictures.digits(IMAGES)
    columns = {"image": images, "id": range(IMAGES)}
    numbered = ray.data.from_items([{"image": image, "id": n} for n, image in enumerate(images)])
    plain = Scorer(scorer.tag)
    parts = ray.get(score_ray(numbered, plain, batch_size=16).to_arrow_refs())

    assert pa.concat_tables(parts).sort_by("id").equals(plain(columns).sort_by("id"))


def test_spark_has_the_same_rows(spark: Any, table: pa.Table, scorer: Scorer) -> None:
    frame = spark.createDataFrame(table.to_pandas()).repartition(3)
    found = score_spark(frame, scorer).toArrow()

    expected = scorer(table)
    assert with_shop(found.cast(expected.schema)).equals(with_shop(expected))


def test_spark_scores_its_own_binary_files(
    spark: Any, tmp_path: Path, table: pa.Table, scorer: Scorer
) -> None:
    for name, data in zip(table["id"].to_pylist(), table["image"].to_pylist(), strict=True):
        (tmp_path / name).write_bytes(data or b"nothing")
    frame = spark.read.format("binaryFile").load(str(tmp_path))
    files = Scorer(scorer.tag, id="path", image_column="content")
    rows = {Path(row["id"]).name: row["label"] for row in score_spark(frame, files).collect()}

    expected = Scorer(scorer.tag)(table)
    assert rows == {row["id"]: row["label"] for row in expected.to_pylist()}


def test_spark_scores_arrays(spark: Any, scorer: Scorer) -> None:
    images = pictures.digits(IMAGES)
    pixels = pa.array(images.reshape(IMAGES, -1).astype("int16").tolist(), pa.list_(pa.int16()))
    frame = spark.createDataFrame(pa.table({"id": pa.array(range(IMAGES)), "image": pixels}))
    plain = Scorer(scorer.tag)

    expected = plain({"id": range(IMAGES), "image": images})
    assert score_spark(frame, plain).toArrow().cast(expected.schema).equals(expected)


def test_dask_has_the_same_rows(table: pa.Table, scorer: Scorer) -> None:
    frames = pytest.importorskip("dask.dataframe")
    config = pytest.importorskip("dask").config
    with config.set({"dataframe.convert-string": False}):  # it takes bytes for text
        frame = frames.from_pandas(table.to_pandas(), npartitions=3)
        found = score_dask(frame, scorer)
        rows = found.compute(scheduler="threads")

    expected = scorer(table)
    assert rows.dtypes.equals(found._meta.dtypes)
    rows = pa.Table.from_pandas(rows, schema=expected.schema, preserve_index=False)
    assert with_shop(rows).equals(with_shop(expected))
