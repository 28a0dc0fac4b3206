"""The Python client of the service: `Client` waits for its answers, `AsyncClient` awaits them. What they say is in `loupe.exchange`."""

import asyncio
import os
import ssl
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, aclosing, closing, contextmanager
from pathlib import Path
from types import TracebackType
from typing import IO, TypedDict, TypeVar

import httpx
import numpy as np

from loupe.client.jobs import (
    RecordError,
    ScoringConversation,
    uploadable,
)
from loupe.client.predictions import (
    DEFAULT_TIMEOUT_SECONDS,
    DEFAULT_URL,
    Heard,
    Options,
    Pause,
    Prediction,
    PredictionError,
    Save,
    ServedModel,
    Steps,
)
from loupe.client.runs import AsyncScoringRun, ScoringRun
from loupe.client.uploads import (
    BATCH_IMAGES,
    Batch,
    Normalize,
    Packer,
    Source,
    Upload,
    prepare,
    prepare_or_tell,
)
from loupe.errors import LoupeError
from loupe.jobs import ScoringJob, ScoringRequest, check_options
from loupe.old_errors.core import InvalidSetting
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

BATCHES_IN_FLIGHT = 4  # the service is never idle between them, and no more than these are held
INLINE_BYTES = 64 * 64  # an array this small is encoded faster than a thread is woken
THIS_MACHINE = frozenset(
    {"127.0.0.1", "localhost", "::1"}
)  # no proxy leads here, whatever the environment says


class Client:
    """A connection to the service that waits for its answers. Threads may share it.

    Args:
        url: Where the service is, as `http://HOST:PORT`.
        api_key: What the service knows its caller by, if it asks for that.

    Raises:
        InvalidAddress: If the URL is no address of HTTP.
        InvalidApiKey: If a header cannot carry the key.
        InvalidSetting: If the environment names certificates that cannot be read.
    """

    def __init__(self, url: str = DEFAULT_URL, *, api_key: str | None = None) -> None:
        self._conversation = ScoringConversation(url, api_key)
        self._http = httpx.Client(**_from_environment(url))

    def predict(
        self,
        picture: Source,
        *,
        model: str | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        normalize: Normalize = "auto",
        lang: str = "en",
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> Prediction:
        """What a model sees in a picture.

        Args:
            picture: The path or the bytes of a file of any format that docs/service.md names, an image of Pillow, or an array:
                uint8, shape `(height, width)`, `(height, width, 3)` or `(height, width, 4)`, 0 = black, 255 = white.
            model: `NAME`, `NAME:VERSION` or `NAME:LABEL`; the service's default model if none is given.
            top_k: How many classes to name, from the most probable on; all in the model's order if not given.
            threshold: Confidence, 0..1, below which there is no label.
            normalize: `auto` makes the picture look like the training data, `off` takes 28 × 28 pixels as they are.
            lang: ISO 639-1 code of the class names' language.
            timeout: Seconds within which one try must be answered.

        Raises:
            InvalidImage: If the picture cannot be read here.
            InvalidPixels: If an array is no picture.
            RequestRefused: If the service cannot answer; with its `code`, `status` and `message`.
            ServiceUnreachable: If nothing answers.
            UnexpectedAnswer: If something else than Loupe answers.
        """
        options = Options(model, top_k, threshold, normalize, lang, timeout)
        return self._hold(self._conversation.predict(prepare(picture, normalize), options))

    def predict_many(
        self,
        pictures: Iterable[Source],
        *,
        model: str | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        normalize: Normalize = "auto",
        lang: str = "en",
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        batch_size: int = BATCH_IMAGES,
    ) -> Iterator[Prediction | PredictionError]:
        """What a model sees in many pictures, in their order; a picture that cannot be read has a `PredictionError` in its place.

        Answers come while later pictures are still sent: of an iterable of any length no more than four batches are held.

        Args:
            pictures: Each as `predict` takes it. An array of uint8 `(n, 28, 28)` is `n` of them.
            model: As for `predict`, like all others but the last.
            top_k: How many classes to name.
            threshold: Confidence below which there is no label.
            normalize: `auto` or `off`.
            lang: Of the class names.
            timeout: Seconds within which one try of one batch must be answered.
            batch_size: Most pictures of one request; fewer give earlier answers.

        Raises:
            LoupeError: If a request as a whole fails, as for `predict`.
        """
        options = Options(model, top_k, threshold, normalize, lang, timeout)
        waiting: deque[Future[Outcomes]] = deque()
        with ThreadPoolExecutor(BATCHES_IN_FLIGHT, "loupe-client") as senders:
            for batch in _batches(pictures, options, batch_size):
                waiting.append(
                    senders.submit(self._hold, self._conversation.predict_batch(batch, options))
                )
                while waiting and (len(waiting) == BATCHES_IN_FLIGHT or waiting[0].done()):
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()

    def models(self, *, timeout: float = DEFAULT_TIMEOUT_SECONDS) -> list[ServedModel]:
        """What the service serves.

        Raises:
            LoupeError: As for `predict`.
        """
        return self._hold(self._conversation.models(timeout))

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
        """Have a whole set of images scored by the service's workers. Returns as soon as the job is in their queue.

        Args:
            source: A folder of pictures, an archive of such, a Parquet file or an array, as docs/scoring.md has them. It is sent, in
                pieces; a folder as an archive, which is made before.
            on_server: Whether `source` is a path on the service's side instead, which the service lets its callers name.
            model: As for `predict`; the version found now scores all of it.
            format: Of the result.
            top_k: Labels in a row, the most probable first.
            probabilities: Whether the probabilities of all classes follow.
            threshold: Confidence, 0..1, from which on a label is given.
            single: Whether the job's output folder has one file in the end, instead of parts.

        Raises:
            InvalidSource: If there is nothing here to send.
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
            job = self._hold(self._conversation.submit_named(os.fspath(source), options))
        else:
            with uploadable(source) as file:
                job = self._hold(self._conversation.submit_file(file, options))
        return ScoringRun(job, self._conversation, self._hold)

    def run(self, job_id: str) -> ScoringRun:
        """A job that was submitted before.

        Raises:
            LoupeError: As for `predict`.
        """
        return ScoringRun(
            self._hold(self._conversation.job(job_id)), self._conversation, self._hold
        )

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.close()

    def _hold(self, conversation: Steps[T]) -> T:
        heard: Heard = None
        while True:
            try:
                step = conversation.send(heard)
            except StopIteration as ended:
                return ended.value  # type: ignore[no-any-return]
            heard = None
            if isinstance(step, Pause):
                time.sleep(step.seconds)
            else:
                heard = self._send(step)

    def _send(self, step: httpx.Request | Save) -> Heard:
        try:
            return self._save(step) if isinstance(step, Save) else self._http.send(step)
        except httpx.RequestError as error:
            return error

    def _save(self, step: Save) -> httpx.Response:
        with closing(self._http.send(step.request, stream=True)) as response:
            if response.is_success:
                with _appearing(step.path) as file:
                    for piece in response.iter_bytes():
                        file.write(piece)
            else:
                response.read()
            return response


class AsyncClient:
    """A connection to the service that is awaited. What its methods take, give and raise is what those of `Client` do."""

    def __init__(self, url: str = DEFAULT_URL, *, api_key: str | None = None) -> None:
        self._conversation = ScoringConversation(url, api_key)
        self._http = httpx.AsyncClient(**_from_environment(url))

    async def predict(
        self,
        picture: Source,
        *,
        model: str | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        normalize: Normalize = "auto",
        lang: str = "en",
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
    ) -> Prediction:
        """What a model sees in a picture; see `Client.predict`."""
        options = Options(model, top_k, threshold, normalize, lang, timeout)
        upload = await asyncio.to_thread(prepare, picture, normalize)
        return await self._hold(self._conversation.predict(upload, options))

    async def predict_many(
        self,
        pictures: Iterable[Source] | AsyncIterable[Source],
        *,
        model: str | None = None,
        top_k: int | None = None,
        threshold: float | None = None,
        normalize: Normalize = "auto",
        lang: str = "en",
        timeout: float = DEFAULT_TIMEOUT_SECONDS,
        batch_size: int = BATCH_IMAGES,
    ) -> AsyncIterator[Prediction | PredictionError]:
        """What a model sees in many pictures, in their order; see `Client.predict_many`. The iterable may be asynchronous."""
        options = Options(model, top_k, threshold, normalize, lang, timeout)
        waiting: deque[asyncio.Task[Outcomes]] = deque()
        try:
            async for batch in _batches_async(pictures, options, batch_size):
                waiting.append(
                    asyncio.create_task(
                        self._hold(self._conversation.predict_batch(batch, options))
                    )
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
        """What the service serves; see `Client.models`."""
        return await self._hold(self._conversation.models(timeout))

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
        """Have a whole set of images scored by the service's workers; see `Client.score`."""
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
            job = await self._hold(self._conversation.submit_named(os.fspath(source), options))
        else:
            with ExitStack() as stack:
                file = await asyncio.to_thread(stack.enter_context, uploadable(source))
                job = await self._hold(self._conversation.submit_file(file, options))
        return AsyncScoringRun(job, self._conversation, self._hold)

    async def run(self, job_id: str) -> AsyncScoringRun:
        """A job that was submitted before; see `Client.run`."""
        return AsyncScoringRun(
            await self._hold(self._conversation.job(job_id)), self._conversation, self._hold
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _hold(self, conversation: Steps[T]) -> T:
        heard: Heard = None
        while True:
            try:
                step = conversation.send(heard)
            except StopIteration as ended:
                return ended.value  # type: ignore[no-any-return]
            heard = None
            if isinstance(step, Pause):
                await asyncio.sleep(step.seconds)
            else:
                heard = await self._send(step)

    async def _send(self, step: httpx.Request | Save) -> Heard:
        try:
            return await (self._save(step) if isinstance(step, Save) else self._http.send(step))
        except httpx.RequestError as error:
            return error

    async def _save(self, step: Save) -> httpx.Response:
        async with aclosing(await self._http.send(step.request, stream=True)) as response:
            if response.is_success:
                with _appearing(step.path) as file:
                    async for piece in response.aiter_bytes():
                        await asyncio.to_thread(file.write, piece)
            else:
                await response.aread()
            return response


@contextmanager
def _appearing(path: Path) -> Iterator[IO[bytes]]:
    """A file that takes its name when the block ends well, and is gone otherwise."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _batches(pictures: Iterable[Source], options: Options, size: int) -> Iterator[Batch]:
    packer = Packer(size)
    for picture in pictures:
        if batch := packer.add(prepare_or_tell(picture, options.normalize)):
            yield batch
    if batch := packer.rest():
        yield batch


async def _batches_async(
    pictures: Iterable[Source] | AsyncIterable[Source], options: Options, size: int
) -> AsyncIterator[Batch]:
    packer = Packer(size)
    async for picture in _each(pictures):
        if batch := packer.add(await _prepared(picture, options.normalize)):
            yield batch
    if batch := packer.rest():
        yield batch


async def _prepared(picture: Source, normalize: Normalize) -> Upload | LoupeError:
    if isinstance(picture, bytes) or (
        isinstance(picture, np.ndarray) and picture.nbytes <= INLINE_BYTES
    ):
        return prepare_or_tell(picture, normalize)
    return await asyncio.to_thread(prepare_or_tell, picture, normalize)


async def _each(pictures: Iterable[Source] | AsyncIterable[Source]) -> AsyncIterator[Source]:
    if isinstance(pictures, AsyncIterable):
        async for picture in pictures:
            yield picture
    else:
        for picture in pictures:
            yield picture


class _Environment(TypedDict):
    verify: ssl.SSLContext
    trust_env: bool


def _from_environment(url: str) -> _Environment:
    """What httpx takes from the environment: certificates to trust for https, and proxies where a URL leaves this machine."""
    address = httpx.URL(url)
    try:
        verify = httpx.create_ssl_context(trust_env=address.scheme == "https")
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ]
        raise InvalidSetting({name: (os.environ[name], str(error)) for name in names}) from error
    return {"verify": verify, "trust_env": address.host not in THIS_MACHINE}
