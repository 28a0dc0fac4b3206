"""The BentoML model store: save, find, list and verify models. No other module knows the store's folders."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import bentoml
from bentoml.exceptions import BentoMLException, NotFound

from loupe.card import ModelCard, digest
from loupe.errors import ModelCorrupted, ModelNotFound

logger = logging.getLogger(__name__)

KERAS_FILE = "model.keras"
ONNX_FILE = "model.onnx"
MODULE = "loupe.store"  # how BentoML names the code that understands a stored model


@dataclass(frozen=True)
class StoredModel:
    """A model in the store: its full tag `name:version`, its folder and its card."""

    tag: str
    folder: Path
    card: ModelCard

    @property
    def name(self) -> str:
        """The tag without its version."""
        return self.tag.partition(":")[0]


@contextmanager
def new_model(name: str, card: ModelCard) -> Iterator[bentoml.Model]:
    """A model being saved: write its files into `model.path`; it enters the store when the block ends without an error."""
    labels = {"dataset": card.dataset, "framework": "keras", "look": card.look}
    metadata = {
        "accuracy": card.figures.accuracy,
        "classes": len(card.class_names),
        "digests": dict(card.files),
    }
    with bentoml.models.create(name, module=MODULE, labels=labels, metadata=metadata) as model:
        card.save(Path(model.path))
        yield model


def find_model(tag: str | None = None) -> StoredModel:
    """The model of a tag.

    Args:
        tag: `name:version`, `name` for its newest version, or nothing for the newest of all.

    Raises:
        ModelNotFound: If there is none.
        ModelCorrupted: If its card cannot be read.
    """
    if tag is None:
        newest = list_models()
        if not newest:
            raise ModelNotFound(None, [])
        return newest[0]
    try:
        return _read(bentoml.models.get(tag))
    except (NotFound, BentoMLException, ValueError) as error:
        raise ModelNotFound(tag, [model.tag for model in list_models()]) from error


def list_models() -> list[StoredModel]:
    """All readable models that Loupe saved, newest first. Models of other programs in the same store are passed over."""
    ours = [model for model in bentoml.models.list() if model.info.module == MODULE]
    ours.sort(key=lambda model: model.creation_time, reverse=True)
    readable = []
    for model in ours:
        try:
            readable.append(_read(model))
        except ModelCorrupted as error:
            logger.warning("%s", error)
    return readable


def verify(model: StoredModel) -> None:
    """Check that every file of a model is the one that was saved.

    Raises:
        ModelCorrupted: If one is missing or differs; the message names it.
    """
    for name, expected in model.card.files.items():
        path = model.folder / name
        if not path.is_file():
            raise ModelCorrupted(model.tag, name, "is missing")
        if digest(path) != expected:
            raise ModelCorrupted(model.tag, name, "is not the file that was saved (its SHA-256 differs)")


def _read(model: bentoml.Model) -> StoredModel:
    folder = Path(model.path)
    try:
        card = ModelCard.load(folder)
    except (OSError, ValueError) as error:
        raise ModelCorrupted(str(model.tag), "card.json", f"cannot be read ({error.__class__.__name__})") from error
    return StoredModel(str(model.tag), folder, card)
