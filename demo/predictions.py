"""Ask the service about one image, a batch, and many images in parallel."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection

import httpx
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from loupe import Client, Prediction
from loupe.errors import ProgramFailed
from loupe.images.spec import UInt8Array
from loupe.terminal import console, styled
from train.data.datasets import Dataset

BATCH = 64  # images in one request
SINGLES = 200  # requests of one image
THREADS = 16
PNG = {"Content-Type": "image/png"}
Row = tuple[str, str]


def run(url: str, dataset: Dataset) -> list[Row]:
    """Send one PNG, one request of 64 images, and 200 PNGs from 16 threads; return table rows."""
    with Client(url) as client:
        one = _predict_one(client, dataset)
        batch = _predict_batch(client, dataset)
    with httpx.Client(base_url=url, timeout=30) as service:
        return [one, batch, *_predict_many(service, dataset)]


def _predict_one(client: Client, dataset: Dataset) -> Row:
    answer = client.predict(_png(dataset.test.images[0]))
    label, confidence = str(answer.label), f"{answer.confidence:.4f}"
    truth = dataset.class_names[dataset.test.labels[0]]
    found = f", confidence {confidence} (correct: {truth})"
    console.print(styled("one PNG: ", (label, "bold"), found))
    return "one PNG", f"{label}, {confidence}"


def _predict_batch(client: Client, dataset: Dataset) -> Row:
    started = time.perf_counter()
    answers = client.predict_many(dataset.test.images[:BATCH])
    indices = [answer.index for answer in answers if isinstance(answer, Prediction)]
    milliseconds = (time.perf_counter() - started) * 1000
    labels = dataset.test.labels[:BATCH]
    right = sum(index == label for index, label in zip(indices, labels, strict=True))
    console.print(f"{BATCH} images in one request: {right} correct, {milliseconds:.0f} ms")
    return f"{BATCH} images in one request", f"{right} correct, {milliseconds:.0f} ms"


def _predict_many(client: httpx.Client, dataset: Dataset) -> list[Row]:
    bodies = [_png(image) for image in dataset.test.images[:SINGLES]]
    parts = [bodies[thread::THREADS] for thread in range(THREADS)]
    images_before, batches_before = _batches(client)
    started = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as threads:
        list(threads.map(partial(_post_all, client.base_url), parts))
    rate = SINGLES / (time.perf_counter() - started)
    images, batches = _batches(client)
    mean = (images - images_before) / (batches - batches_before)
    console.print(f"{SINGLES} single PNGs from {THREADS} threads: {rate:,.0f} requests/s")
    console.print(f"the service computed them in batches of {mean:.1f} images on average")
    return [
        (f"single PNGs, {THREADS} threads", f"{rate:,.0f} requests/s"),
        ("mean batch size", f"{mean:.1f} images"),
    ]


def _post_all(url: httpx.URL, bodies: list[bytes]) -> None:
    """Send PNGs over one connection.

    The standard library's client is light and leaves most of the machine to the service.
    """
    with closing(HTTPConnection(url.host, url.port, timeout=30)) as connection:
        for body in bodies:
            connection.request("POST", "/predict", body, PNG)
            response = connection.getresponse()
            answer = response.read()
            if response.status != HTTPStatus.OK:
                raise ProgramFailed(f"The service answered {response.status}: {answer.decode()}")


def _batches(client: httpx.Client) -> tuple[float, float]:
    """Read from the service's metrics how many images and batches the engine has computed."""
    totals = {"loupe_batch_size_sum": 0.0, "loupe_batch_size_count": 0.0}
    for family in text_string_to_metric_families(client.get("/metrics").text):
        for sample in family.samples:
            if sample.name in totals:
                totals[sample.name] += sample.value
    return totals["loupe_batch_size_sum"], totals["loupe_batch_size_count"]


def _png(image: UInt8Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()
