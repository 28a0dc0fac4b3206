"""Predictions: the requests for one or many pictures, and what the service answers."""

import heapq
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Annotated, ClassVar, TypeAlias, TypedDict

import httpx
import numpy as np
from pydantic import Base64Bytes, BaseModel, Field, JsonValue

from loupe.client.flows import DEFAULT_TIMEOUT_SECONDS, Flow, ServiceFlows
from loupe.client.uploads import OCTETS, Upload, UploadBatch, as_file
from loupe.errors import InvalidImage, InvalidPixels, LoupeError, RequestRefused
from loupe.images.decode import open_picture
from loupe.images.looks.ink import Box
from loupe.images.pixels.opening import DECODING_ERRORS
from loupe.images.spec import ImageSpec, Normalize, UInt8Array
from loupe.images.steps import Step
from loupe.models.answers import Explain, Neighbour
from loupe.text import one_line

CONTENT_TOO_LARGE = 413
MAX_SEEN_PIXELS = 2**18  # of an image in an answer; Loupe's own have 256 × 256 at most
SHOWN_CLASSES = 5  # on a terminal and in notebooks, the most probable first


@dataclass(frozen=True)
class View:
    """A picture and what the model saw of it.

    Attributes:
        picture: Its path or file; `None` if it was too large to be kept.
        seen: What the model saw, uint8 of its own shape.
        steps: How that was made from the picture.
        saliency: What counted, uint8 RGB: orange speaks for the class, blue against it. Only with
            `explain="saliency"`.
        nearest: Training pictures that are most like it, the nearest first. Only with
            `explain="nearest"`, and if the model has any.
    """

    picture: str | os.PathLike[str] | Upload | None
    seen: UInt8Array
    steps: tuple[Step, ...] = ()
    saliency: UInt8Array | None = None
    nearest: list[Neighbour] | None = None


@dataclass(frozen=True)
class Prediction:
    """The model's answer to one picture. Notebooks show it as bars.

    Attributes:
        view: The picture and what the model saw, with `explain`, and always from a local model.
        model: Full tag of the model that answered.
        label: The most probable class; `None` if the service abstained or gives a reason.
        index: Its index in the model's classes; `None` if there is no label.
        confidence: Probability of the most probable class, 0..1.
        probabilities: By class: all in the model's order, or the `top_k` highest, highest first.
        abstained: Whether the confidence or the familiarity is below the requested one.
        reason: Why there is no label: `blank` if there is no ink in the picture.
        box: Of one of several symbols: left, top, right and bottom, as fractions of the picture's
            width and height.
        familiarity: How much the picture resembles what the model learnt: the share, 0..1, of
            validation images that are less familiar. `None` if the model does not know.
        unfamiliar: Whether the familiarity is below the model's level.
        prediction_set: With `alpha`, the classes of which one is true, with probability
            `1 - alpha` on pictures like those of the validation; most probable first.
    """

    model: str
    label: str | None
    index: int | None
    confidence: float
    probabilities: Mapping[str, float]
    abstained: bool = False
    reason: str | None = None
    box: Box | None = None
    familiarity: float | None = None
    unfamiliar: bool = False
    prediction_set: list[str] | None = None
    view: ClassVar[View | None] = None

    def __str__(self) -> str:
        best = ", ".join(f"{name} {value:.4f}" for name, value in self.best(SHOWN_CLASSES))
        if self.reason is not None:
            best = self.reason
        doubt = "unfamiliar: " if self.unfamiliar else "unsure: " if self.abstained else ""
        return one_line(f"{doubt}{best} ({self.model})")

    def best(self, count: int) -> list[tuple[str, float]]:
        """Return the most probable classes with their probabilities, highest first."""
        return heapq.nlargest(count, self.probabilities.items(), key=lambda item: item[1])

    def with_view(self, view: View) -> "Prediction":
        """Return this prediction; notebooks show the picture, too."""
        object.__setattr__(self, "view", view)
        return self

    def _repr_html_(self) -> str:
        from loupe.client.html import render

        return render(self)


@dataclass(frozen=True)
class PredictionError:
    """The error of one picture among many.

    Attributes:
        code: Stable name of the condition, such as `invalid_image`.
        message: Text for people.
    """

    code: str
    message: Annotated[str, Field(validation_alias="error")]

    def __str__(self) -> str:
        return one_line(f"{self.code}: {self.message}")


Outcome: TypeAlias = Prediction | PredictionError


@dataclass(frozen=True)
class ServedModel:
    """A model as `GET /models` lists it.

    Attributes:
        model: Full tag.
        aliases: Other tags of the same model.
        since: When the service started to answer with it.
        created: When it was trained.
        dataset: Name of its training data.
        class_names: In the order of its probabilities.
        translations: Class names by ISO 639-1 language code.
        input: The images that it takes: height, width, channels, look and fit.
        figures: Measurements on the test split; `None` if it was not measured.
        report: Path of its report on the service, if it has one.
        default: Whether it answers requests that name no model.
    """

    model: str
    aliases: list[str]
    since: datetime
    created: datetime
    dataset: str
    class_names: list[str]
    translations: dict[str, list[str]]
    input: ImageSpec
    figures: dict[str, JsonValue] | None
    report: str | None = None
    default: bool = False


class LocalOptions(TypedDict, total=False):
    """Options of a prediction, as `loupe.models.answers.AnswerOptions` checks them."""

    top_k: int | None
    """Number of classes in the answer, most probable first; `None` means all."""
    threshold: float | None
    """Minimum confidence, 0..1, for a label."""
    min_familiarity: float | None
    """Minimum familiarity, 0..1, for a label."""
    alpha: float | None
    """Probability, between 0 and 1, that the true class is not in the prediction set."""
    normalize: Normalize
    """`auto` makes it look like the training data; `off` takes a picture of the size unchanged."""
    lang: str
    """ISO 639-1 code of the class names' language; `en` by default."""


class PredictOptions(LocalOptions, total=False):
    """Options of a prediction by a service."""

    model: str | None
    """`NAME`, `NAME:VERSION` or `NAME:LABEL`; the service's default if `None`."""
    timeout: float
    """Seconds for one attempt; 30 by default."""


class PredictionFlows(ServiceFlows):
    """Flows that predict. All of them raise the errors of `Client.predict`."""

    def predict(
        self, upload: Upload, options: PredictOptions, explain: Explain | None = None
    ) -> Flow[Prediction]:
        """Predict one picture."""
        request = self._post("/predict", options, content=as_file(upload))
        request.headers["Content-Type"] = OCTETS
        if explain is None:
            return self._read(Prediction, (yield from self._ask(request)))
        request.url = request.url.copy_add_param("explain", explain)
        response = yield from self._ask(request)
        return self._read(Prediction, response).with_view(self._view(upload, response))

    def _view(self, upload: Upload, response: httpx.Response) -> View:
        explained = self._read(_Explanation, response)
        try:
            seen = _pixels(explained.seen)
            drawn = None if explained.saliency is None else _pixels(explained.saliency)
            nearest = explained.nearest
            neighbours = None if nearest is None else [each.decoded() for each in nearest]
        except (InvalidImage, *DECODING_ERRORS) as error:
            raise self._unexpected("an image that cannot be read") from error
        return View(upload, seen, tuple(explained.steps), drawn, neighbours)

    def split(self, upload: Upload, options: PredictOptions) -> Flow[list[Prediction]]:
        """Predict each of several symbols in one picture."""
        request = self._post("/predict", options, content=as_file(upload))
        request.url = request.url.copy_merge_params({"split": "true"})
        request.headers["Content-Type"] = OCTETS
        found = self._read(_Symbols, (yield from self._ask(request)))
        return [Prediction(found.model, **dict(each)) for each in found.predictions]

    def predict_batch(self, batch: UploadBatch, options: PredictOptions) -> Flow[list[Outcome]]:
        """Predict many pictures, in several requests if the service accepts fewer in one."""
        if not batch.uploads:
            return _in_order(batch, iter(()))
        array = (options.get("model"), batch.shape or ())
        as_files = array in self._refused
        request = self._post("/predict_batch", options, **batch.content(as_files=as_files))
        try:
            response = yield from self._ask(request)
        except RequestRefused as refused:
            if batch.shape and not as_files and refused.code == InvalidPixels.code:
                self._refused.add(array)  # the service makes images of the model's size from files
                return (yield from self.predict_batch(batch, options))
            if refused.status != CONTENT_TOO_LARGE:
                raise
            if len(batch.items) == 1:
                return [PredictionError(refused.code, refused.message)]
            middle = len(batch.items) // 2
            first, second = UploadBatch(batch.items[:middle]), UploadBatch(batch.items[middle:])
            answers = yield from self.predict_batch(first, options)
            return answers + (yield from self.predict_batch(second, options))
        answer = self._read(_Batch, response)
        if len(answer.predictions) != len(batch.uploads):
            counts = f"{len(answer.predictions)} answers to {len(batch.uploads)} pictures"
            raise self._unexpected(counts)
        outcomes = (
            each if isinstance(each, PredictionError) else Prediction(answer.model, **dict(each))
            for each in answer.predictions
        )
        return _in_order(batch, outcomes)

    def models(self, timeout: float) -> Flow[list[ServedModel]]:
        """List the served models."""
        response = yield from self._ask(self._request("GET", "/models", timeout))
        listed = self._read(_Models, response)
        return [replace(model, default=model.model == listed.default) for model in listed.models]

    def _post(self, path: str, options: PredictOptions, **content: object) -> httpx.Request:
        timeout = options.get("timeout", DEFAULT_TIMEOUT_SECONDS)
        params = {
            name: value
            for name, value in options.items()
            if name != "timeout" and value is not None
        }
        request = self._request("POST", path, timeout, params=params, **content)
        request.headers["X-Request-Timeout"] = str(timeout)
        return request


def _in_order(batch: UploadBatch, outcomes: Iterator[Outcome]) -> list[Outcome]:
    return [
        PredictionError(item.code, item.message) if isinstance(item, LoupeError) else next(outcomes)
        for item in batch.items
    ]


def _pixels(png: bytes) -> UInt8Array:
    return np.asarray(open_picture(png, max_pixels=MAX_SEEN_PIXELS).image)


class _Answer(BaseModel):
    label: str | None
    index: int | None
    confidence: float
    probabilities: dict[str, float]
    abstained: bool = False
    reason: str | None = None
    box: Box | None = None
    familiarity: float | None = None
    unfamiliar: bool = False
    prediction_set: list[str] | None = None


class _Symbols(BaseModel):
    model: str
    predictions: list[_Answer]


class _Neighbour(BaseModel):
    label: str
    index: int
    similarity: float
    image: Base64Bytes

    def decoded(self) -> Neighbour:
        return Neighbour(self.label, self.index, self.similarity, _pixels(self.image))


class _Explanation(BaseModel):
    seen: Base64Bytes
    steps: list[Step]
    saliency: Base64Bytes | None = None
    nearest: list[_Neighbour] | None = None


class _Batch(BaseModel):
    model: str
    predictions: list[_Answer | PredictionError]


class _Models(BaseModel):
    default: str
    models: list[ServedModel]
