"""Models in this process, for scripts and notebooks: the answers of a service, without one."""

import os
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from loupe.client.predictions import LocalOptions, Outcome, Prediction, PredictionError, View
from loupe.client.uploads import PictureInput, PictureSet, as_file, each_picture, prepare
from loupe.errors import InvalidImage, InvalidPixels
from loupe.images.header import TINY_BYTES
from loupe.images.pool import DecoderPool
from loupe.images.spec import Normalize, UInt8Array
from loupe.images.steps import Step
from loupe.jobs import check_options
from loupe.models.answers import Answer, AnswerOptions, Explain, answers, check_split
from loupe.models.engines.loading import load_engine
from loupe.models.explaining import saliency
from loupe.models.explaining.nearest import Neighbours
from loupe.models.store import StoredModel, find_model
from loupe.runtime.cores import available_cores
from loupe.settings import Settings, load_settings

if TYPE_CHECKING:
    from typing_extensions import Unpack  # Python 3.11 has its own

BATCH_IMAGES = 64  # of one run of the engine, and files in memory at a time


def load(model: str | None = None) -> "LocalModel":
    """Load a model from the store.

    Args:
        model: `NAME`, `NAME:VERSION` or `NAME:LABEL`; by default the one that a service would use.

    Raises:
        ModelNotFound: If the store has no such model.
        ModelCorrupted: If its files are not those that were saved.
        InvalidSetting: If a `LOUPE_…` variable has an invalid value.
    """
    settings = load_settings()
    return LocalModel(find_model(model or settings.default_tag), settings)


class LocalModel:
    """A stored model, ready to predict. Threads can share it.

    Attributes:
        tag: Its full tag.
        card: Its class names, figures and input.
    """

    def __init__(self, stored: StoredModel, settings: Settings) -> None:
        self.tag, self.card = stored.tag, stored.card
        self._engine = load_engine(stored, settings.engine)
        self._neighbours = Neighbours(stored, self._engine)
        self._max_pixels = settings.max_image_pixels
        self._decoders = DecoderPool(available_cores(), settings.decode_seconds)
        weakref.finalize(self, self._decoders.close)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.tag}, {len(self.card.class_names)} classes>"

    def predict(
        self,
        picture: PictureInput,
        *,
        explain: Explain | None = None,
        **options: "Unpack[LocalOptions]",
    ) -> Prediction:
        """Predict one picture.

        Args:
            picture: As for `Client.predict`.
            explain: `saliency` draws what counted, and runs the model on up to 144 images more.
                `nearest` finds the training pictures that are most like it. The prediction's `view`
                shows in any case what the model saw.
            options: See `LocalOptions`.

        Raises:
            InvalidImage: If the file cannot be read or the image cannot be decoded.
            InvalidPixels: If an array is not a picture.
            InvalidRequest: If an option has an invalid value.
        """
        asked = self._checked(options)
        view = self._view(picture, asked.normalize, keep=True)
        if explain == "saliency":
            view = replace(view, saliency=self._saliency(view.seen))
        if explain == "nearest":
            view = replace(view, nearest=self._neighbours.of(view.seen, asked.lang))
        return next(self._answers([view], asked))

    def split(self, picture: PictureInput, **options: "Unpack[LocalOptions]") -> list[Prediction]:
        """Predict each of several symbols in one picture; see `Client.split`.

        Raises:
            InvalidRequest: If an option has an invalid value, or the model does not read single
                symbols.
            LoupeError: As for `predict`.
        """
        asked = self._checked(options)
        spec = self.card.input
        check_split(self.tag, spec, asked.normalize)
        file = as_file(prepare(picture, asked.normalize))
        symbols = self._decoders.symbols_safely(file, spec, self._max_pixels)
        views = [View(None, image) for image, _ in symbols]
        answers = self._answers(views, asked)
        return [
            replace(found, box=box).with_view(view)
            for found, (_, box), view in zip(answers, symbols, views, strict=True)
        ]

    def predict_many(
        self, pictures: PictureSet, **options: "Unpack[LocalOptions]"
    ) -> Iterator[Outcome]:
        """Predict many pictures; yield one outcome for each, in order.

        A picture that cannot be read yields a `PredictionError`. At most 64 are in memory.

        Args:
            pictures: Each as for `predict`, or a folder; see `pictures_at`. A uint8 array
                `(n, height, width[, 3])` is `n` pictures.
            options: As for `predict`.

        Raises:
            InvalidSource: If a folder contains no pictures.
            InvalidRequest: If an option has an invalid value.
        """
        asked = self._checked(options)
        remaining = iter(each_picture(pictures))

        def read(picture: PictureInput) -> View | PredictionError:
            try:
                return self._view(picture, asked.normalize)
            except (InvalidImage, InvalidPixels) as error:
                return PredictionError(error.code, error.message)

        with ThreadPoolExecutor(available_cores(), "loupe-decode") as threads:
            while batch := list(islice(remaining, BATCH_IMAGES)):
                read_batch = list(threads.map(read, batch))
                del batch
                views = [each for each in read_batch if isinstance(each, View)]
                answers = self._answers(views, asked)
                for each in read_batch:
                    yield each if isinstance(each, PredictionError) else next(answers)

    def _view(self, picture: PictureInput, normalize: Normalize, *, keep: bool = False) -> View:
        """Decode a picture; `keep` even a large file for notebooks."""
        upload = prepare(picture, normalize)
        spec, steps = self.card.input, list[Step]()
        if isinstance(upload, np.ndarray) and upload.shape == spec.shape:
            seen = upload
        else:
            seen = self._decoders.decode_safely(
                as_file(upload), spec, self._max_pixels, normalize=normalize, steps=steps
            )
        if isinstance(picture, str | os.PathLike):
            return View(picture, seen, tuple(steps))
        kept = upload if keep or len(upload) <= TINY_BYTES else None
        return View(kept, seen, tuple(steps))

    def _saliency(self, seen: UInt8Array) -> UInt8Array:
        occlusion = saliency.occlude(seen, self.card.input)
        answers = self._engine.predict(np.concatenate([seen[np.newaxis], occlusion.images]))
        return saliency.draw(seen, occlusion.saliency(answers[0], answers[1:]))

    def _checked(self, options: LocalOptions) -> AnswerOptions:
        asked = check_options(AnswerOptions, **options)
        asked.check(self.card, self._engine.familiarity)
        return asked

    def _answers(self, views: Sequence[View], options: AnswerOptions) -> Iterator[Prediction]:
        if views:
            images = np.stack([view.seen for view in views])
            outputs = self._engine.run(images)
            found = answers(self.card, images, outputs, options)
            for answer, view in zip(found, views, strict=True):
                yield self._prediction(answer).with_view(view)

    def _prediction(self, found: Answer) -> Prediction:
        familiarity = found["familiarity"]
        return Prediction(
            self.tag,
            found["label"],
            found["index"],
            _shortest(found["confidence"]),
            {name: _shortest(value) for name, value in found["probabilities"].items()},
            found.get("abstained", False),
            found.get("reason"),
            familiarity=None if familiarity is None else _shortest(familiarity),
            unfamiliar=found["unfamiliar"],
            prediction_set=found.get("prediction_set"),
        )


def _shortest(value: np.float32) -> float:
    """Return the number with the fewest digits, which a service sends."""
    return float(str(value))
