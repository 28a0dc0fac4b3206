"""A scorer gives the rows and the errors of `loupe score`."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from loupe.errors import InvalidPixels, InvalidRequest, InvalidSource, ModelNotFound
from loupe.jobs import ScoringOptions
from loupe.models.store import StoredModel
from loupe.settings import Settings
from tests.support import pictures
from worker.adapters.scorer import Scorer, to_frame
from worker.process import running_locally
from worker.queue.submission import prepare
from worker.results.outputs import read_errors

IMAGES = 40
OPTIONS: dict[str, Any] = {
    "id": "path",
    "image_column": "file",
    "keep": ("shop",),
    "labels": "column:class",
    "top_k": 2,
    "threshold": 0.5,
}


@pytest.fixture
def table() -> pa.Table:
    """Return pictures of digits, one damaged, one missing, one large, and one without an id."""
    files: list[bytes | None] = [pictures.png(image) for image in pictures.digits(IMAGES)]
    files[2], files[3], files[4] = b"text", None, pictures.png(pictures.digit_sheet())
    paths: list[str | None] = [f"a/{number}.png" for number in range(IMAGES)]
    paths[5] = None
    shops = [None if number % 7 == 0 else number for number in range(IMAGES)]
    labels = [str(number % 10) for number in range(IMAGES)]
    columns = {"file": files, "path": paths, "shop": pa.array(shops, pa.int32()), "class": labels}
    return pa.table(columns)


def scored(
    settings: Settings, source: Path, output: Path, model: StoredModel, options: ScoringOptions
) -> tuple[pa.Table, list[tuple[str, str, str]]]:
    """Return the rows and the errors of `loupe score`."""
    request = prepare(lambda _: None, source, output, model.tag, 16, options).request
    with running_locally(settings, request):
        pass
    errors = [(each["id"], each["code"], each["error"]) for each in read_errors(output)]
    return pq.read_table(output), errors


def split(rows: pa.Table) -> tuple[pa.Table, list[tuple[str, str, str]]]:
    """Return the rows of a scorer without its errors, and these."""
    table = rows.to_pylist()
    errors = [
        (each["id"] or f"row {number}", each["code"], each["error"])
        for number, each in enumerate(table)
        if each["code"]
    ]
    good = pa.array([each["code"] is None for each in table])
    return rows.filter(good).drop_columns(["code", "error"]), errors


def test_rows_and_errors_are_those_of_a_job(
    settings: Settings, tmp_path: Path, digits_model: StoredModel, table: pa.Table
) -> None:
    pq.write_table(table, tmp_path / "a.parquet")
    options = ScoringOptions.model_validate(OPTIONS)
    rows, errors = scored(settings, tmp_path / "a.parquet", tmp_path / "out", digits_model, options)
    scorer = pickle.loads(pickle.dumps(Scorer(digits_model.tag, **OPTIONS)))  # noqa: S301
    found, refused = split(scorer(table))

    assert found.schema.equals(rows.schema)
    assert found.equals(rows)
    assert refused == errors
    assert [code for _, code, _ in refused] == ["invalid_image", "invalid_record", "invalid_record"]
    assert scorer.schema(table.schema).equals(scorer(table).schema)


def test_array_has_the_rows_of_a_job(
    settings: Settings, tmp_path: Path, digits_model: StoredModel
) -> None:
    images = pictures.digits(IMAGES)
    np.save(tmp_path / "a.npy", images)
    rows, _ = scored(settings, tmp_path / "a.npy", tmp_path / "out", digits_model, ScoringOptions())
    by_path = Scorer(str(digits_model.folder))

    assert by_path.tag == digits_model.tag
    found, refused = split(pa.concat_tables(by_path.rows(images)))
    assert found.equals(rows)
    assert not refused
    files = pa.concat_tables(by_path.rows(map(pictures.png, images), ids=range(IMAGES)))
    assert split(files)[0]["label"].equals(found["label"])


def test_batches_of_every_kind_have_the_same_rows(digits_model: StoredModel) -> None:
    images = pictures.digits(IMAGES)
    scorer = Scorer(digits_model.tag)
    arrays = {"id": np.arange(IMAGES), "image": images}
    rows = scorer(arrays)
    tensors = pa.FixedShapeTensorArray.from_numpy_ndarray(images)
    lists = pa.array([image.ravel() for image in images])

    assert scorer(pa.table({"id": arrays["id"], "image": tensors})).equals(rows)
    assert scorer(pa.table({"id": arrays["id"], "image": lists})).equals(rows)
    for dtype in (np.uint8, np.int16):  # Spark has no uint8
        pixels = [image.ravel() for image in images.astype(dtype)]
        found = scorer(pd.DataFrame({"id": arrays["id"], "image": pixels}))
        table = pa.Table.from_pandas(found, schema=rows.schema, preserve_index=False)
        assert table.equals(rows)
    assert to_frame(rows).dtypes["index"] == pd.ArrowDtype(pa.int16())
    assert len(scorer({"id": [], "image": []})) == 0


@pytest.mark.parametrize(
    ("batch", "error"),
    [
        ({"image": [b"a"]}, InvalidSource),
        ({"id": [1]}, InvalidSource),
        ({"id": [1], "image": np.zeros((1, 5, 5), np.uint8)}, InvalidPixels),
        ({"id": [1], "image": np.zeros((1, 28, 28), np.float32)}, InvalidPixels),
        ({"id": [1], "image": [[300] * 784]}, InvalidPixels),
        (pa.table({"id": [1], "image": [[300] * 784]}), InvalidPixels),
    ],
)
def test_batches_that_are_no_images_are_refused(
    digits_model: StoredModel, batch: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        Scorer(digits_model.tag)(batch)


@pytest.mark.parametrize(
    ("model", "options", "error"),
    [
        (None, {"single": True}, InvalidRequest),
        (None, {"top": 2}, InvalidRequest),
        (None, {"threshold": 2}, InvalidRequest),
        (None, {"keep": "label"}, InvalidRequest),
        ("nobody", {}, ModelNotFound),
        ("/no/such/folder", {}, ModelNotFound),
    ],
)
def test_impossible_scorers_are_refused(
    digits_model: StoredModel, model: str | None, options: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        Scorer(model or digits_model.tag, **options)
