"""Photos of 12 megapixels: what Loupe adds to their decoding, and what they do to the small requests beside them."""

import http.client
import io
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

from PIL import Image

from bench import posts
from bench.peers import LOUPE, serving
from bench.pictures import find_images, photo
from bench.posts import Post
from bench.report import Row, at_most, median_ratio
from bench.turns import in_turns
from bench.wrk import Load, in_words, run_wrk
from loupe.images import DRAFT_SIZE
from loupe.store import StoredModel

PHOTOS = 40
TARGET = at_most(1.2)
CONNECTIONS = 4
ROUNDS = 8
ROUND_SECONDS = 2
BESIDE_TARGET = at_most(2)
PILLOW = "Pillow's decode with draft"
ALONE, BESIDE = "without photos", "beside photos"


def measure(model: StoredModel) -> Iterator[Row]:
    """Time of one photo, and p99 of small requests, in turns."""
    large, small = posts.jpeg(photo()), posts.png(find_images(model, 1)[0])
    with tempfile.TemporaryDirectory() as folder, serving([LOUPE], model, Path(folder)) as programs:
        url = programs[LOUPE].url
        connection = http.client.HTTPConnection("127.0.0.1", programs[LOUPE].port)
        runs = {PILLOW: partial(_decode, large.body), LOUPE: partial(_ask, connection, large)}
        times = in_turns(runs, PHOTOS)
        peer = f"{PILLOW}\n{median(times[PILLOW]):.1f} ms"
        what = f"JPEG of 12 megapixels, {len(large.body) / 2**20:.1f} MiB"
        yield Row(what, f"{median(times[LOUPE]):.1f} ms", peer, median_ratio(times[LOUPE], times[PILLOW]), TARGET)

        loads = in_turns({ALONE: partial(_alone, url, small), BESIDE: partial(_beside, url, small, large)}, ROUNDS)
        ratio = median_ratio([load.p99_ms for load in loads[BESIDE]], [load.p99_ms for load in loads[ALONE]])
        what = f"PNG over HTTP, {CONNECTIONS} at a time beside a stream of photos: p99"
        yield Row(what, in_words(loads[BESIDE]), f"{ALONE}\n{in_words(loads[ALONE])}", ratio, BESIDE_TARGET)


def _decode(data: bytes) -> float:
    """Milliseconds of the least that has to be done."""
    begun = perf_counter()
    image = Image.open(io.BytesIO(data))
    image.draft("L", DRAFT_SIZE)
    image.load()
    return (perf_counter() - begun) * 1e3


def _ask(connection: http.client.HTTPConnection, post: Post) -> float:
    """Milliseconds of the whole request."""
    begun = perf_counter()
    connection.request("POST", post.route, post.body, dict(post.headers))
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise RuntimeError(f"{post.route} answered {response.status}: {body.decode()}")
    return (perf_counter() - begun) * 1e3


def _alone(url: str, small: Post) -> Load:
    return run_wrk(url, small, CONNECTIONS, ROUND_SECONDS)


def _beside(url: str, small: Post, large: Post) -> Load:
    with ThreadPoolExecutor(1) as pool:
        stream = pool.submit(run_wrk, url, large, 1, ROUND_SECONDS)
        load = _alone(url, small)
        if stream.result().errors:
            raise RuntimeError("photos were refused")
        return load
