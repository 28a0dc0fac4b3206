"""The models that a worker process keeps loaded."""

from functools import lru_cache

from loupe.models.card import FILE_NAME, digest
from loupe.models.engines.engine import Engine
from loupe.models.engines.loading import load_engine
from loupe.models.store import (
    StoredModel,
    find_model,
    list_models,
    model_corrupted,
    model_not_found,
)
from loupe.settings import EngineName

MAX_ENGINES = 3  # each keeps some megabytes per thread; more models in turn are rare


class Engines:
    """A cache of the `MAX_ENGINES` most recently used models.

    Args:
        name: The engine to run them with.
    """

    def __init__(self, name: EngineName) -> None:
        self._name = name
        self._load = lru_cache(MAX_ENGINES)(self._load_uncached)

    def get(self, tag: str, card_digest: str) -> tuple[StoredModel, Engine]:
        """Return a model and its engine; verify its files when it is loaded, its card each time.

        Args:
            tag: Full tag of the model.
            card_digest: SHA-256 that its card must have.

        Raises:
            ModelNotFound: If it is not in the store.
            ModelCorrupted: If its card or a file has changed.
        """
        model, engine = self._load(tag, card_digest)
        check_card(model, card_digest)
        return model, engine

    def _load_uncached(self, tag: str, card_digest: str) -> tuple[StoredModel, Engine]:
        model = find_stored(tag, card_digest)
        return model, load_engine(model, self._name, threads=1)


def find_stored(tag: str, card_digest: str) -> StoredModel:
    """Return a model without loading it; arguments and errors are those of `Engines.get`."""
    model = find_model(tag)
    check_card(model, card_digest)
    return model


def check_card(model: StoredModel, card_digest: str) -> None:
    """Raise `ModelCorrupted` or `ModelNotFound` unless the model has the card of this digest."""
    try:
        found = digest(model.folder / FILE_NAME)
    except FileNotFoundError as error:
        raise model_not_found(model.tag, [other.tag for other in list_models()]) from error
    if found != card_digest:
        raise model_corrupted(
            model.tag, FILE_NAME, "is not the one that the job was submitted with"
        )
