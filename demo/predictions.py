"""Ask the service about single images, a batch, and many at once."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from functools import partial
from http import HTTPStatus
from http.client import HTTPConnection

import httpx
import numpy as np
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console

from loupe.errors import ProgramFailed
from loupe.images.spec import UInt8Array
from train.data.datasets import Dataset

BATCH = 64  # images in one request
SINGLES = 200  # requests of one image
THREADS = 16
PNG = {"Content-Type": "image/png"}


def run(url: str, dataset: Dataset, console: Console) -> list[tuple[str, str]]:
    """Send one PNG, one request of 64 images, and 200 PNGs from 16 threads; returns rows for the table."""
    limits = httpx.Limits(max_connections=THREADS, max_keepalive_connections=THREADS)
    with httpx.Client(base_url=url, timeout=30, limits=limits) as client:
        one = _predict_one(client, dataset, console)
        batch = _predict_batch(client, dataset, console)
        many = _predict_many(client, dataset, console)
    return [one, batch, *many]


def _predict_one(client: httpx.Client, dataset: Dataset, console: Console) -> tuple[str, str]:
    answer = (
        client.post("/predict", content=_png(dataset.test.images[0]), headers=PNG)
        .raise_for_status()
        .json()
    )
    truth = dataset.class_names[dataset.test.labels[0]]
    console.print(
        f"one PNG: [bold]{answer['label']}[/], confidence {answer['confidence']:.4f} (it is: {truth})"
    )
    return "one PNG", f"{answer['label']}, {answer['confidence']:.4f}"


def _predict_batch(client: httpx.Client, dataset: Dataset, console: Console) -> tuple[str, str]:
    body = io.BytesIO()
    np.save(body, dataset.test.images[:BATCH])
    started = time.perf_counter()
    answers = (
        client.post("/predict_batch", content=body.getvalue())
        .raise_for_status()
        .json()["predictions"]
    )
    milliseconds = (time.perf_counter() - started) * 1000
    right = sum(
        answer["index"] == label
        for answer, label in zip(answers, dataset.test.labels, strict=False)
    )
    console.print(f"{BATCH} images in one request: {right} right, {milliseconds:.0f} ms")
    return f"{BATCH} images in one request", f"{right} right, {milliseconds:.0f} ms"


def _predict_many(
    client: httpx.Client, dataset: Dataset, console: Console
) -> list[tuple[str, str]]:
    bodies = [_png(image) for image in dataset.test.images[:SINGLES]]
    images_before, batches_before = _batches(client)
    started = time.perf_counter()
    with ThreadPoolExecutor(THREADS) as threads:
        list(
            threads.map(
                partial(_post_all, client.base_url),
                (bodies[thread::THREADS] for thread in range(THREADS)),
            )
        )
    rate = SINGLES / (time.perf_counter() - started)
    images, batches = _batches(client)
    mean = (images - images_before) / (batches - batches_before)
    console.print(
        f"{SINGLES} single PNGs from {THREADS} threads: {rate:,.0f} requests/s, in batches of {mean:.1f} on average"
    )
    return [
        (f"single PNGs, {THREADS} threads", f"{rate:,.0f} requests/s"),
        ("mean batch formed", f"{mean:.1f} images"),
    ]


def _post_all(url: httpx.URL, bodies: list[bytes]) -> None:
    """Send one PNG after the other over one connection. The standard library's client leaves most of the machine to the service."""
    with closing(HTTPConnection(url.host, url.port, timeout=30)) as connection:
        for body in bodies:
            connection.request("POST", "/predict", body, PNG)
            response = connection.getresponse()
            answer = response.read()
            if response.status != HTTPStatus.OK:
                raise ProgramFailed(f"The service answered {response.status}: {answer.decode()}")


def _batches(client: httpx.Client) -> tuple[float, float]:
    """Images that have been through the engine, and batches, as the service's metrics say."""
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
