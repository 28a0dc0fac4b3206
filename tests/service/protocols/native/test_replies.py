"""Answers of the native protocol."""

import base64
import io
import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.responses import Response

from loupe.errors import InvalidImage, LoupeError
from loupe.images.spec import Float32Array
from loupe.images.steps import Step
from loupe.models.answers import AnswerOptions, answer
from service.http.options import DEFAULTS, PredictQuery
from service.prediction.decoding import DecodedImages
from service.protocols.native import replies
from tests.support import pictures

NAMES = ("T-shirt/top", "Größe")
ROWS = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


def read(response: Response) -> Any:
    return json.loads(bytes(response.body))


def predict(
    row: Float32Array,
    options: AnswerOptions = DEFAULTS,
    *,
    names: Sequence[str] = NAMES,
    explanation: replies.Explanation | None = None,
    blank: bool = False,
) -> Any:
    found = answer(names, row, options, blank=blank)
    return read(replies.prediction("shapes:1", found, explanation))


def test_prediction_names_model_label_index_confidence_and_all_probabilities() -> None:
    response = replies.prediction("shapes:1", answer(NAMES, ROWS[0], DEFAULTS))

    assert response.media_type == "application/json"
    assert read(response) == {
        "model": "shapes:1",
        "label": "Größe",
        "index": 1,
        "confidence": 0.75,
        "familiarity": None,
        "unfamiliar": False,
        "probabilities": {"T-shirt/top": 0.25, "Größe": 0.75},
    }


@pytest.mark.parametrize("shape", [(28, 28), (20, 30, 3)])
def test_explanation_has_the_image_that_the_model_saw_and_its_steps(shape: tuple[int, ...]) -> None:
    image = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    steps = [Step("inverted", "inverted"), Step("centred", "centred")]
    explanation = replies.Explanation(image, steps)
    answer = predict(ROWS[0], explanation=explanation)

    file = io.BytesIO(base64.b64decode(answer.pop("seen")))
    assert np.array_equal(np.asarray(Image.open(file)), image)
    assert [Step(**step) for step in answer.pop("steps")] == steps
    assert answer == predict(ROWS[0])


def test_first_of_two_equal_classes_is_the_label() -> None:
    assert predict(ROWS[1])["label"] == "T-shirt/top"


@pytest.mark.parametrize(
    ("top_k", "named"),
    [
        (1, ["b"]),
        (2, ["b", "a"]),
        (3, ["b", "a", "c"]),
        (9, ["b", "a", "c"]),
        (None, ["a", "b", "c"]),
    ],
)
def test_top_k_sorts_by_probability_then_by_index(top_k: int | None, named: list[str]) -> None:
    row = np.array([0.25, 0.5, 0.25], np.float32)
    answer = predict(row, PredictQuery(top_k=top_k), names="abc")

    assert list(answer["probabilities"]) == named
    assert answer["label"] == "b"


@pytest.mark.parametrize(
    ("threshold", "expected"),
    [
        (None, {"label": "Größe", "index": 1}),
        (0.75, {"label": "Größe", "index": 1, "abstained": False}),
        (0.76, {"label": None, "index": None, "abstained": True}),
    ],
)
def test_confidence_below_the_threshold_gives_no_label(
    threshold: float | None, expected: dict[str, object]
) -> None:
    answer = predict(ROWS[0], PredictQuery(threshold=threshold))

    assert {
        name: value for name, value in answer.items() if name in ("label", "index", "abstained")
    } == expected
    assert answer["confidence"] == 0.75


@pytest.mark.parametrize("options", [DEFAULTS, PredictQuery(threshold=0.5)])
def test_blank_picture_gets_a_reason_in_place_of_a_label(options: PredictQuery) -> None:
    answer = predict(ROWS[0], options, blank=True)

    assert (answer["label"], answer["index"], answer["reason"]) == (None, None, "blank")
    assert answer.get("abstained") is (None if options.threshold is None else False)


def test_npy_answer_holds_the_probabilities_and_names_the_model() -> None:
    response = replies.npy("shapes:1", ROWS)

    assert (response.media_type, response.headers["x-loupe-model"]) == (
        "application/x-npy",
        "shapes:1",
    )
    np.testing.assert_array_equal(np.load(io.BytesIO(bytes(response.body))), ROWS)


def test_batch_answer_keeps_the_order_with_errors_in_place() -> None:
    errors: dict[int, LoupeError] = {0: InvalidImage("text"), 2: InvalidImage("noise")}
    decoded = DecodedImages(pictures.digits(2), errors)
    found = (
        answer(NAMES, row, DEFAULTS, blank=blank)
        for row, blank in zip(ROWS, (False, True), strict=True)
    )
    body = read(replies.predictions("shapes:1", decoded, found))

    assert body["model"] == "shapes:1"
    assert [answer.get("confidence") for answer in body["predictions"]] == [None, 0.75, None, 0.5]
    assert body["predictions"][2] == InvalidImage("noise").to_json()
    assert "reason" not in body["predictions"][1]
    assert body["predictions"][3]["reason"] == "blank"
