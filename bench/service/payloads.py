"""Heavy requests: batches of 256 images, and photos of 12 megapixels next to small requests."""

import http.client
import io
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from statistics import median

import onnxruntime as ort
from PIL import Image

from bench import inputs
from bench.harness import (
    Row,
    Target,
    at_least,
    at_most,
    compare_rates,
    in_turns,
    median_ratio,
    seconds,
)
from bench.inputs import Post, find_images, make_photo
from bench.service.load import Load, describe, run_wrk
from bench.service.servers import LOUPE, serving
from loupe.images.decode import DRAFT
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.models.store import ONNX_FILE, StoredModel

CONNECTIONS = 4
IMAGES = 256  # per batch request
BATCH_ROUNDS = 5
BATCH_SECONDS = 3
LOOP = "plain loop"
NPY, NPY_TO_JSON = ".npy to .npy", ".npy to JSON"
BINARY_TENSORS = "Open Inference Protocol, binary tensors"
JSON_TENSORS = "Open Inference Protocol, JSON tensors"
BATCH_TARGETS: dict[str, Target | None] = {
    NPY: at_least(0.86),
    NPY_TO_JSON: None,
    BINARY_TENSORS: at_least(0.8),
    JSON_TENSORS: None,
}

PHOTOS = 40
PHOTO_TARGET = at_most(1.4)
PHOTO_ROUNDS = 8
PHOTO_SECONDS = 2
SMALL_TARGET = at_most(3)
PILLOW = "Pillow's decode with draft"
ALONE, WITH_PHOTOS = "without photos", "with photos"


def measure_batches(model: StoredModel) -> Iterator[Row]:
    """Compare batch requests with a plain loop that already has the images in memory."""
    images = find_images(model, IMAGES)
    posts = {
        NPY: inputs.npy_post(images, accept=inputs.NPY),
        NPY_TO_JSON: inputs.npy_post(images, accept=inputs.JSON),
        BINARY_TENSORS: inputs.binary_tensor_post(images, model),
        JSON_TENSORS: inputs.json_tensor_post(images, model),
    }
    with serving([LOUPE], model) as servers:
        url = servers[LOUPE].url
        for post in posts.values():
            check_accepted(url, post)
        runs: dict[str, Callable[[], float]] = {LOOP: partial(_loop, _session(model), images)}
        runs |= {name: partial(_images_per_second, url, post) for name, post in posts.items()}
        rates = in_turns(runs, BATCH_ROUNDS)
    for name, target in BATCH_TARGETS.items():
        what = f"{IMAGES} images per request, {CONNECTIONS} connections: {name}"
        yield compare_rates(what, rates, name, LOOP, target)


def check_accepted(url: str, post: Post) -> None:
    """Raise `RuntimeError` unless the server answers the request with 200."""
    headers = dict(post.headers)
    request = urllib.request.Request(url + post.route, post.body, headers)  # noqa: S310
    try:
        with urllib.request.urlopen(request):  # noqa: S310 - local http URL
            pass
    except urllib.error.HTTPError as error:
        message = f"{post.route} answered {error.code}: {error.read().decode()}"
        raise RuntimeError(message) from error


def _images_per_second(url: str, post: Post) -> float:
    return run_wrk(url, post, CONNECTIONS, BATCH_SECONDS).requests_per_second * IMAGES


def _session(model: StoredModel) -> ort.InferenceSession:
    return ort.InferenceSession(model.folder / ONNX_FILE, providers=["CPUExecutionProvider"])


def _loop(session: ort.InferenceSession, images: UInt8Array) -> float:
    """Return images per second of repeated runs of the model."""
    name = session.get_inputs()[0].name
    started, runs = time.perf_counter(), 0
    while (duration := time.perf_counter() - started) < BATCH_SECONDS:
        session.run(None, {name: images})
        runs += 1
    return runs * len(images) / duration


def measure_photos(model: StoredModel) -> Iterator[Row]:
    """Compare a photo with its bare decoding, and small requests with and without photos."""
    large = inputs.photo_post(make_photo())
    small = inputs.png_post(find_images(model, 1)[0])
    with serving([LOUPE], model) as servers:
        url, port = servers[LOUPE].url, servers[LOUPE].port
        connection = http.client.HTTPConnection("127.0.0.1", port)
        runs = {
            PILLOW: partial(seconds, partial(_decode, large.body, model.card.input)),
            LOUPE: partial(seconds, partial(_request, connection, large)),
        }
        times = in_turns(runs, PHOTOS)
        figures = {name: f"{median(each) * 1e3:.1f} ms" for name, each in times.items()}
        ratio = median_ratio(times[LOUPE], times[PILLOW])
        what = f"JPEG of 12 megapixels, {len(large.body) / 2**20:.1f} MiB"
        yield Row(what, figures[LOUPE], f"{PILLOW}\n{figures[PILLOW]}", ratio, PHOTO_TARGET)

        load_runs = {
            ALONE: partial(run_wrk, url, small, CONNECTIONS, PHOTO_SECONDS),
            WITH_PHOTOS: partial(_run_with_photos, url, small, large),
        }
        loads = in_turns(load_runs, PHOTO_ROUNDS)
    p99s = {name: [load.p99_ms for load in each] for name, each in loads.items()}
    ratio = median_ratio(p99s[WITH_PHOTOS], p99s[ALONE])
    what = f"PNG over HTTP, {CONNECTIONS} connections, during a stream of photos: p99"
    peer = f"{ALONE}\n{describe(loads[ALONE])}"
    yield Row(what, describe(loads[WITH_PHOTOS]), peer, ratio, SMALL_TARGET)


def _decode(data: bytes, spec: ImageSpec) -> None:
    """Decode a JPEG file at the smallest scale that the service uses."""
    image = Image.open(io.BytesIO(data))
    size = (DRAFT * spec.width, DRAFT * spec.height)
    image.draft("L" if spec.channels == 1 else "RGB", size)
    image.load()


def _request(connection: http.client.HTTPConnection, post: Post) -> None:
    connection.request("POST", post.route, post.body, dict(post.headers))
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{post.route} answered {response.status}: {body.decode()}")


def _run_with_photos(url: str, small: Post, large: Post) -> Load:
    with ThreadPoolExecutor(1) as pool:
        photos = pool.submit(run_wrk, url, large, 1, PHOTO_SECONDS)
        load = run_wrk(url, small, CONNECTIONS, PHOTO_SECONDS)
        if photos.result().errors:
            raise RuntimeError("The service refused photos.")
        return load
