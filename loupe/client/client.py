"""The blocking client of the service, and the jobs that it submits."""

import os
import ssl
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import httpx

from loupe.client import deadline
from loupe.client.flows import DEFAULT_TIMEOUT_SECONDS, Body, Download, Flow, Pause, Reply
from loupe.client.jobs import JobFlows, RecordError, ScoreOptions, check_done, uploadable
from loupe.client.predictions import Outcome, Prediction, PredictOptions, ServedModel
from loupe.client.uploads import (
    BATCH_IMAGES,
    Packer,
    PictureInput,
    PictureSet,
    each_picture,
    prepare,
    prepare_or_error,
)
from loupe.errors import InvalidSetting
from loupe.jobs import ScoringJob, ScoringRequest, check_options
from loupe.models.answers import Explain
from loupe.results import Format

if TYPE_CHECKING:
    from typing_extensions import Unpack  # Python 3.11 has its own

T = TypeVar("T")

DEFAULT_URL = "http://127.0.0.1:3000"
BATCHES_IN_FLIGHT = 4  # keeps the service busy, and bounds the pictures in memory
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
        certificates, use_proxies = trust(url)
        self._http = httpx.Client(verify=certificates, trust_env=use_proxies)

    def predict(
        self,
        picture: PictureInput,
        *,
        explain: Explain | None = None,
        **options: "Unpack[PredictOptions]",
    ) -> Prediction:
        """Predict one picture.

        Args:
            picture: A path, the bytes of a file, a Pillow image, or an array: uint8,
                `(height, width)`, `(height, width, 3)` or `(height, width, 4)`, 0 = black,
                255 = white. docs/service.md lists the formats.
            explain: `seen` sets the prediction's `view` to what the model saw; `saliency` also
                draws what counted, which costs the service up to 144 images more; `nearest` also
                finds the training pictures that are most like it.
            options: `model`, `top_k`, `threshold`, `normalize`, `lang` and `timeout`; see
                `PredictOptions`.

        Raises:
            InvalidImage: If the file cannot be read or the image cannot be decoded.
            InvalidPixels: If an array is not a picture.
            RequestRefused: If the service answers with an error; has its `code` and `status`.
            ServiceUnreachable: If no service answers.
            UnexpectedAnswer: If the server is not Loupe.
        """
        upload = prepare(picture, options.get("normalize", "auto"))
        return self._run(self._flows.predict(upload, options, explain))

    def split(self, picture: PictureInput, **options: "Unpack[PredictOptions]") -> list[Prediction]:
        """Predict each of several symbols in one picture, line by line and left to right.

        Each prediction has its `box`; a blank picture has none.

        Args:
            picture: As for `predict`.
            options: As for `predict`; not `normalize`.

        Raises:
            LoupeError: As for `predict`. A model that does not read single symbols refuses.
        """
        upload = prepare(picture, options.get("normalize", "auto"))
        return self._run(self._flows.split(upload, options))

    def predict_many(
        self,
        pictures: PictureSet,
        *,
        batch_size: int = BATCH_IMAGES,
        **options: "Unpack[PredictOptions]",
    ) -> Iterator[Outcome]:
        """Predict many pictures; yield one outcome for each, in order.

        A picture that cannot be read yields a `PredictionError`. Outcomes arrive while later
        pictures are sent; at most four batches of the iterable are in memory.

        Args:
            pictures: Each as for `predict`, or a folder; see `pictures_at`. A uint8 array
                `(n, height, width[, 3])` is `n` pictures.
            batch_size: Pictures in one request; smaller batches give earlier answers.
            options: As for `predict`; `timeout` is for one batch.

        Raises:
            LoupeError: If a whole request fails, as for `predict`.
        """
        normalize, packer = options.get("normalize", "auto"), Packer(batch_size)
        prepared = (prepare_or_error(picture, normalize) for picture in each_picture(pictures))
        batches = packer.pack(prepared)
        waiting: deque[Future[list[Outcome]]] = deque()
        with ThreadPoolExecutor(BATCHES_IN_FLIGHT, "loupe-client") as senders:
            for batch in batches:
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
        **options: "Unpack[ScoreOptions]",
    ) -> "ScoringRun":
        """Submit a set of images to the service's workers; return when the job is queued.

        Args:
            source: A folder, an archive, a Parquet file or an array; docs/scoring-reference.md
                has the list. It is uploaded in pieces; a folder is archived first.
            on_server: Treat `source` as a path on the service's machine and upload nothing.
            options: `model`, and the options of `loupe score`; see `ScoreOptions`.

        Raises:
            InvalidSource: If there is nothing to upload.
            LoupeError: As for `predict`.
        """
        request = check_options(ScoringRequest, **options)
        if on_server:
            job = self._run(self._flows.submit_path(os.fspath(source), request))
        else:
            with uploadable(source) as upload:
                job = self._run(self._flows.submit_file(upload, request))
        return ScoringRun(self, job)

    def run(self, job_id: str) -> "ScoringRun":
        """Return a job that was submitted earlier.

        Raises:
            LoupeError: As for `predict`.
        """
        return ScoringRun(self, self._run(self._flows.job(job_id)))

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self, flow: Flow[T]) -> T:
        reply: Reply = None
        with closing(flow):
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
        request = step.request if isinstance(step, Download) else step
        request.extensions["trace"] = deadline.trace
        try:
            with closing(self._http.send(request, stream=True)) as response:
                body = Body(response)
                if isinstance(step, Download) and response.is_success:
                    deadline.stop()
                    with step.open(response) as file:
                        for piece in response.iter_raw():
                            file.write(piece)
                else:
                    for piece in response.iter_raw():
                        body.add(piece)
                return body.response()
        except httpx.RequestError as error:
            return error


class ScoringRun:
    """A job. Iterate over it to follow its progress: it yields the job after each change.

    Attributes:
        job: Its last known state.
    """

    def __init__(self, client: Client, job: ScoringJob) -> None:
        self.job = job
        self._flows = client._flows
        self._run = client._run

    def __iter__(self) -> Iterator[ScoringJob]:
        yield self.job
        while not self.job.ended:
            self.job = self._run(self._flows.wait_for_change(self.job))
            yield self.job

    def wait(self) -> ScoringJob:
        """Wait until the job is done or cancelled.

        Raises:
            JobFailed: If it failed.
            LoupeError: If the service cannot be reached, as for `Client.predict`.
        """
        for _ in self:
            pass
        return check_done(self.job)

    def cancel(self) -> ScoringJob:
        """Stop scoring; finished parts stay.

        Raises:
            RequestRefused: If it has ended, with the code `job_ended`.
            LoupeError: As for `Client.predict`.
        """
        self.job = self._run(self._flows.cancel(self.job.id))
        return self.job

    def results(self, path: str | os.PathLike[str], format: Format | None = None) -> Path:
        """Save all rows as one file, which appears when it is complete.

        If the job failed or was cancelled, these are the rows of its finished parts.

        Args:
            path: An existing file is replaced.
            format: The job's format by default.

        Raises:
            RequestRefused: If the job has no rows, or not yet, with the code `job_not_done`.
            LoupeError: As for `Client.predict`.
            OSError: If the file cannot be written.
        """
        return self._run(self._flows.results(self.job.id, Path(path), format))

    def errors(self) -> list[RecordError]:
        """List the images that could not be read so far.

        Raises:
            LoupeError: As for `Client.predict`.
        """
        return self._run(self._flows.errors(self.job.id))


def trust(url: str) -> tuple[ssl.SSLContext, bool]:
    """Return the certificates, from the environment for https, and whether to use its proxies."""
    address = httpx.URL(url)
    try:
        verify = httpx.create_ssl_context(trust_env=address.scheme == "https")
    except OSError as error:
        names = [name for name in ("SSL_CERT_FILE", "SSL_CERT_DIR") if name in os.environ]
        given = ", ".join(f"{name}={os.environ[name]!r}" for name in names)
        raise InvalidSetting(f"The certificates of {given} cannot be read: {error}.") from error
    return verify, address.host not in LOOPBACK
