"""Save models to the BentoML model store, in one step."""

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import bentoml
from bentoml._internal.models import ModelStore

from loupe.errors import Conflict, InvalidUsage
from loupe.models.card import ModelCard
from loupe.models.promotion_log import store_unwritable
from loupe.models.store import (
    KERAS_FILE,
    LATEST,
    MODULE,
    list_models,
    models_folder,
    own_folder,
)
from loupe.text import one_line

MAX_NAME_LENGTH = 63  # BentoML's
NAME = re.compile(rf"[a-z0-9]([a-z0-9._-]{{0,{MAX_NAME_LENGTH - 2}}}[a-z0-9])?")
MAX_SHOWN_CLASSES = 5  # in an error


@contextmanager
def new_model(
    name: str, card: ModelCard, *, replace_classes: bool = False
) -> Iterator[bentoml.Model]:
    """Save a model: write its files into `model.path` inside the block.

    The model enters the store, whole, when the block ends without an error.

    Raises:
        Conflict: If the name has other classes, unless they may be replaced.
        NotWritable: If a file cannot be written, inside the block or after it.
    """
    if not replace_classes:
        check_classes(name, card.class_names)
    framework = "keras" if KERAS_FILE in card.files else "onnx"
    labels = {"dataset": card.dataset, "framework": framework, "look": card.input.look}
    metadata = {"classes": len(card.class_names), "digests": dict(card.files)}
    if card.figures:
        metadata["accuracy"] = card.figures.accuracy
    try:
        # BentoML copies file by file, so a killed process would leave half a model in the store.
        # Save into a temporary store, then move the folder in one step.
        with tempfile.TemporaryDirectory(dir=own_folder(), prefix="saving-") as temporary:
            store = ModelStore(temporary)
            with bentoml.models.create(
                name, module=MODULE, labels=labels, metadata=metadata, _model_store=store
            ) as model:
                card.save(Path(model.path))
                yield model
            _enter(Path(temporary), model.tag)
    except FileNotFoundError:
        raise  # the block failed to read something, which does not concern the store
    except OSError as error:
        raise store_unwritable(error, models_folder()) from error


def check_name(name: str | None) -> None:
    """Check that BentoML accepts a name that a user gave.

    Raises:
        InvalidUsage: If it does not.
    """
    if name is not None and not NAME.fullmatch(name):
        raise InvalidUsage(
            f"A model cannot have the name {name[:MAX_NAME_LENGTH]!r}. Use 1 to {MAX_NAME_LENGTH} "
            "lower-case letters, digits, '-', '_' and '.', with a letter or digit at both ends.",
            code="invalid_model_name",
        )


def check_classes(name: str, class_names: Sequence[str]) -> None:
    """Check before a training that the models of a name, if there are any, have these classes.

    Raises:
        Conflict: If they have others.
    """
    known = list_models(name)[:1]
    if known and known[0].card.class_names != tuple(class_names):
        theirs, ours = _listed(known[0].card.class_names), _listed(class_names)
        raise Conflict(
            f"{known[0].tag} has the classes {theirs}, the new model has {ours}. Give the new "
            "model another name with --name, or replace the classes with --replace-classes.",
            code="name_in_use",
        )


def _listed(class_names: Sequence[str]) -> str:
    shown = one_line(", ".join(class_names[:MAX_SHOWN_CLASSES]))
    more = len(class_names) - MAX_SHOWN_CLASSES
    return f"{shown} and {more} more" if more > 0 else shown


def check_writable() -> None:
    """Check before a training that a model can be saved after it.

    Raises:
        NotWritable: If it cannot.
    """
    try:
        for folder in (models_folder(), own_folder()):
            with tempfile.TemporaryFile(dir=folder) as file:
                file.write(b"\n")
    except OSError as error:
        raise store_unwritable(error, models_folder()) from error


def _enter(temporary: Path, tag: bentoml.Tag) -> None:
    """Move a whole model from a temporary store into the real one, in one step."""
    folder = models_folder() / tag.path()
    folder.parent.mkdir(exist_ok=True)
    (temporary / tag.path()).rename(folder)
    (temporary / tag.latest_path()).replace(folder.parent / LATEST)
