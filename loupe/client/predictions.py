"""What is asked of a service and how its answers are understood, whoever sends and waits: `loupe.client` does that, in two ways.

A conversation is told as `Steps`: a generator that yields a request and is sent the response, or what came in its place; or yields a
`Pause` and goes on after it. What is said about jobs is in `loupe.scoring`.
"""

import random
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TypeAlias, TypeVar

import httpx
from pydantic import BaseModel, JsonValue, ValidationError

from loupe.client.uploads import OCTETS, Batch, Body, Normalize, Upload, as_file
from loupe.errors import LoupeError
from loupe.images.spec import Look
from loupe.old_errors.core import (
    InvalidAddress,
    InvalidApiKey,
    RequestRefused,
    ServiceUnreachable,
    UnexpectedAnswer,
)

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

DEFAULT_URL = "http://127.0.0.1:3000"
DEFAULT_TIMEOUT_SECONDS = (
    30.0  # more than any service allows, so that the service's own limit holds
)
GRACE_SECONDS = 2.0  # the service's word that the time is up comes before ours
MAX_ATTEMPTS = 8  # with pauses of six to twelve seconds in all: a service that is started anew is there by then
FIRST_PAUSE_SECONDS = 0.1  # the next ones are twice as long each
LONGEST_PAUSE_SECONDS = 30.0  # a service that asks for more than that is not waited for
RETRIED_STATUSES = (429, 503)  # too many at once; stopping, or starting
TOO_LARGE = 413
QUOTED = 200  # characters of an answer that is none of Loupe's


@dataclass(frozen=True)
class Prediction:
    """What a model sees in a picture.

    Attributes:
        model: Full tag of the model that answered.
        label: The most probable class; none if the service abstained.
        index: Its place among the model's classes; none if the service abstained.
        confidence: Probability of the most probable class, 0..1.
        probabilities: By class: all in the model's order, or the `top_k` highest from the highest on.
        abstained: Whether the confidence is below the threshold that was asked for.
    """

    model: str
    label: str | None
    index: int | None
    confidence: float
    probabilities: Mapping[str, float]
    abstained: bool = False


@dataclass(frozen=True)
class PredictionError:
    """What is wrong with one of many pictures.

    Attributes:
        code: For programs, as in docs/service.md: `invalid_image` for what cannot be read.
        message: For people: what was expected, and what came.
    """

    code: str
    message: str

    @classmethod
    def of(cls, error: LoupeError) -> "PredictionError":
        """The same error as a value."""
        return cls(error.code, error.message)


@dataclass(frozen=True)
class ServedModel:
    """A model as `GET /models` lists it.

    Attributes:
        model: Its full tag.
        aliases: The other tags that lead to it.
        since: When the service began to answer with it.
        created: When it was trained.
        dataset: What it was trained on.
        class_names: In the order of its probabilities.
        translations: The class names in other languages, by their ISO 639-1 codes.
        look: How its training images look.
        figures: What was measured on the test split.
        report: Path of its report on the service, if it has one.
        default: Whether it answers where a request names no model.
    """

    model: str
    aliases: list[str]
    since: datetime
    created: datetime
    dataset: str
    class_names: list[str]
    translations: dict[str, list[str]]
    look: Look
    figures: dict[str, JsonValue]
    report: str | None = None
    default: bool = False


@dataclass(frozen=True)
class Options:
    """How to answer; see docs/client.md. What has its default is not sent.

    Attributes:
        timeout: Seconds within which one try must be answered.
    """

    model: str | None = None
    top_k: int | None = None
    threshold: float | None = None
    normalize: Normalize = "auto"
    lang: str = "en"
    timeout: float = DEFAULT_TIMEOUT_SECONDS

    def params(self) -> dict[str, str]:
        """The query parameters that say the same."""
        ways = {"model": self.model, "top_k": self.top_k, "threshold": self.threshold}
        given = {name: str(value) for name, value in ways.items() if value is not None}
        normalize = {} if self.normalize == "auto" else {"normalize": self.normalize}
        return {**given, **normalize, **({} if self.lang == "en" else {"lang": self.lang})}


@dataclass(frozen=True)
class Pause:
    """A while in which nothing is sent."""

    seconds: float


@dataclass(frozen=True)
class Save:
    """A request whose answer, if it is a good one, is written into a file while it comes; of the answer, only the head is heard."""

    request: httpx.Request
    path: Path


Heard: TypeAlias = httpx.Response | httpx.RequestError | None
Steps: TypeAlias = Generator[httpx.Request | Save | Pause, Heard, T]


@dataclass
class Conversation:
    """Everything that is said to one service.

    Attributes:
        url: Where the service is.
        api_key: What it knows its caller by, if it asks for that.
        jitter: A random number, 0..1, so that many who wait do not come back at once.

    Raises:
        InvalidAddress: If the URL is no address of HTTP.
        InvalidApiKey: If a header cannot carry the key.
    """

    url: str
    api_key: str | None = field(default=None, repr=False)
    jitter: Callable[[], float] = random.random
    _answered: bool = field(default=False, init=False)  # whether a service has ever been there

    def __post_init__(self) -> None:
        self.url = self.url.rstrip("/")
        try:
            address = httpx.URL(self.url)
        except httpx.InvalidURL as error:
            raise InvalidAddress(self.url) from error
        if address.scheme not in ("http", "https") or not address.host:
            raise InvalidAddress(self.url)
        if self.api_key is not None:
            _check_key(self.api_key)

    def predict(self, upload: Upload, options: Options) -> Steps[Prediction]:
        """Ask for one picture.

        Raises:
            RequestRefused: If the service cannot answer.
            ServiceUnreachable: If nothing answers.
            UnexpectedAnswer: If something else than Loupe answers.
        """
        response = yield from self._ask(
            self._post("/predict", Body(as_file(upload), OCTETS), options)
        )
        answer = self._read(_One, response)
        return answer.outcome(answer.model)

    def predict_batch(
        self, batch: Batch, options: Options
    ) -> Steps[list[Prediction | PredictionError]]:
        """Ask for many pictures at once, or in several requests where the service takes less in one.

        Raises:
            LoupeError: As for one picture; what is wrong with one of them stands in its place.
        """
        if not batch.uploads:
            return self._in_order(batch, iter(()))
        try:
            response = yield from self._ask(self._post("/predict_batch", batch.body(), options))
        except RequestRefused as refused:
            if refused.status != TOO_LARGE:
                raise
            if len(batch.items) == 1:
                return [PredictionError.of(refused)]
            first, second = batch.halves()
            answers = yield from self.predict_batch(first, options)
            return answers + (yield from self.predict_batch(second, options))
        answer = self._read(_Many, response)
        if len(answer.predictions) != len(batch.uploads):
            raise UnexpectedAnswer(
                self.url, f"{len(answer.predictions)} answers to {len(batch.uploads)} pictures"
            )
        return self._in_order(batch, (each.outcome(answer.model) for each in answer.predictions))

    def models(self, timeout: float) -> Steps[list[ServedModel]]:
        """Ask for what is served.

        Raises:
            LoupeError: As for one picture.
        """
        listed = self._read(
            _Models, (yield from self._ask(self._request("GET", "/models", timeout)))
        )
        return [replace(served, default=served.model == listed.default) for served in listed.models]

    @staticmethod
    def _in_order(
        batch: Batch, outcomes: "Iterator[Prediction | PredictionError]"
    ) -> "list[Prediction | PredictionError]":
        return [
            PredictionError.of(item) if isinstance(item, LoupeError) else next(outcomes)
            for item in batch.items
        ]

    def _post(self, path: str, body: Body, options: Options) -> httpx.Request:
        request = self._request("POST", path, options.timeout, options.params(), body.content)
        request.headers["Content-Type"] = body.media_type
        request.headers["X-Request-Timeout"] = str(options.timeout)
        return request

    def _request(
        self,
        method: str,
        path: str,
        timeout: float,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
    ) -> httpx.Request:
        headers = {"Authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        seconds = httpx.Timeout(timeout + GRACE_SECONDS).as_dict()
        return httpx.Request(
            method,
            self.url + path,
            params=params,
            headers=headers,
            content=content,
            extensions={"timeout": seconds},
        )

    def _ask(
        self, request: httpx.Request, *, once: bool = False, into: Path | None = None
    ) -> Steps[httpx.Response]:
        """Send a request, again where that may help.

        Args:
            request: What is asked.
            once: Whether it must not be done twice: then it is asked again only where it was certainly not done.
            into: The file for its answer, if that is not to be held.
        """
        attempt = 0
        while True:
            attempt += 1
            heard = yield request if into is None else Save(request, into)
            if isinstance(heard, httpx.Response):
                self._answered = True
                if heard.is_success:
                    return heard
            may_be_done = (
                once
                and isinstance(heard, httpx.RequestError)
                and not isinstance(heard, httpx.ConnectError)
            )
            seconds = (
                None
                if attempt == MAX_ATTEMPTS or may_be_done
                else self._pause_seconds(heard, attempt)
            )
            if seconds is None:
                raise self._error(heard)
            yield Pause(seconds)

    def _pause_seconds(self, heard: Heard, attempt: int) -> float | None:
        """How long to wait before another try; none where it would not help."""
        back_off = FIRST_PAUSE_SECONDS * 2 ** (attempt - 1) * (1 + self.jitter()) / 2
        if isinstance(heard, httpx.Response):
            asked = _retry_after(heard)
            retried = heard.status_code in RETRIED_STATUSES and asked <= LONGEST_PAUSE_SECONDS
            return asked + back_off if retried else None
        if isinstance(heard, httpx.ConnectError) and not self._answered:
            return None  # nobody has ever been there: told at once
        return (
            back_off if isinstance(heard, (httpx.NetworkError, httpx.RemoteProtocolError)) else None
        )

    def _error(self, heard: Heard) -> LoupeError:
        if not isinstance(heard, httpx.Response):
            return ServiceUnreachable(self.url, _problem(heard))
        try:
            refusal = _Refusal.model_validate_json(heard.content)
        except ValidationError:
            return RequestRefused(heard.status_code, f"http_{heard.status_code}", _quoted(heard))
        return RequestRefused(heard.status_code, refusal.code, refusal.error)

    def _read(self, form: type[M], response: httpx.Response) -> M:
        try:
            return form.model_validate_json(response.content)
        except ValidationError as error:
            raise UnexpectedAnswer(self.url, _quoted(response)) from error


class _Refusal(BaseModel):
    error: str
    code: str = "request_refused"

    def outcome(self, model: str) -> PredictionError:
        """As its caller gets it; the model has not seen the picture."""
        return PredictionError(self.code, self.error)


class _Answer(BaseModel):
    label: str | None
    index: int | None
    confidence: float
    probabilities: dict[str, float]
    abstained: bool = False

    def outcome(self, model: str) -> Prediction:
        """As its caller gets it."""
        return Prediction(
            model, self.label, self.index, self.confidence, self.probabilities, self.abstained
        )


class _One(_Answer):
    model: str


class _Many(BaseModel):
    model: str
    predictions: list[_Answer | _Refusal]


class _Models(BaseModel):
    default: str
    models: list[ServedModel]


def _check_key(key: str) -> None:
    if not key:
        raise InvalidApiKey("an empty one")
    if not (key.isascii() and key.isprintable() and " " not in key):
        raise InvalidApiKey(f"{len(key)} characters with others among them")


def _retry_after(response: httpx.Response) -> float:
    """Seconds that the service asks to be left alone; 0 where it names none, or a date."""
    given = response.headers.get("retry-after", "")
    return float(given) if given.isdecimal() else 0.0


def _problem(heard: httpx.RequestError | None) -> str:
    if isinstance(heard, httpx.TimeoutException):
        return f"no answer within {heard.request.extensions['timeout']['read']:g} s"
    return str(heard).strip(".") or type(heard).__name__


def _quoted(response: httpx.Response) -> str:
    text = response.text
    return (
        f"HTTP {response.status_code} with {text if len(text) <= QUOTED else text[:QUOTED] + '…'!r}"
    )
