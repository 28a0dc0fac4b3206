"""The asynchronous client: the methods of `loupe.client.client`, to be awaited."""

import asyncio
import os
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator
from contextlib import ExitStack, aclosing, closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx
import numpy as np

from loupe.client import deadline
from loupe.client.client import BATCHES_IN_FLIGHT, DEFAULT_URL, trust
from loupe.client.flows import DEFAULT_TIMEOUT_SECONDS, Body, Download, Flow, Pause, Reply
from loupe.client.jobs import JobFlows, RecordError, ScoreOptions, check_done, uploadable
from loupe.client.predictions import Outcome, Prediction, PredictOptions, ServedModel
from loupe.client.uploads import (
    BATCH_IMAGES,
    Packer,
    PictureInput,
    PictureSet,
    Upload,
    UploadBatch,
    each_picture,
    prepare,
    prepare_or_error,
)
from loupe.errors import LoupeError
from loupe.images.spec import Normalize
from loupe.jobs import ScoringJob, ScoringRequest, check_options
from loupe.models.answers import Explain
from loupe.results import Format

if TYPE_CHECKING:
    from typing_extensions import Unpack  # Python 3.11 has its own

T = TypeVar("T")

MAX_INLINE_BYTES = 64 * 64  # encoding such an array takes less time than waking a thread


class AsyncClient:
    """An asynchronous client of the service; its methods mirror those of `Client`."""

    def __init__(self, url: str = DEFAULT_URL, *, api_key: str | None = None) -> None:
        self._flows = JobFlows(url, api_key)
        certificates, use_proxies = trust(url)
        self._http = httpx.AsyncClient(verify=certificates, trust_env=use_proxies)

    async def predict(
        self,
        picture: PictureInput,
        *,
        explain: Explain | None = None,
        **options: "Unpack[PredictOptions]",
    ) -> Prediction:
        """Predict one picture; see `Client.predict`."""
        upload = await asyncio.to_thread(prepare, picture, options.get("normalize", "auto"))
        return await self._run(self._flows.predict(upload, options, explain))

    async def split(
        self, picture: PictureInput, **options: "Unpack[PredictOptions]"
    ) -> list[Prediction]:
        """Predict each of several symbols in one picture; see `Client.split`."""
        upload = await asyncio.to_thread(prepare, picture, options.get("normalize", "auto"))
        return await self._run(self._flows.split(upload, options))

    async def predict_many(
        self,
        pictures: PictureSet | AsyncIterable[PictureInput],
        *,
        batch_size: int = BATCH_IMAGES,
        **options: "Unpack[PredictOptions]",
    ) -> AsyncIterator[Outcome]:
        """Predict many pictures, also from an asynchronous iterable; see `Client.predict_many`."""
        waiting: deque[asyncio.Task[list[Outcome]]] = deque()
        try:
            async for batch in _batches(pictures, options.get("normalize", "auto"), batch_size):
                flow = self._flows.predict_batch(batch, options)
                waiting.append(asyncio.create_task(self._run(flow)))
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
        **options: "Unpack[ScoreOptions]",
    ) -> "AsyncScoringRun":
        """Submit a set of images to the service's workers; see `Client.score`."""
        request = check_options(ScoringRequest, **options)
        if on_server:
            job = await self._run(self._flows.submit_path(os.fspath(source), request))
        else:
            with ExitStack() as stack:
                upload = await asyncio.to_thread(stack.enter_context, uploadable(source))
                job = await self._run(self._flows.submit_file(upload, request))
        return AsyncScoringRun(self, job)

    async def run(self, job_id: str) -> "AsyncScoringRun":
        """Return a job that was submitted earlier; see `Client.run`."""
        return AsyncScoringRun(self, await self._run(self._flows.job(job_id)))

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _run(self, flow: Flow[T]) -> T:
        reply: Reply = None
        with closing(flow):
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
        request = step.request if isinstance(step, Download) else step
        request.extensions["trace"] = deadline.async_trace
        try:
            async with aclosing(await self._http.send(request, stream=True)) as response:
                body = Body(response)
                if isinstance(step, Download) and response.is_success:
                    deadline.stop()
                    with step.open(response) as file:
                        async for piece in response.aiter_raw():
                            await asyncio.to_thread(file.write, piece)
                else:
                    async for piece in response.aiter_raw():
                        body.add(piece)
                return body.response()
        except httpx.RequestError as error:
            return error


class AsyncScoringRun:
    """A job; see `ScoringRun`. Follow its progress with `async for`."""

    def __init__(self, client: AsyncClient, job: ScoringJob) -> None:
        self.job = job
        self._flows = client._flows
        self._run = client._run

    async def __aiter__(self) -> AsyncIterator[ScoringJob]:
        yield self.job
        while not self.job.ended:
            self.job = await self._run(self._flows.wait_for_change(self.job))
            yield self.job

    async def wait(self) -> ScoringJob:
        """Wait for the end; see `ScoringRun.wait`."""
        async for _ in self:
            pass
        return check_done(self.job)

    async def cancel(self) -> ScoringJob:
        """Stop scoring; see `ScoringRun.cancel`."""
        self.job = await self._run(self._flows.cancel(self.job.id))
        return self.job

    async def results(self, path: str | os.PathLike[str], format: Format | None = None) -> Path:
        """Save all rows as one file; see `ScoringRun.results`."""
        return await self._run(self._flows.results(self.job.id, Path(path), format))

    async def errors(self) -> list[RecordError]:
        """List the images that could not be read; see `ScoringRun.errors`."""
        return await self._run(self._flows.errors(self.job.id))


async def _batches(
    pictures: PictureSet | AsyncIterable[PictureInput], normalize: Normalize, size: int
) -> AsyncIterator[UploadBatch]:
    packer = Packer(size)
    if isinstance(pictures, AsyncIterable):
        async for picture in pictures:
            if batch := packer.add(await _prepare(picture, normalize)):
                yield batch
    else:
        for picture in await asyncio.to_thread(each_picture, pictures):
            if batch := packer.add(await _prepare(picture, normalize)):
                yield batch
    if batch := packer.flush():
        yield batch


async def _prepare(picture: PictureInput, normalize: Normalize) -> Upload | LoupeError:
    small = isinstance(picture, np.ndarray) and picture.nbytes <= MAX_INLINE_BYTES
    if isinstance(picture, bytes) or small:
        return prepare_or_error(picture, normalize)
    return await asyncio.to_thread(prepare_or_error, picture, normalize)
