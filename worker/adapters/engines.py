"""A scorer inside Ray Data, Spark and Dask: one function for each."""

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from worker.adapters.scorer import Scorer, to_frame


def score_ray(dataset: Any, scorer: Scorer, **options: Any) -> Any:
    """Return the rows of a Ray data set, from `Dataset.map_batches`.

    Args:
        dataset: With the scorer's columns, as `ray.data.read_binary_files` makes them.
        scorer: Scores its batches, in processes of one core.
        options: Others of `map_batches`, such as `batch_size`.
    """
    defaults = {"batch_format": "pyarrow", "num_cpus": 1, "zero_copy_batch": True}
    return dataset.map_batches(scorer, **(defaults | options))


def score_spark(frame: Any, scorer: Scorer) -> Any:
    """Return the rows of a Spark data frame, from `DataFrame.mapInArrow`."""
    from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

    # Spark looks at its signature.
    def score(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            yield from scorer(batch).to_batches()

    schema = from_arrow_schema(scorer.schema(to_arrow_schema(frame.schema, timezone="UTC")))
    return frame.mapInArrow(score, schema)


def score_dask(frame: Any, scorer: Scorer) -> Any:
    """Return the rows of a Dask data frame, from `DataFrame.map_partitions`."""
    known = frame._meta
    texts = {name: "string[pyarrow]" for name in known.columns if known[name].dtype == object}
    columns = pa.Schema.from_pandas(known.astype(texts), preserve_index=False)
    meta = to_frame(scorer.schema(columns).empty_table())

    def score(part: Any) -> Any:
        return scorer(part).astype(meta.dtypes)  # a column of a part may be all null

    return frame.map_partitions(score, meta=meta)
