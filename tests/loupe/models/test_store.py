"""The model store: saved models are found, and corrupt ones are named."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import bentoml
import pytest

from loupe.errors import ModelCorrupted, ModelNotFound, NotWritable
from loupe.models import promotion_log as promotions
from loupe.models.card import ModelCard, digest
from loupe.models.promotion_log import PromotedFigures, Promotion
from loupe.models.saving import check_writable, new_model
from loupe.models.store import (
    REPORT_FILE,
    StoredModel,
    find_model,
    full_tag,
    labels,
    list_models,
    names,
    promotions_path,
    remove_model,
    revision,
    verify,
)
from tests.support.programs import environment, run
from tests.support.stores import card, copied, damage, stored


def everything(folder: Path) -> list[str]:
    """Return the names in a folder."""
    return sorted(path.name for path in folder.iterdir())


@contextmanager
def saved(name: str, card: ModelCard) -> Iterator[StoredModel]:
    """Store a model while the block runs."""
    with new_model(name, card) as model:
        Path(model.path_of("model.onnx")).write_bytes(b"no model at all")
    try:
        yield find_model(str(model.tag))
    finally:
        bentoml.models.delete(model.tag)


def test_saved_model_is_found_by_tag_and_by_name(digits_model: StoredModel) -> None:
    with saved("letters", digits_model.card) as older, saved("letters", digits_model.card) as newer:
        assert older.tag != newer.tag
        assert find_model(older.tag) == older
        assert find_model("letters") == newer
        assert newer.name == "letters"
        assert newer.card == digits_model.card
        assert [model.tag for model in list_models()][:2] == [newer.tag, older.tag]


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), ValueError("another"), KeyboardInterrupt()]
)
def test_failed_save_leaves_nothing_in_the_store(store: Path, error: BaseException) -> None:
    told = NotWritable if isinstance(error, OSError) else type(error)
    with pytest.raises(told), new_model("letters", card()):
        raise error

    assert list_models() == []
    assert everything(store) == ["loupe", "models"]


def test_full_disk_leaves_nothing_in_the_store(store: Path) -> None:
    """The block can write its files, but the store cannot take their copies."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from loupe.models.saving import new_model\n"
        "from tests.support.stores import card\n"
        "with new_model('letters', card()) as model:\n"
        "    Path(model.path_of('model.onnx')).write_bytes(bytes(100_000))\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=environment(BENTOML_HOME=store),
        capture_output=True,
        text=True,
    )

    assert f"NotWritable: The model store at '{store / 'models'}' cannot be used" in ended.stderr
    assert "File too large" in ended.stderr
    assert everything(store / "models") == []
    assert everything(store / "loupe") == []


def test_killed_process_leaves_nothing_among_the_models(store: Path) -> None:
    code = (
        "import os, signal; from pathlib import Path; from loupe.models.saving import new_model\n"
        "from tests.support.stores import card\n"
        "import loupe.models.saving as s\n"
        "s._enter = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "with new_model('letters', card()) as model: pass\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment(BENTOML_HOME=store), capture_output=True
    )

    assert ended.returncode == -signal.SIGKILL
    assert everything(store / "models") == []


def test_unusable_store_is_reported_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    ended = run("models", BENTOML_HOME=tmp_path / "file" / "store")

    assert ended.returncode == 1
    assert ended.stderr.startswith("error: store_unwritable: ")
    assert ended.stderr.count("\n") == 1
    for fact in (f"'{tmp_path}/file/store'", "Not a directory", "BENTOML_HOME"):
        assert fact in ended.stderr


def test_check_writable_finds_an_unusable_store(store: Path) -> None:
    check_writable()
    assert everything(store) == ["loupe", "models"]

    (store / "loupe").rmdir()
    (store / "loupe").touch()
    with pytest.raises(NotWritable, match="File exists"):
        check_writable()


def test_unknown_tag_is_refused_with_the_tags_there_are(digits_model: StoredModel) -> None:
    unknown = (
        "birds",
        "birds:1",
        "birds:production",
        "birds:latest",
        f"{digits_model.name}:nothing",
    )
    for wanted in (*unknown, "Not A Tag", "a:b:c", "../../etc", "digits:../digits", "digits:", ""):
        with pytest.raises(ModelNotFound) as raised:
            find_model(wanted)
        assert raised.value.message.startswith(f"There is no model '{wanted}'. There are: ")
        assert digits_model.tag in raised.value.message


def test_unique_prefix_of_a_version_is_accepted(store: Path) -> None:
    for version in ("abc", "abd"):
        copied(stored(), store, f"digits:{version}")

    assert full_tag("digits:abc") == "digits:abc"
    assert full_tag("digits:abd") == "digits:abd"
    with pytest.raises(ModelNotFound):
        full_tag("digits:ab")
    remove_model("digits:abd")
    assert full_tag("digits:ab") == "digits:abc"


def test_models_of_other_programs_are_passed_over(digits_model: StoredModel) -> None:
    with bentoml.models.create("foreign", module="somebody.else") as model:
        Path(model.path_of("weights")).write_bytes(b"")
    try:
        assert "foreign" not in [found.name for found in list_models()]
        assert find_model().name != "foreign"
        with pytest.raises(ModelNotFound):
            find_model("foreign")
        with pytest.raises(ModelNotFound):
            find_model(str(model.tag))
        with pytest.raises(ModelNotFound):
            remove_model(str(model.tag))
    finally:
        bentoml.models.delete(model.tag)


def test_model_without_a_readable_card_is_named_and_the_others_are_listed(
    digits_model: StoredModel,
) -> None:
    with saved("letters", digits_model.card) as model:
        (model.folder / "card.json").write_text("{}")

        text = rf"^Model '{model.tag}' is corrupt: card\.json cannot be read \(ValidationError\)\."
        with pytest.raises(ModelCorrupted, match=text):
            find_model("letters")
        tags = [found.tag for found in list_models()]
        assert digits_model.tag in tags
        assert model.tag not in tags


@pytest.mark.parametrize(
    "words", ["", "- a list", "a: [", "name: 3\nversion: x", "\0", "name: letters"]
)
def test_model_that_bentoml_cannot_read_is_named_and_the_others_are_listed(
    store: Path, caplog: pytest.LogCaptureFixture, words: str
) -> None:
    whole, broken = stored(), stored(name="broken")
    (broken.folder / "model.yaml").write_text(words)

    assert list_models() == [whole]
    assert caplog.messages[-1].startswith(
        f"Model '{broken.tag}' is corrupt: model.yaml cannot be read ("
    )
    with pytest.raises(
        ModelCorrupted,
        match=rf"^Model '{broken.tag}' is corrupt: model\.yaml cannot be read \(",
    ):
        find_model(broken.tag)
    remove_model(broken.tag)
    assert list_models() == [whole]
    assert everything(store / "models") == ["letters"]


def test_leftovers_of_half_a_model_hide_no_other(store: Path) -> None:
    whole = stored()
    (store / "models" / "letters" / "half").mkdir()
    (store / "models" / "empty").mkdir()

    assert list_models() == [whole]
    assert find_model("letters") == whole


# Labels


def point(model: StoredModel, label: str = "production") -> None:
    with promotions.writing(promotions_path()) as log:
        log.append(
            Promotion(
                time=model.card.created,
                kind="promote",
                name=model.name,
                label=label,
                from_version=None,
                to_version=model.version,
                from_figures=None,
                to_figures=PromotedFigures.model_validate(model.card.measured),
                forced=False,
            )
        )


def test_revision_changes_exactly_when_the_store_changes(
    store: Path,
) -> None:
    def seen() -> bool:
        """Return whether the revision has changed since the last call."""
        known.append(revision())
        return known[-1] != known[-2]

    known = [revision()]
    assert not seen()
    model = stored()
    assert seen()
    point(model)
    assert seen()
    list_models()
    find_model("letters:production")
    assert not seen()
    damage(model.folder / "model.onnx")
    assert seen()
    remove_model(model.tag)
    assert seen()
    assert not seen()


def test_name_means_its_production_version_or_else_the_newest(store: Path) -> None:
    older, newer = stored(), stored()
    assert find_model("letters") == newer

    point(older)
    assert find_model("letters") == older
    assert find_model("letters:production") == older
    assert find_model("letters:latest") == newer
    assert labels() == {older.tag: ["production"]}

    point(newer)
    assert find_model("letters:production") == newer
    assert labels() == {newer.tag: ["production"]}


def test_no_tag_means_the_name_that_was_promoted_first(store: Path) -> None:
    shapes, letters, digits = stored(name="shapes"), stored(), stored(name="digits")
    assert names() == ["shapes", "letters", "digits"]

    point(digits)
    point(letters)
    assert names() == ["digits", "letters", "shapes"]
    assert find_model() == digits

    point(shapes)
    better = stored(name="digits")
    point(better)
    assert names() == ["digits", "letters", "shapes"]
    assert find_model() == better

    for model in (digits, better):
        remove_model(model.tag)
    assert find_model() == letters


def test_error_for_an_unused_label_lists_the_versions(store: Path) -> None:
    model = stored()

    with pytest.raises(ModelNotFound) as raised:
        find_model("letters:production")
    assert raised.value.code == "label_not_found"
    for fact in ("'letters:production'", "never", model.tag):
        assert fact in raised.value.message


def test_error_for_a_label_of_a_deleted_model_names_it(
    store: Path, caplog: pytest.LogCaptureFixture
) -> None:
    older, newer = stored(), stored()
    point(newer)
    bentoml.models.delete(newer.tag)

    with pytest.raises(ModelNotFound) as raised:
        find_model("letters:production")
    assert raised.value.code == "label_not_found"
    for fact in ("'letters:production'", newer.tag, older.tag):
        assert fact in raised.value.message
    assert find_model("letters") == older
    assert caplog.messages == [
        f"{newer.tag} is in production but not in the store; using the newest"
    ]


# Files


def test_bentoml_finds_what_was_saved_and_what_is_left(store: Path) -> None:
    older, newer = stored(), stored()
    assert str(bentoml.models.get("letters:latest").tag) == newer.tag
    assert sorted(str(model.tag) for model in bentoml.models.list()) == sorted(
        [older.tag, newer.tag]
    )

    remove_model(newer.tag)
    assert str(bentoml.models.get("letters").tag) == older.tag
    remove_model(older.tag)
    assert everything(store / "models") == []
    assert everything(store / "loupe") == []


def test_model_s_size_is_that_of_its_files(store: Path) -> None:
    model = stored()
    (model.folder / "pictures").mkdir()
    before = model.size_bytes
    (model.folder / "pictures" / "a.png").write_bytes(bytes(1000))

    assert before > 0
    assert model.size_bytes == before + 1000


def test_whole_model_is_verified(digits_model: StoredModel) -> None:
    assert set(digits_model.card.files) == {"model.keras", "model.onnx"}
    verify(digits_model)


@pytest.mark.parametrize("name", ["model.keras", "model.onnx"])
def test_changed_file_is_named(tmp_path: Path, digits_model: StoredModel, name: str) -> None:
    model = copied(digits_model, tmp_path)
    damage(model.folder / name)

    with pytest.raises(ModelCorrupted, match=rf"{model.tag}.*{name}.*SHA-256"):
        verify(model)


def test_missing_file_is_named(tmp_path: Path, digits_model: StoredModel) -> None:
    model = copied(digits_model, tmp_path)
    (model.folder / "model.onnx").unlink()

    with pytest.raises(
        ModelCorrupted, match=rf"^Model '{model.tag}' is corrupt: model\.onnx is missing\."
    ):
        verify(model)


def test_unlisted_file_does_not_corrupt_a_model(tmp_path: Path, digits_model: StoredModel) -> None:
    model = replace(digits_model, folder=copied(digits_model, tmp_path).folder)
    (model.folder / "notes.txt").touch()

    verify(model)


def test_empty_store_says_how_to_fill_it(tmp_path: Path) -> None:
    listed = run("models", BENTOML_HOME=tmp_path)

    assert listed.returncode == 0, listed.stderr
    assert listed.stdout == "The model store is empty. Train one: loupe train fashion-mnist\n"


# Files that are not the model's own


def lead_out(path: Path, outside: Path) -> None:
    outside.write_bytes(path.read_bytes())
    path.unlink()
    path.symlink_to(outside)


def lead_to_itself(path: Path, outside: Path) -> None:
    path.unlink()
    path.symlink_to(path)


def become_a_pipe(path: Path, outside: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def test_huge_card_is_not_read(store: Path) -> None:
    model = stored()
    with (model.folder / "card.json").open("ab") as file:
        file.truncate(2**40)

    with pytest.raises(ModelCorrupted, match=r"card\.json"):
        find_model(model.tag)


@pytest.mark.parametrize("change", [lead_out, lead_to_itself, become_a_pipe])
@pytest.mark.parametrize("name", ["model.onnx", "card.json", "model.yaml"])
def test_files_outside_of_a_model_and_pipes_are_not_read(
    store: Path, tmp_path: Path, change: Callable[[Path, Path], None], name: str
) -> None:
    model = stored()
    change(model.folder / name, tmp_path / "outside")

    with pytest.raises(ModelCorrupted, match=name):
        verify(find_model(model.tag))


@pytest.mark.parametrize("change", [lead_out, lead_to_itself, become_a_pipe])
def test_report_outside_of_a_model_is_none(
    store: Path, tmp_path: Path, change: Callable[[Path, Path], None]
) -> None:
    model = stored()
    report = model.folder / REPORT_FILE
    report.write_text("<html>")
    assert model.file(REPORT_FILE) == report
    change(report, tmp_path / "outside")

    assert model.file(REPORT_FILE) is None


def test_card_cannot_name_files_outside_of_the_model(store: Path, tmp_path: Path) -> None:
    model = stored()
    outside = tmp_path / "outside"
    outside.write_text("x")
    for name in (str(outside), f"../{model.version}/../../../../outside"):
        changed = model.card.model_copy(update={"files": {name: digest(outside)}})
        changed.save(model.folder)
        with pytest.raises(ModelCorrupted):
            verify(find_model(model.tag))


@pytest.mark.parametrize(
    "tag", ["..:1", "../letters:1", "/etc:passwd", "letters:../x", "letters\n:1", "", ":"]
)
def test_tags_cannot_name_other_folders(store: Path, tag: str) -> None:
    stored()
    with pytest.raises(ModelNotFound):
        find_model(tag)
