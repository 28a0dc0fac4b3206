"""Bodies of responses: what the caller of a prediction reads."""

import io
import json
from typing import Any

import numpy as np
import pytest
from starlette.responses import Response

from loupe.errors import InvalidImage, LoupeError
from loupe.old_errors.core import ModelNotFound
from loupe.old_errors.service import EngineFailed, MethodNotAllowed, Overloaded, ShuttingDown
from service.http import replies
from service.http.options import DEFAULTS, Options
from service.prediction.inputs import Batch
from tests.support import pictures

NAMES = ("T-shirt/top", "Größe")
ROWS = np.array([[0.25, 0.75], [0.5, 0.5]], np.float32)


def read(response: Response) -> Any:
    return json.loads(bytes(response.body))


def test_a_prediction_names_model_label_index_confidence_and_all_probabilities() -> None:
    response = replies.prediction("shapes:1", NAMES, ROWS[0], DEFAULTS)

    assert response.media_type == "application/json"
    assert read(response) == {
        "model": "shapes:1",
        "label": "Größe",
        "index": 1,
        "confidence": 0.75,
        "probabilities": {"T-shirt/top": 0.25, "Größe": 0.75},
    }


def test_of_two_equal_classes_the_first_is_named() -> None:
    assert read(replies.prediction("shapes:1", NAMES, ROWS[1], DEFAULTS))["label"] == "T-shirt/top"


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
def test_the_most_probable_classes_stand_first_and_of_equal_ones_the_first(
    top_k: int | None, named: list[str]
) -> None:
    row = np.array([0.25, 0.5, 0.25], np.float32)
    answer = read(replies.prediction("letters:1", ("a", "b", "c"), row, Options(top_k=top_k)))

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
def test_below_the_threshold_no_label_is_given(
    threshold: float | None, expected: dict[str, object]
) -> None:
    answer = read(replies.prediction("shapes:1", NAMES, ROWS[0], Options(threshold=threshold)))

    assert {
        name: value for name, value in answer.items() if name in ("label", "index", "abstained")
    } == expected
    assert answer["confidence"] == 0.75


def test_an_npy_answer_is_the_probabilities_themselves_and_names_the_model() -> None:
    response = replies.npy("shapes:1", ROWS)

    assert (response.media_type, response.headers["x-loupe-model"]) == (
        "application/x-npy",
        "shapes:1",
    )
    np.testing.assert_array_equal(np.load(io.BytesIO(bytes(response.body))), ROWS)


def test_answers_to_a_batch_stand_in_its_order_with_errors_in_their_places() -> None:
    errors: dict[int, LoupeError] = {0: InvalidImage("text"), 2: InvalidImage("noise")}
    body = read(
        replies.predictions("shapes:1", NAMES, Batch(pictures.digits(2), errors), ROWS, DEFAULTS)
    )

    assert body["model"] == "shapes:1"
    assert [answer.get("confidence") for answer in body["predictions"]] == [None, 0.75, None, 0.5]
    assert body["predictions"][2] == InvalidImage("noise").to_json()


@pytest.mark.parametrize(
    ("error", "status", "retry_after"),
    [
        (Overloaded(10, 10), 429, "1"),
        (ShuttingDown(), 503, "1"),
        (ModelNotFound("birds", []), 404, None),
        (EngineFailed("The engine failed: out of memory"), 500, None),
    ],
)
def test_an_error_has_its_status_and_says_when_to_try_again(
    error: LoupeError, status: int, retry_after: str | None
) -> None:
    response = replies.failure(error)

    assert response.status_code == status
    assert read(response) == {"error": str(error), "code": error.code}
    assert response.headers.get("retry-after") == retry_after


def test_a_method_that_is_not_allowed_is_answered_with_those_that_are() -> None:
    response = replies.failure(MethodNotAllowed("GET", "/predict", ["OPTIONS", "POST"]))

    assert (response.status_code, response.headers["allow"]) == (405, "OPTIONS, POST")
