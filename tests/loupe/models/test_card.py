"""The model card as a file."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from loupe.images.spec import ImageSpec
from loupe.models.card import Figures, ModelCard, digest

CARD = ModelCard(
    dataset="shapes",
    class_names=("across", "upright"),
    input=ImageSpec("ink"),
    figures=Figures(
        test_images=10,
        test_digest="0" * 64,
        accuracy=0.9,
        loss=0.3,
        train_accuracy=0.95,
        calibration_error=0.02,
        engines_difference=1e-6,
        training_seconds=1.5,
    ),
    files={"model.onnx": "0" * 64},
    config={"epochs": 3, "architecture": "cnn"},
    made_with={"keras": "3"},
    created=datetime(2024, 2, 29, 12, 0, tzinfo=UTC),
)


def test_load_reverses_save(tmp_path: Path) -> None:
    CARD.save(tmp_path)

    assert ModelCard.load(tmp_path) == CARD
    assert json.loads((tmp_path / "card.json").read_text())["class_names"] == ["across", "upright"]


def test_cards_of_version_1_are_read_as_28_by_28_grey(tmp_path: Path) -> None:
    values = json.loads(CARD.model_dump_json())
    del values["input"]
    old = values | {"card_version": 1, "look": "object"}
    (tmp_path / "card.json").write_text(json.dumps(old))

    assert ModelCard.load(tmp_path) == CARD.model_copy(update={"input": ImageSpec("object")})


@pytest.mark.parametrize(
    ("change", "text"),
    [
        pytest.param(
            {"class_names": ["same", "same"]},
            "several classes have the name 'same'",
            id="names twice",
        ),
        pytest.param(
            {"class_names": ["alone"]}, "Tuple should have at least 2 items", id="one class"
        ),
        pytest.param(
            {"input": {"look": "oil"}}, "Input should be 'ink', 'object'", id="another look"
        ),
        pytest.param({"card_version": 3}, "Input should be 2", id="a later version"),
        pytest.param(
            {"input": {"look": "ink", "height": 200}}, "16 to 128", id="too large for a spec"
        ),
        pytest.param({"files": None}, "files", id="no files"),
    ],
)
def test_invalid_card_is_refused(tmp_path: Path, change: dict[str, object], text: str) -> None:
    (tmp_path / "card.json").write_text(
        json.dumps({**json.loads(CARD.model_dump_json()), **change})
    )

    with pytest.raises(ValidationError, match=text):
        ModelCard.load(tmp_path)


@pytest.mark.parametrize(
    ("name", "fact"),
    [
        ("t-shirt\ntop", "U+000A"),
        ("\x1b[31mred", "U+001B"),
        ("tab\tstop", "U+0009"),
        ("\x9b1m", "U+009B"),
        ("line\u2028separator", "U+2028"),
        ("backwards\u202e", "U+202E"),
        ("  ", "no name"),
        ("", "no name"),
        ("x" * 256, "256 characters"),
    ],
    ids=ascii,
)
def test_class_names_are_one_line_of_visible_text(name: str, fact: str) -> None:
    for change in ({"class_names": [name, "bag"]}, {"translations": {"ja": ["bag", name]}}):
        with pytest.raises(ValidationError) as refused:
            ModelCard.model_validate({**CARD.model_dump(), **change})
        assert fact in str(refused.value)


@pytest.mark.parametrize("name", ["=", "+1", "@", "<b>", "[/]", "a|b", "नमस्‍ते", "犬 🐕", "x" * 255])
def test_class_names_may_be_signs_and_words_of_any_language(name: str) -> None:
    card = ModelCard.model_validate({**CARD.model_dump(), "class_names": [name, "bag"]})

    assert card.class_names[0] == name


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff"])
def test_file_that_is_not_a_card_is_refused(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "card.json").write_bytes(data)

    with pytest.raises(ValueError, match="ModelCard"):
        ModelCard.load(tmp_path)


def test_digest_is_sha_256_in_hex(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"abc")

    # Source: FIPS 180-2, appendix B.1.
    assert (
        digest(tmp_path / "file")
        == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
