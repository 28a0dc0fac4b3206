"""Ray and Spark: their adapters, compared with a function written by hand for the same engine."""

import io
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime as ort
import psutil
import pyarrow as pa
from numpy.typing import NDArray
from PIL import Image

from bench.harness import Row, at_least, compare_rates, in_turns, seconds
from bench.inputs import find_images
from bench.service.servers import is_installed
from loupe.drawing import encode_png
from loupe.images.spec import UInt8Array
from loupe.models.store import ONNX_FILE, StoredModel
from loupe.runtime.cores import available_cores
from worker.adapters.engines import score_ray, score_spark
from worker.adapters.scorer import Scorer

IMAGES = 20_000
ROUNDS = 3
BATCH_SIZE = 1024  # rows that an engine hands over at a time
BLOCKS = 8  # of the data set
LOUPE, BY_HAND = "Loupe", "by hand"
TARGET = at_least(0.9)

Runs = dict[str, Callable[[], object]]


class Rates(NamedTuple):
    """Images per second of a run, and per second of CPU time of all its processes."""

    wall: float
    cpu: float


@dataclass(frozen=True)
class ByHand:
    """A user's own function, which makes the columns of a scorer without its checks."""

    path: str
    classes: tuple[str, ...]

    def ray(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, object]:
        """Score a batch of `Dataset.map_batches`."""
        return self._rows(batch["id"], batch["image"])

    def spark(self, frames: Iterator[Any]) -> Iterator[Any]:
        """Score the frames of `DataFrame.mapInPandas`."""
        import pandas as pd

        for frame in frames:
            yield pd.DataFrame(self._rows(frame["id"], frame["image"]))

    @property
    def schema(self) -> str:
        """The columns, as Spark declares them."""
        probabilities = "".join(f", `p_{name}` float" for name in self.classes)
        return f"id long, label string, index short, confidence float{probabilities}"

    def _rows(self, ids: Any, images: Any) -> dict[str, object]:
        session = _session(self.path)
        rows = session.run(None, {session.get_inputs()[0].name: _pixels(images)})[0]
        index = rows.argmax(axis=1)
        return {
            "id": ids,
            "label": np.array(self.classes)[index],
            "index": index.astype(np.int16),
            "confidence": rows.max(axis=1),
            **{f"p_{name}": rows[:, column] for column, name in enumerate(self.classes)},
        }


@cache
def _session(path: str) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1  # engines start a process for each core
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def _pixels(images: Any) -> UInt8Array:
    """Return images, uint8 `(n, height, width)`, of a column of PNG files or of pixels."""
    if isinstance(images[0], bytes | bytearray):
        return np.stack([np.asarray(Image.open(io.BytesIO(file)).convert("L")) for file in images])
    pixels = np.stack(images).astype(np.uint8)
    side = int(pixels.shape[1] ** 0.5)
    return pixels.reshape(-1, side, side)


def measure(model: StoredModel) -> Iterator[Row]:
    """Measure images per second, and per second of CPU time, of each engine."""
    os.environ["PYTHONPATH"] = str(Path.cwd())  # the engines' processes import this module
    images = find_images(model, IMAGES)
    by_hand = ByHand(str(model.folder / ONNX_FILE), tuple(model.card.class_names))
    scorer = Scorer(model.tag)
    for name, package, engine in (("Ray", "ray", _ray), ("Spark", "pyspark", _spark)):
        if is_installed(name, package, "test-engines"):
            with engine(scorer, by_hand) as load:
                for kind, table in _tables(images):
                    runs = {what: partial(_rates, run) for what, run in load(table).items()}
                    yield from _compare(f"{name}, {IMAGES:,} {kind}", in_turns(runs, ROUNDS))


def _tables(images: UInt8Array) -> Iterator[tuple[str, pa.Table]]:
    ids = pa.array(range(len(images)))
    yield "PNG files", pa.table({"id": ids, "image": [encode_png(image) for image in images]})
    pixels = images.reshape(len(images), -1).astype(np.int16)  # Spark has no unsigned numbers
    ends = np.arange(0, pixels.size + 1, pixels.shape[1], dtype=np.int32)
    yield "arrays", pa.table({"id": ids, "image": pa.ListArray.from_arrays(ends, pixels.ravel())})


def _compare(what: str, rates: Mapping[str, list[Rates]]) -> Iterator[Row]:
    for name, unit in (("wall", "per second"), ("cpu", "per second of CPU time")):
        figures = {run: [getattr(rate, name) for rate in each] for run, each in rates.items()}
        yield compare_rates(f"{what}; {unit}", figures, LOUPE, BY_HAND, TARGET)


def _rates(run: Callable[[], object]) -> Rates:
    before = _cpu_seconds()
    wall = seconds(run)
    return Rates(IMAGES / wall, IMAGES / (_cpu_seconds() - before))


def _cpu_seconds() -> float:
    """Return the CPU time of this process and all below it, also of those that have ended."""
    own = psutil.Process()
    return sum(sum(process.cpu_times()[:4]) for process in (own, *own.children(recursive=True)))


@contextmanager
def _ray(scorer: Scorer, by_hand: ByHand) -> Iterator[Callable[[pa.Table], Runs]]:
    # Ray reads these variables when it is imported.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    import ray
    import ray.data

    options = {"batch_size": BATCH_SIZE}

    def load(table: pa.Table) -> Runs:
        size = -(-len(table) // BLOCKS)
        blocks = [table.slice(start, size) for start in range(0, len(table), size)]
        dataset = ray.data.from_arrow(blocks).materialize()
        return {
            BY_HAND: lambda: dataset.map_batches(by_hand.ray, num_cpus=1, **options).materialize(),
            LOUPE: lambda: score_ray(dataset, scorer, **options).materialize(),
        }

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        ray.init(
            address="local",
            num_cpus=available_cores(),
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=folder,
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        ray.data.DataContext.get_current().enable_progress_bars = False
        try:
            yield load
        finally:
            ray.shutdown()


@contextmanager
def _spark(scorer: Scorer, by_hand: ByHand) -> Iterator[Callable[[pa.Table], Runs]]:
    os.environ["PYSPARK_PYTHON"] = sys.executable
    from pyspark.sql import SparkSession

    builder = SparkSession.builder.master(f"local[{available_cores()}]")
    for name, value in {
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
        "spark.sql.execution.arrow.maxRecordsPerBatch": str(BATCH_SIZE),
        "spark.driver.memory": "2g",
    }.items():
        builder = builder.config(name, value)
    session = builder.getOrCreate()

    def load(table: pa.Table) -> Runs:
        frame = session.createDataFrame(table).repartition(BLOCKS).cache()
        frame.count()
        return {
            BY_HAND: lambda: _consume(frame.mapInPandas(by_hand.spark, by_hand.schema)),
            LOUPE: lambda: _consume(score_spark(frame, scorer)),
        }

    try:
        yield load
    finally:
        session.stop()


def _consume(frame: Any) -> None:
    """Compute all rows of a Spark data frame, and write none."""
    frame.write.format("noop").mode("overwrite").save()
