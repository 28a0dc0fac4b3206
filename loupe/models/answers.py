"""The answer to a picture: options that change it, and its fields, from a row of probabilities.

The service and local models answer with the same fields.
"""

from collections.abc import Sequence
from typing import Literal, NotRequired, TypeAlias, TypedDict

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from loupe.errors import InvalidRequest
from loupe.images.spec import Float32Array, ImageSpec, Normalize

BLANK = "blank"  # reason of an answer without a label: there is no ink in the picture
MAX_LANG = 35  # characters of a language tag that every program must take (RFC 5646, 4.4.1)


Explain: TypeAlias = Literal["seen", "saliency"]
"""`seen`: the image that the model saw, and its steps. `saliency`: also a map of what counted."""


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
    reason: NotRequired[str]
    probabilities: dict[str, np.float32]


def answer(
    class_names: Sequence[str],
    probabilities: Float32Array,
    options: AnswerOptions,
    *,
    blank: bool = False,
) -> Answer:
    """Return the answer to one image, without a label if it is blank.

    `probabilities` is float32 `(classes,)`.
    """
    index = int(probabilities.argmax())
    label, confidence = class_names[index], probabilities[index]
    found: Answer = {
        "label": label,
        "index": index,
        "confidence": confidence,
        "probabilities": _chosen(class_names, probabilities, options.top_k),
    }
    if options.threshold is not None:
        found["abstained"] = bool(confidence < options.threshold)
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


def _chosen(
    class_names: Sequence[str], probabilities: Float32Array, top_k: int | None
) -> dict[str, np.float32]:
    if top_k is None:
        return dict(zip(class_names, probabilities, strict=True))
    best = np.argsort(-probabilities, kind="stable")[:top_k]
    return {class_names[each]: probabilities[each] for each in best}
