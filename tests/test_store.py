"""The model store: what is saved is found, and what is not as it was saved is named."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import bentoml
import pytest

from loupe.card import ModelCard
from loupe.errors import ModelCorrupted, ModelNotFound
from loupe.store import StoredModel, find_model, list_models, new_model, verify
from tests.programs import run
from tests.stores import copied, damage


@contextmanager
def saved(name: str, card: ModelCard) -> Iterator[StoredModel]:
    """A model in the store for as long as a block lasts."""
    with new_model(name, card) as model:
        Path(model.path_of("model.onnx")).write_bytes(b"no model at all")
    try:
        yield find_model(str(model.tag))
    finally:
        bentoml.models.delete(model.tag)


def test_a_saved_model_is_found_by_tag_by_name_and_as_the_newest(digits_model: StoredModel) -> None:
    with saved("letters", digits_model.card) as older, saved("letters", digits_model.card) as newer:
        assert older.tag != newer.tag
        assert find_model(older.tag) == older
        assert find_model("letters") == newer
        assert find_model() == newer
        assert newer.name == "letters"
        assert newer.card == digits_model.card
        assert [model.tag for model in list_models()][:2] == [newer.tag, older.tag]


def test_a_model_is_not_in_the_store_when_saving_it_fails(digits_model: StoredModel) -> None:
    with suppress(OSError), new_model("letters", digits_model.card):
        raise OSError("the disk is full")

    assert "letters" not in [model.name for model in list_models()]


def test_an_unknown_tag_is_refused_with_the_tags_there_are(digits_model: StoredModel) -> None:
    for wanted in ("birds", "birds:1", f"{digits_model.name}:nothing", "Not A Tag", "a:b:c", "../../etc", ""):
        with pytest.raises(ModelNotFound) as raised:
            find_model(wanted)
        assert raised.value.message.startswith(f"Model '{wanted}' is not there. There are: ")
        assert digits_model.tag in raised.value.message


def test_models_of_other_programs_are_passed_over(digits_model: StoredModel) -> None:
    with bentoml.models.create("foreign", module="somebody.else") as model:
        Path(model.path_of("weights")).write_bytes(b"")
    try:
        assert "foreign" not in [found.name for found in list_models()]
        assert find_model().name != "foreign"
    finally:
        bentoml.models.delete(model.tag)


def test_a_model_without_a_readable_card_is_named_and_the_others_are_listed(digits_model: StoredModel) -> None:
    with saved("letters", digits_model.card) as model:
        (model.folder / "card.json").write_text("{}")

        text = rf"^Model '{model.tag}' cannot be trusted: card\.json cannot be read \(ValidationError\)\."
        with pytest.raises(ModelCorrupted, match=text):
            find_model("letters")
        tags = [found.tag for found in list_models()]
        assert digits_model.tag in tags
        assert model.tag not in tags


def test_a_whole_model_is_verified(digits_model: StoredModel) -> None:
    assert set(digits_model.card.files) == {"model.keras", "model.onnx"}
    verify(digits_model)


@pytest.mark.parametrize("name", ["model.keras", "model.onnx"])
def test_a_changed_file_is_named(tmp_path: Path, digits_model: StoredModel, name: str) -> None:
    model = copied(digits_model, tmp_path)
    damage(model.folder / name)

    text = (
        rf"^Model '{model.tag}' cannot be trusted: {name} is not the file that was saved \(its SHA-256 differs\)\. "
        r"Delete it from the store and train again\.$"
    )
    with pytest.raises(ModelCorrupted, match=text):
        verify(model)


def test_a_missing_file_is_named(tmp_path: Path, digits_model: StoredModel) -> None:
    model = copied(digits_model, tmp_path)
    (model.folder / "model.onnx").unlink()

    with pytest.raises(ModelCorrupted, match=rf"^Model '{model.tag}' cannot be trusted: model\.onnx is missing\."):
        verify(model)


def test_a_file_that_the_card_does_not_know_is_no_matter(tmp_path: Path, digits_model: StoredModel) -> None:
    model = replace(digits_model, folder=copied(digits_model, tmp_path).folder)
    (model.folder / "notes.txt").touch()

    verify(model)


def test_an_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    listed = run("models", BENTOML_HOME=tmp_path)

    assert listed.returncode == 0, listed.stderr
    assert listed.stdout == "The model store is empty. Train a model: loupe train --dataset fashion-mnist\n"
