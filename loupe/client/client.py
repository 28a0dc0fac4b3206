"""The Python client: `Client` blocks, `AsyncClient` is awaited."""

import asyncio
import os
import ssl
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, aclosing, closing
from typing import TypeVar

import httpx
import numpy as np

from loupe.client.flows import DEFAULT_TIMEOUT_SECONDS, Download, Flow, Pause, Reply
from loupe.client.jobs import JobFlows, RecordError, uploadable
from loupe.client.predictions import Prediction, PredictionError, PredictOptions, ServedModel
from loupe.client.runs import AsyncScoringRun, ScoringRun
from loupe.client.uploads import (
    BATCH_IMAGES,
    Packer,
    PictureInput,
    Upload,
    UploadBatch,
    prepare,
    prepare_or_error,
)
from loupe.errors import InvalidSetting, LoupeError
from loupe.files import atomic_path
from loupe.images.spec import Normalize
from loupe.jobs import ScoringJob, ScoringRequest, check_options
from loupe.results import Format

__all__ = [
    "AsyncClient",
    "AsyncScoringRun",
    "Client",
    "Prediction",
    "PredictionError",
    "RecordError",
    "ScoringJob",
    "ScoringRun",
    "ServedModel",
]

T = TypeVar("T")
Outcomes = list[Prediction | PredictionError]

DEFAULT_URL = "http://127.0.0.1:3000"
BATCHES_IN_FLIGHT = 4  # keeps the service busy, and bounds the pictures in memory
MAX_INLINE_BYTES = 64 * 64  # encoding such an array takes less time than waking a thread
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})  # never reached through a proxy


class Client:
    """A blocking client of the service. Threads can share it.

    Args:
        url: `http://HOST:PORT`.
        api_key: Sent as a bearer token.

    Raises:
        InvalidUsage: If the URL is not an HTTP address, or a header cannot carry the key.
        InvalidSetting: If the environment names certificates that cannot be read.
    """

    def __init__(self, url: str = DEFAULT_URL, *, api_key: str | None = None) -> None:
        self._flows = JobFlows(url, api_key)
        certificates, use_proxies = _trust(url)
        self._http = httpx.Client(verify=certificates, trust_env=use_proxies)

    def predict(
        self,
        picture: PictureInput,
        *,
        model: str | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        normalize: Normalize = "auto",
        lang: str = "en",
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> Prediction:
        """Predict one picture.

        Args:
            picture: A path, the bytes of a file, a Pillow image, or an array: uint8,
                `(height, width)`, `(height, width, 3)` or `(height, width, 4)`, 0 = black,
                255 = white. docs/service.md lists the formats.
            model: `NAME`, `NAME:VERSION` or `NAME:LABEL`; the service's default if `None`.
            top_k: Number of classes in the answer, most probable first; `None` means all.
            threshold: Minimum confidence, 0..1, for a label.
            normalize: `auto` makes the picture look like the training data; `off` takes
                28 × 28 pixels unchanged.
            lang: ISO 639-1 code of the class names' language.
            timeout: Seconds for one attempt.

        Raises:
            InvalidImage: If the file cannot be read or the image cannot be decoded.
            InvalidPixels: If an array is not a picture.
            RequestRefused: If the service answers with an error; has its `code` and `status`.
            ServiceUnreachable: If no service answers.
            UnexpectedAnswer: If the server is not Loupe.
        """
        options = PredictOptions(model, top_k, threshold, normalize, lang, timeout)
        return self._run(self._flows.predict(prepare(picture, normalize), options))

    def predict_many(
        self,
        pictures: Iterable[PictureInput],
        *,
        model: str | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        normalize: Normalize = "auto",
        lang: str = "en",
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        batch_size: int = BATCH_IMAGES,
    ) -> Iterator[Prediction | PredictionError]:
        """Predict many pictures; yield one outcome for each, in order.

        A picture that cannot be read yields a `PredictionError`. Outcomes arrive while later
        pictures are sent; at most four batches of the iterable are in memory.

        Args:
            pictures: Each as for `predict`. A uint8 array `(n, 28, 28)` is `n` pictures.
            model: As for `predict`, like the following ones.
            top_k: See `predict`.
            threshold: See `predict`.
            normalize: See `predict`.
            lang: See `predict`.
            timeout: Seconds for one attempt to send one batch.
            batch_size: Pictures in one request; smaller batches give earlier answers.

        Raises:
            LoupeError: If a whole request fails, as for `predict`.
        """
        options = PredictOptions(model, top_k, threshold, normalize, lang, timeout)
        waiting: deque[Future[Outcomes]] = deque()
        with ThreadPoolExecutor(BATCHES_IN_FLIGHT, "loupe-client") as senders:
            for batch in _batches(pictures, normalize, batch_size):
                waiting.append(senders.submit(self._run, self._flows.predict_batch(batch, options)))
                while waiting and (len(waiting) == BATCHES_IN_FLIGHT or waiting[0].done()):
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()

    def models(self, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> list[ServedModel]:
        """List the served models.

        Raises:
            LoupeError: As for `predict`.
        """
        return self._run(self._flows.models(timeout))

    def score(
        self,
        source: str | os.PathLike[str],
        *,
        on_server: bool = False,
        model: str | None = None,
        format: Format = "parquet",
        top_k: int = 1,
        probabilities: bool = True,
        threshold: float | None = None,
        single: bool = False,
    ) -> ScoringRun:
        """Submit a set of images to the service's workers; return when the job is queued.

        Args:
            source: A folder, an archive, a Parquet file or an array; docs/scoring-reference.md
                has the list. It is uploaded in pieces; a folder is archived first.
            on_server: Treat `source` as a path on the service's machine and upload nothing.
            model: As for `predict`; the version found now scores the whole set.
            format: File format of the results.
            top_k: Labels in a row, most probable first.
            probabilities: Write the probabilities of all classes.
            threshold: Minimum confidence, 0..1, for a label.
            single: Merge the parts into one file at the end.

        Raises:
            InvalidSource: If there is nothing to upload.
            LoupeError: As for `predict`.
        """
        options = check_options(
            ScoringRequest,
            model=model,
            format=format,
            top_k=top_k,
            probabilities=probabilities,
            threshold=threshold,
            single=single,
        )
        if on_server:
            job = self._run(self._flows.submit_path(os.fspath(source), options))
        else:
            with uploadable(source) as file:
                job = self._run(self._flows.submit_file(file, options))
        return ScoringRun(job, self._flows, self._run)

    def run(self, job_id: str) -> ScoringRun:
        """Return a job that was submitted earlier.

        Raises:
            LoupeError: As for `predict`.
        """
        return ScoringRun(self._run(self._flows.job(job_id)), self._flows, self._run)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as ended:
                return ended.value  # type: ignore[no-any-return]
            reply = None
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            else:
                reply = self._send(step)

    def _send(self, step: httpx.Request | Download) -> Reply:
        try:
            return self._save(step) if isinstance(step, Download) else self._http.send(step)
        except httpx.RequestError as error:
            return error

    def _save(self, step: Download) -> httpx.Response:
        with closing(self._http.send(step.request, stream=True)) as response:
            if response.is_success:
                with atomic_path(step.path) as path, path.open("wb") as file:
                    for piece in response.iter_bytes():
                        file.write(piece)
            else:
                response.read()
            return response


class AsyncClient:
    """An asynchronous client of the service; its methods mirror those of `Client`."""

    def __init__(self, url: str = DEFAULT_URL, *, api_key: str | None = None) -> None:
        self._flows = JobFlows(url, api_key)
        certificates, use_proxies = _trust(url)
        self._http = httpx.AsyncClient(verify=certificates, trust_env=use_proxies)

    async def predict(
        self,
        picture: PictureInput,
        *,
        model: str | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        normalize: Normalize = "auto",
        lang: str = "en",
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> Prediction:
        """Predict one picture; see `Client.predict`."""
        options = PredictOptions(model, top_k, threshold, normalize, lang, timeout)
        upload = await asyncio.to_thread(prepare, picture, normalize)
        return await self._run(self._flows.predict(upload, options))

    async def predict_many(
        self,
        pictures: Iterable[PictureInput] | AsyncIterable[PictureInput],
        *,
        model: str | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        normalize: Normalize = "auto",
        lang: str = "en",
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        batch_size: int = BATCH_IMAGES,
    ) -> AsyncIterator[Prediction | PredictionError]:
        """Predict many pictures, also from an asynchronous iterable; see `Client.predict_many`."""
        options = PredictOptions(model, top_k, threshold, normalize, lang, timeout)
        waiting: deque[asyncio.Task[Outcomes]] = deque()
        try:
            async for batch in _batches_async(pictures, normalize, batch_size):
                waiting.append(
                    asyncio.create_task(self._run(self._flows.predict_batch(batch, options)))
                )
                while waiting and (len(waiting) == BATCHES_IN_FLIGHT or waiting[0].done()):
                    for outcome in await waiting.popleft():
                        yield outcome
            while waiting:
                for outcome in await waiting.popleft():
                    yield outcome
        finally:
            for task in waiting:
                task.cancel()
            await asyncio.gather(*waiting, return_exceptions=True)

    async def models(self, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> list[ServedModel]:
        """List the served models; see `Client.models`."""
        return await self._run(self._flows.models(timeout))

    async def score(
        self,
        source: str | os.PathLike[str],
        *,
        on_server: bool = False,
        model: str | None = None,
        format: Format = "parquet",
        top_k: int = 1,
        probabilities: bool = True,
        threshold: float | None = None,
        single: bool = False,
    ) -> AsyncScoringRun:
        """Submit a set of images to the service's workers; see `Client.score`."""
        options = check_options(
            ScoringRequest,
            model=model,
            format=format,
            top_k=top_k,
            probabilities=probabilities,
            threshold=threshold,
            single=single,
        )
        if on_server:
            job = await self._run(self._flows.submit_path(os.fspath(source), options))
        else:
            with ExitStack() as stack:
                file = await asyncio.to_thread(stack.enter_context, uploadable(source))
                job = await self._run(self._flows.submit_file(file, options))
        return AsyncScoringRun(job, self._flows, self._run)

    async def run(self, job_id: str) -> AsyncScoringRun:
        """Return a job that was submitted earlier; see `Client.run`."""
        return AsyncScoringRun(await self._run(self._flows.job(job_id)), self._flows, self._run)

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        reply: Reply = None
        while True:
            try:
                step = flow.send(reply)
            except StopIteration as ended:
                return ended.value  # type: ignore[no-any-return]
            reply = None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                reply = await self._send(step)

    async def _send(self, step: httpx.Request | Download) -> Reply:
        try:
            return await (self._save(step) if isinstance(step, Download) else self._http.send(step))
        except httpx.RequestError as error:
            return error

    async def _save(self, step: Download) -> httpx.Response:
        async with aclosing(await self._http.send(step.request, stream=True)) as response:
            if response.is_success:
                with atomic_path(step.path) as path, path.open("wb") as file:
                    async for piece in response.aiter_bytes():
                        await asyncio.to_thread(file.write, piece)
            else:
                await response.aread()
            return response


def _batches(
    pictures: Iterable[PictureInput], normalize: Normalize, size: int
) -> Iterator[UploadBatch]:
    packer = Packer(size)
    for picture in pictures:
        if batch := packer.add(prepare_or_error(picture, normalize)):
            yield batch
    if batch := packer.flush():
        yield batch


async def _batches_async(
    pictures: Iterable[PictureInput] | AsyncIterable[PictureInput], normalize: Normalize, size: int
) -> AsyncIterator[UploadBatch]:
    packer = Packer(size)
    async for picture in _iterate(pictures):
        if batch := packer.add(await _prepare_async(picture, normalize)):
            yield batch
    if batch := packer.flush():
        yield batch


async def _prepare_async(picture: PictureInput, normalize: Normalize) -> Upload | LoupeError:
    small = isinstance(picture, np.ndarray) and picture.nbytes <= MAX_INLINE_BYTES
    if isinstance(picture, bytes) or small:
        return prepare_or_error(picture, normalize)
    return await asyncio.to_thread(prepare_or_error, picture, normalize)


async def _iterate(
    pictures: Iterable[PictureInput] | AsyncIterable[PictureInput],
) -> AsyncIterator[PictureInput]:
    if isinstance(pictures, AsyncIterable):
        async for picture in pictures:
            yield picture
    else:
        for picture in pictures:
            yield picture


def _trust(url: str) -> tuple[ssl.SSLContext, bool]:
    """Return the certificates, from the environment for https, and whether to use its proxies."""
    address = httpx.URL(url)
    try:
        verify = httpx.create_ssl_context(trust_env=address.scheme == "https")
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ]
        given = ", ".join(f"{name}={os.environ[name]!r}" for name in names)
        raise InvalidSetting(f"The certificates of {given} cannot be read: {error}.") from error
    return verify, address.host not in LOOPBACK
