"""Many images in one request: Loupe's formats beside a plain loop that has the images in memory already."""

import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import onnxruntime as ort

from bench import posts
from bench.peers import LOUPE, serving
from bench.pictures import find_images
from bench.posts import Post
from bench.report import Row, Target, at_least, median_ratio
from bench.turns import in_turns
from bench.wrk import Load, in_words, run_wrk
from loupe.images import UInt8Array
from loupe.store import ONNX_FILE, StoredModel

IMAGES = 256  # in one request
CONNECTIONS = 4
ROUNDS = 5
ROUND_SECONDS = 3
LOOP = "plain loop"
NPY, NPY_TO_JSON = ".npy to .npy", ".npy to JSON"
BINARY_TENSORS, JSON_TENSORS = "Open Inference Protocol, binary tensors", "Open Inference Protocol, JSON tensors"
TARGETS: dict[str, Target | None] = {
    NPY: at_least(0.85),
    NPY_TO_JSON: None,
    BINARY_TENSORS: at_least(0.8),
    JSON_TENSORS: None,
}


def measure(model: StoredModel) -> Iterator[Row]:
    """Images per second, in turns with the loop."""
    images = find_images(model, IMAGES)
    wanted = {
        NPY: posts.npy(images, accept=posts.NPY),
        NPY_TO_JSON: posts.npy(images, accept=posts.JSON),
        BINARY_TENSORS: posts.binary_tensor(images, model.tag),
        JSON_TENSORS: posts.json_tensor(images, model.tag),
    }
    with tempfile.TemporaryDirectory() as folder, serving([LOUPE], model, Path(folder)) as programs:
        url = programs[LOUPE].url
        formats = {name: post for name, post in wanted.items() if is_taken(name, url, post)}
        runs: dict[str, Callable[[], Load]] = {LOOP: partial(_loop, _session(model), images)}
        runs |= {name: partial(run_wrk, url, post, CONNECTIONS, ROUND_SECONDS) for name, post in formats.items()}
        loads = in_turns(runs, ROUNDS)
    theirs = [load.requests_per_second * IMAGES for load in loads[LOOP]]
    for name in formats:
        ours = [load.requests_per_second * IMAGES for load in loads[name]]
        what = f"{IMAGES} images per request, {CONNECTIONS} at a time: {name}"
        peer = f"{LOOP}\n{median(theirs):,.0f} images/s"
        yield Row(what, in_words(loads[name], IMAGES), peer, median_ratio(ours, theirs), TARGETS[name])


def is_taken(name: str, url: str, post: Post) -> bool:
    """Whether the service has such a route; any other refusal is an error."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url + post.route, post.body, dict(post.headers))):  # noqa: S310 - our own http address
            return True
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise RuntimeError(f"{post.route} answered {error.code}: {error.read().decode()}") from error
        print(f"{name}: skipped, this service has no {post.route}")
        return False


def _session(model: StoredModel) -> ort.InferenceSession:
    return ort.InferenceSession(model.folder / ONNX_FILE, providers=["CPUExecutionProvider"])


def _loop(session: ort.InferenceSession, images: UInt8Array) -> Load:
    """What a short script would do, for as long as a turn."""
    name = session.get_inputs()[0].name
    begun = time.perf_counter()
    runs = 0
    while (seconds := time.perf_counter() - begun) < ROUND_SECONDS:
        session.run(None, {name: images})
        runs += 1
    return Load(requests_per_second=runs / seconds, p50_ms=0, p99_ms=0, errors=0)
