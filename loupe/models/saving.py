"""Save models to the BentoML model store, in one step."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import bentoml
from bentoml._internal.models import ModelStore

from loupe.models.card import ModelCard
from loupe.models.promotion_log import store_unwritable
from loupe.models.store import LATEST, MODULE, models_folder, own_folder


@contextmanager
def new_model(name: str, card: ModelCard) -> Iterator[bentoml.Model]:
    """Save a model: write its files into `model.path` inside the block.

    The model enters the store, whole, when the block ends without an error.

    Raises:
        NotWritable: If a file cannot be written, inside the block or after it.
    """
    labels = {"dataset": card.dataset, "framework": "keras", "look": card.look}
    metadata = {
        "accuracy": card.figures.accuracy,
        "classes": len(card.class_names),
        "digests": dict(card.files),
    }
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
