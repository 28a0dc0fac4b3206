"""The answer to a picture: options that change it, and its fields, from a row of probabilities.

The service and local models answer with the same fields.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NotRequired, TypeAlias, TypedDict

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from loupe.errors import InvalidRequest
from loupe.images.spec import Float32Array, ImageSpec, Normalize, UInt8Array
from loupe.models.card import ModelCard
from loupe.models.certainty import LEVEL, Familiarity
from loupe.models.engines.engine import Outputs

UNKNOWN = np.float32(np.nan)  # familiarity
BLANK = "blank"  # reason of an answer without a label: there is no ink in the picture
MAX_LANG = 35  # characters of a language tag that every program must take (RFC 5646, 4.4.1)


Explain: TypeAlias = Literal["seen", "saliency", "nearest"]
"""`seen`: the image that the model saw, and its steps. `saliency`: also a map of what counted.
`nearest`: also the training pictures that are most like it."""


class AnswerOptions(BaseModel):
    """Options of an answer.

    Attributes:
        top_k: Number of classes, most probable first; `None` for all, in the model's order.
        threshold: Confidence, 0..1, below which no label is given.
        min_familiarity: Familiarity, 0..1, below which no label is given.
        alpha: Probability, between 0 and 1, that the true class is not in the prediction set.
        normalize: `auto` makes a picture look like the training data, `off` takes it unchanged.
        lang: ISO 639-1 code of the class names' language.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    top_k: int | None = Field(default=None, ge=1, le=999_999_999)
    threshold: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    min_familiarity: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    alpha: float | None = Field(default=None, gt=0, lt=1, allow_inf_nan=False)
    normalize: Normalize = "auto"
    lang: str = Field(default="en", max_length=MAX_LANG)

    @property
    def refuses(self) -> bool:
        """True if a confidence or a familiarity can be too low for a label."""
        return self.threshold is not None or self.min_familiarity is not None

    def check(self, card: ModelCard, familiarity: Familiarity | None) -> None:
        """Raise `InvalidRequest` if a model cannot answer with these options.

        Args:
            card: The model's.
            familiarity: That of its engine.
        """
        card.names(self.lang)
        if self.min_familiarity is not None and familiarity is None:
            raise familiarity_unknown()
        if self.alpha is not None and card.conformal is None:
            raise InvalidRequest(
                "The model cannot give prediction sets, which alpha asks for. Train it again, or "
                "import it with --test and --calibrate."
            )


def abstentions(
    outputs: Outputs, threshold: float | None, min_familiarity: float | None
) -> NDArray[np.bool_]:
    """Return which images get no label, because their confidence or familiarity is too low."""
    unsure = outputs.familiarity < (min_familiarity or 0)
    if threshold is not None:
        unsure |= outputs.probabilities.max(axis=1, initial=0) < threshold
    return np.asarray(unsure)


def familiarity_unknown() -> InvalidRequest:
    """Return the error for a request that needs the familiarity of a model that knows none."""
    return InvalidRequest(
        "The model does not know how familiar a picture is. Train it again, or import it with "
        "--test."
    )


@dataclass(frozen=True)
class Neighbour:
    """A picture that the model learnt, and that is like another one.

    Attributes:
        label: Its class, as its data set says.
        index: Index of the class.
        similarity: Cosine of the angle between the features of both, at most 1.
        image: uint8, of the model's shape.
    """

    label: str
    index: int
    similarity: float
    image: UInt8Array


class Answer(TypedDict):
    """The fields of an answer; `loupe.client.predictions.Prediction` explains them."""

    label: str | None
    index: int | None
    confidence: np.float32
    familiarity: np.float32 | None
    unfamiliar: bool
    prediction_set: NotRequired[list[str]]
    abstained: NotRequired[bool]
    reason: NotRequired[str]
    probabilities: dict[str, np.float32]


def answers(
    card: ModelCard, images: UInt8Array, outputs: Outputs, options: AnswerOptions
) -> Iterator[Answer]:
    """Yield the answer to each image, uint8 `(n, *card.input.shape)`.

    Raises:
        InvalidRequest: If the card has no class names in the language.
    """
    names, known = card.names(options.lang), card.familiarity
    level, blank = LEVEL if known is None else known.level, card.input.blank(images).tolist()
    lowest = card.conformal.lowest(options.alpha) if card.conformal and options.alpha else None
    for row, familiarity, is_blank in zip(*outputs, blank, strict=True):
        found = answer(names, row, options, familiarity=familiarity, level=level, blank=is_blank)
        if lowest is not None:
            found["prediction_set"] = _at_least(lowest, names, row)
        yield found


def answer(
    class_names: Sequence[str],
    probabilities: Float32Array,
    options: AnswerOptions,
    *,
    familiarity: np.float32 = UNKNOWN,
    level: float = LEVEL,
    blank: bool = False,
) -> Answer:
    """Return the answer to one image, without a label if it is blank.

    Args:
        class_names: In the order of the probabilities.
        probabilities: float32 `(classes,)`.
        options: What to answer.
        familiarity: 0..1; NaN if it is not known.
        level: Familiarity below which the image is unfamiliar.
        blank: Whether there is no ink in it.
    """
    values = probabilities.tolist()  # faster than NumPy for so few
    index = values.index(max(values))
    label, confidence = class_names[index], probabilities[index]
    found: Answer = {
        "label": label,
        "index": index,
        "confidence": confidence,
        "familiarity": None if math.isnan(familiarity) else familiarity,
        "unfamiliar": bool(familiarity < level),
        "probabilities": _chosen(class_names, probabilities, options.top_k),
    }
    if options.refuses:
        found["abstained"] = bool(
            confidence < (options.threshold or 0) or familiarity < (options.min_familiarity or 0)
        )
    if blank:
        found["reason"] = BLANK
    if blank or found.get("abstained"):
        found["label"] = found["index"] = None
    return found


def check_split(model: str, spec: ImageSpec, normalize: Normalize) -> None:
    """Raise `InvalidRequest` if pictures cannot be split into symbols for a model."""
    if not spec.single:
        raise InvalidRequest(
            f"Model {model} does not read single symbols, and cannot split pictures. Models of "
            "'mnist' and 'digits' do."
        )
    if normalize == "off":
        raise InvalidRequest("normalize=off leaves a picture whole; split=true makes many of it.")


def _at_least(lowest: float, class_names: Sequence[str], row: Float32Array) -> list[str]:
    """Return the classes with at least a probability, most probable first."""
    order = np.argsort(-row, kind="stable").tolist()
    return [class_names[each] for each in order if row[each] >= lowest]


def _chosen(
    class_names: Sequence[str], probabilities: Float32Array, top_k: int | None
) -> dict[str, np.float32]:
    if top_k is None:
        return dict(zip(class_names, probabilities, strict=True))
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return {class_names[each]: probabilities[each] for each in best}
