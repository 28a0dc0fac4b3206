"""A scorer in one core compared with a plain loop, and OpenVINO with ONNX Runtime."""

import time
from collections.abc import Callable, Iterator
from functools import partial

import onnxruntime as ort

from bench.harness import Row, at_least, compare_rates, in_turns
from bench.inputs import find_images
from loupe.errors import ProgramFailed
from loupe.images.spec import UInt8Array
from loupe.models.engines.engine import Engine
from loupe.models.engines.loading import load_engine
from loupe.models.store import ONNX_FILE, StoredModel
from worker.adapters.scorer import Scorer

IMAGES = 20_000
ROUNDS = 5
BATCH_SIZES = (32, 128, 512, 2048)  # of the plain loop; it takes the fastest
LOUPE, LOOP = "Loupe", "plain loop, one thread"
ONNX, OPENVINO = "ONNX Runtime", "OpenVINO"
RUN_IMAGES = 512


def measure(model: StoredModel) -> Iterator[Row]:
    """Measure images per second of CPU time."""
    images = find_images(model, IMAGES)
    scorer = Scorer(model.tag)

    def score() -> None:
        for _ in scorer.rows(images):
            pass

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    path = model.folder / ONNX_FILE
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    sample = images[: max(BATCH_SIZES)]
    rates = {size: _per_second(partial(_loop, session, sample, size)) for size in BATCH_SIZES}
    loop = partial(_loop, session, images, max(rates, key=rates.__getitem__))
    runs = {LOOP: partial(_per_second, loop), LOUPE: partial(_per_second, score)}
    what = f"{IMAGES:,} images of an array, rows of a scorer; per second of CPU time"
    yield compare_rates(what, in_turns(runs, ROUNDS), LOUPE, LOOP, at_least(0.95))
    try:
        quick = load_engine(model, "openvino", threads=1)
    except ProgramFailed as error:
        print(error)
        return
    engines: dict[str, Engine] = {ONNX: load_engine(model, threads=1), OPENVINO: quick}
    runs = {
        name: partial(_per_second, partial(_run, engine, images))
        for name, engine in engines.items()
    }
    what = f"{IMAGES:,} images in runs of {RUN_IMAGES}, one core; per second of CPU time"
    yield compare_rates(what, in_turns(runs, ROUNDS), OPENVINO, ONNX, at_least(1.3))


def _run(engine: Engine, images: UInt8Array) -> None:
    for start in range(0, len(images), RUN_IMAGES):
        engine.run(images[start : start + RUN_IMAGES])


def _loop(session: ort.InferenceSession, images: UInt8Array, size: int) -> None:
    """Run all outputs of the model, as a scorer does."""
    name = session.get_inputs()[0].name
    for start in range(0, len(images), size):
        session.run(None, {name: images[start : start + size]})


def _per_second(run: Callable[[], object]) -> float:
    started = time.process_time()
    run()
    return IMAGES / (time.process_time() - started)
