"""A folder of PNG files: one worker compared with Ray Data, and with one Celery task per file."""

import gc
import logging
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

from bench.bulk.workers import redis_over_tcp, working
from bench.harness import Row, at_least, compare_rates, in_turns, per_second
from bench.inputs import find_images, save_pngs
from bench.service.servers import is_installed
from loupe.models.store import ONNX_FILE, StoredModel
from loupe.runtime.cores import available_cores
from loupe.runtime.processes import running

IMAGES = 20_000
ROUNDS = 2
LOUPE, RAY, CELERY = "Loupe", "Ray Data, map_batches", "Celery, one task per image"
TARGETS = {RAY: at_least(1.5), CELERY: at_least(10)}
RAY_BATCH_SIZE = 128  # images
CELERY_IMAGES = 2_000
CELERY_TASK = "classify"
CELERY_PROCESSES = 2
CELERY_TIMEOUT_SECONDS = 60


def measure(model: StoredModel) -> Iterator[Row]:
    """Measure images per second from submission to the last result.

    Loupe's and Celery's workers are running before; Ray starts its actors for each job.
    """
    with ExitStack() as stack:
        # Ray may still write to the folder while it is removed.
        temporary = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        folder = Path(stack.enter_context(temporary))
        pngs = folder / "pngs"
        save_pngs(find_images(model, IMAGES), pngs)
        worker = stack.enter_context(working(model, folder))
        runs = {LOUPE: partial(per_second, IMAGES, partial(worker.score, pngs))}
        if is_installed(RAY, "ray"):
            score = stack.enter_context(_ray_data(model.folder / ONNX_FILE, folder))
            runs[RAY] = partial(per_second, IMAGES, partial(score, pngs))
        if is_installed(CELERY, "celery"):
            files = sorted(pngs.iterdir())[:CELERY_IMAGES]
            score_files = stack.enter_context(_celery(model.folder / ONNX_FILE, folder))
            runs[CELERY] = partial(per_second, len(files), partial(score_files, files))
        rates = in_turns(runs, ROUNDS)
    for name, target in TARGETS.items():
        if name in rates:
            yield compare_rates(f"{IMAGES:,} PNG files in a folder", rates, LOUPE, name, target)


@contextmanager
def _ray_data(model_file: Path, folder: Path) -> Iterator[Callable[[Path], None]]:
    """Run Ray; yield a function that scores a folder of pictures into Parquet files.

    Source: https://docs.ray.io/en/latest/data/batch_inference.html
    """
    # Ray reads these variables when it is imported.
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    import ray
    import ray.data

    # Ray sends a local class to its actors by value, so they need not import this module.
    class Classifier:
        def __init__(self, path: str) -> None:
            options = ort.SessionOptions()
            options.intra_op_num_threads = 1  # there is one actor per core
            providers = ["CPUExecutionProvider"]
            self._session = ort.InferenceSession(path, options, providers=providers)
            self._input = self._session.get_inputs()[0].name

        def __call__(self, batch: Mapping[str, NDArray[np.uint8]]) -> dict[str, object]:
            images = np.stack(list(batch["image"]))
            rows = self._session.run(None, {self._input: images})[0]
            return {"path": batch["path"], "index": rows.argmax(axis=1), "probabilities": rows}

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
        rows = pictures.map_batches(
            Classifier,
            fn_constructor_args=[str(model_file)],
            batch_size=RAY_BATCH_SIZE,
            num_cpus=0.5,  # the other half of the cores reads
            compute=ray.data.ActorPoolStrategy(size=cores),
        )
        rows.write_parquet(tempfile.mkdtemp(dir=folder))

    try:
        yield score
    finally:
        ray.shutdown()


@contextmanager
def _celery(model_file: Path, folder: Path) -> Iterator[Callable[[list[Path]], None]]:
    """Run a Celery worker with a Redis; yield a function that scores picture files."""
    with redis_over_tcp(folder) as url:
        script = "import sys; from bench.bulk.peers import make_celery_app; "
        script += "make_celery_app(*sys.argv[1:3]).worker_main(sys.argv[3:])"
        command = [sys.executable, "-c", script, url, str(model_file), "worker"]
        command += ["--loglevel", "WARNING", "--concurrency", str(CELERY_PROCESSES)]
        variables = {"PYTHONPATH": str(Path.cwd())}
        log = folder / "celery.log"
        with running("celery worker", command, environment=variables, log=log):
            classify = make_celery_app(url, str(model_file)).tasks[CELERY_TASK]

            def score(files: list[Path]) -> None:
                from celery import group

                tasks = group(classify.s(str(file)) for file in files)
                tasks.apply_async().get(timeout=CELERY_TIMEOUT_SECONDS)

            try:
                yield score
            finally:
                gc.collect()  # results unsubscribe from Redis before it stops


def make_celery_app(redis_url: str, model_file: str) -> Any:
    """Create a Celery app with one task, which classifies a picture file."""
    from celery import Celery

    app = Celery("bench", broker=redis_url, backend=redis_url)
    app.conf.task_acks_late = True  # tasks of a killed worker are redelivered, as with Loupe
    app.conf.worker_prefetch_multiplier = 64  # far faster than the default of 4 for short tasks

    @cache
    def load() -> ort.InferenceSession:  # once per process
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        return ort.InferenceSession(model_file, options, providers=["CPUExecutionProvider"])

    @app.task(name=CELERY_TASK)  # type: ignore[untyped-decorator]
    def classify(path: str) -> dict[str, object]:
        session = load()
        image = np.asarray(Image.open(path).convert("L"))
        row = session.run(None, {session.get_inputs()[0].name: image[None]})[0][0]
        return {"path": path, "index": int(row.argmax()), "probabilities": row.tolist()}

    return app
