"""A peer: Ray Data reads a folder of pictures, and actors of a pool run the model on batches of them.

Source: https://docs.ray.io/en/latest/data/batch_inference.html
"""

import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from loupe.cores import available_cores
from loupe.store import ONNX_FILE, StoredModel

BATCH_SIZE = 128  # images
QUIET = MappingProxyType({"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"})


class Classifier:
    """One actor of the pool.

    Args:
        path: The model's ONNX file.
    """

    def __init__(self, path: str) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # there are as many actors as cores
        self._session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def __call__(self, batch: Mapping[str, NDArray[np.uint8]]) -> dict[str, object]:
        """Paths, best classes, and probabilities of a batch."""
        probabilities = self._session.run(None, {self._input: np.stack(list(batch["image"]))})[0]
        return {"path": batch["path"], "index": probabilities.argmax(axis=1), "probabilities": probabilities}


@contextmanager
def ray_data(model: StoredModel, folder: Path) -> Iterator[Callable[[Path], None]]:
    """Ray, running, and a function that has the pictures of a folder scored into Parquet files by it."""
    os.environ |= QUIET  # Ray reads it when it is imported
    import ray
    import ray.data

    logging.getLogger("ray.data").setLevel(logging.ERROR)
    cores = available_cores()
    ray.init(
        num_cpus=cores,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        _temp_dir=str(folder / "ray"),
    )
    ray.data.DataContext.get_current().enable_progress_bars = False

    def score(source: Path) -> None:
        pictures = ray.data.read_images(str(source), mode="L", include_paths=True)
        answers = pictures.map_batches(
            Classifier,
            fn_constructor_args=[str(model.folder / ONNX_FILE)],
            batch_size=BATCH_SIZE,
            num_cpus=0.5,  # the other half of the cores reads
            compute=ray.data.ActorPoolStrategy(size=cores),
        )
        answers.write_parquet(tempfile.mkdtemp(dir=folder))

    try:
        yield score
    finally:
        ray.shutdown()
