"""The default network beside the classic one in ONNX Runtime: what its better answers cost wherever models are served and score."""

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import numpy as np

from bench.report import Row, at_least, median_ratio
from loupe.engine import OnnxEngine
from loupe.images import SIDE, UInt8Array
from loupe.store import StoredModel

BATCH = 128  # images
ROUNDS = 15
RUNS = 8  # of the engine, per round
TARGET = at_least(0.5)
CLASSES = 10


def measure(model: StoredModel) -> Iterator[Row]:
    """Images per second of both networks, untrained: weights take the same time whatever they are."""
    del model
    images = np.random.default_rng(0).integers(0, 256, (BATCH, SIDE, SIDE)).astype(np.uint8)
    with tempfile.TemporaryDirectory() as name:
        cnn = _engine("cnn", Path(name), both_ways=True)  # as it answers on things, the dearer way
        classic = _engine("cnn-classic", Path(name), both_ways=False)
    ours, theirs = [], []
    for _ in range(ROUNDS):
        theirs.append(_images_per_second(classic, images))
        ours.append(_images_per_second(cnn, images))
    peer = f"cnn-classic\n{median(theirs):,.0f} images/s"
    yield Row(f"cnn, batches of {BATCH}", f"{median(ours):,.0f} images/s", peer, median_ratio(ours, theirs), TARGET)


def _engine(architecture: str, folder: Path, *, both_ways: bool) -> OnnxEngine:
    """An untrained network on ONNX Runtime."""
    from train.tensorflow import import_tensorflow, quiet

    import_tensorflow()
    from train.architectures import build
    from train.config import recipe
    from train.export import calibrated
    from train.finishing import finished

    network = build((SIDE, SIDE), CLASSES, recipe(architecture))
    model = calibrated(finished(network, both_ways=both_ways), temperature=1.0)
    model(np.zeros((1, SIDE, SIDE), np.uint8))  # Keras exports only what has been called
    file = folder / f"{architecture}.onnx"
    with quiet():
        model.export(file, format="onnx", verbose=False)
    engine = OnnxEngine(file)
    engine.predict(np.zeros((BATCH, SIDE, SIDE), np.uint8))  # the first run plans the memory
    return engine


def _images_per_second(engine: OnnxEngine, images: UInt8Array) -> float:
    started = time.perf_counter()
    for _ in range(RUNS):
        engine.predict(images)
    return RUNS * len(images) / (time.perf_counter() - started)
