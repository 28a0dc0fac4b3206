"""The answer to a picture: options that change it, and its fields, from a row of probabilities.

The service and local models answer with the same fields.
"""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from loupe.images.spec import Float32Array, Normalize

MAX_LANG = 35  # characters of a language tag that every program must take (RFC 5646, 4.4.1)


class AnswerOptions(BaseModel):
    """Options of an answer.

    Attributes:
        top_k: Number of classes, most probable first; `None` for all, in the model's order.
        threshold: Confidence, 0..1, below which no label is given.
        normalize: `auto` makes a picture look like the training data, `off` takes it unchanged.
        lang: ISO 639-1 code of the class names' language.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    top_k: int | None = Field(default=None, ge=1, le=999_999_999)
    threshold: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    normalize: Normalize = "auto"
    lang: str = Field(default="en", max_length=MAX_LANG)


class Answer(TypedDict):
    """The fields of an answer; `loupe.client.predictions.Prediction` explains them."""

    label: str | None
    index: int | None
    confidence: np.float32
    abstained: NotRequired[bool]
    probabilities: dict[str, np.float32]


def answer(
    class_names: Sequence[str], probabilities: Float32Array, options: AnswerOptions
) -> Answer:
    """Return the answer to one image; `probabilities` is float32 `(classes,)`."""
    index = int(probabilities.argmax())
    label, confidence = class_names[index], probabilities[index]
    chosen = _chosen(class_names, probabilities, options.top_k)
    if options.threshold is None:
        return {
            "label": label,
            "index": index,
            "confidence": confidence,
            "probabilities": chosen,
        }
    abstained = bool(confidence < options.threshold)
    return {
        "label": None if abstained else label,
        "index": None if abstained else index,
        "confidence": confidence,
        "abstained": abstained,
        "probabilities": chosen,
    }


def _chosen(
    class_names: Sequence[str], probabilities: Float32Array, top_k: int | None
) -> dict[str, np.float32]:
    if top_k is None:
        return dict(zip(class_names, probabilities, strict=True))
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return {class_names[each]: probabilities[each] for each in best}
