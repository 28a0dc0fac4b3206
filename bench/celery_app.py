"""A peer: Celery, with one task for each picture file, as `python -m celery --app bench.celery_app worker` does them."""

import os
from functools import cache

import numpy as np
import onnxruntime as ort
from celery import Celery
from PIL import Image

REDIS_URL, MODEL_FILE = "BENCH_REDIS_URL", "BENCH_MODEL_FILE"  # variables that the worker reads

app = Celery("bench", broker=os.environ.get(REDIS_URL), backend=os.environ.get(REDIS_URL))
app.conf.task_acks_late = True  # a task of a worker that dies is another worker's, as with Loupe
app.conf.worker_prefetch_multiplier = 64  # far faster than the usual 4, where tasks are short


@app.task  # type: ignore[untyped-decorator]
def classify(path: str) -> dict[str, object]:
    """Path, best class, and probabilities of a picture."""
    session = _session()
    image = np.asarray(Image.open(path).convert("L"))
    probabilities = session.run(None, {session.get_inputs()[0].name: image[None]})[0][0]
    return {"path": path, "index": int(probabilities.argmax()), "probabilities": probabilities.tolist()}


@cache
def _session() -> ort.InferenceSession:
    """Loaded once in each of the worker's processes."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    return ort.InferenceSession(os.environ[MODEL_FILE], options, providers=["CPUExecutionProvider"])
