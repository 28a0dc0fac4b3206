"""The models that a worker process has at hand."""

from collections import OrderedDict

from loupe.models.card import FILE_NAME, digest
from loupe.models.engine import Engine, EngineName, load_engine
from loupe.models.store import (
    StoredModel,
    find_model,
    list_models,
    model_corrupted,
    model_not_found,
)

MOST_ENGINES = 3  # jobs of more models at a time are rare, and each engine keeps some megabytes for each thread


class Engines:
    """At most `MOST_ENGINES` models with their engines; the one that was not used for the longest time makes room.

    Args:
        name: Which engine.
    """

    def __init__(self, name: EngineName) -> None:
        self._name = name
        self._loaded: OrderedDict[str, tuple[StoredModel, Engine]] = OrderedDict()

    def get(self, tag: str, card_digest: str) -> tuple[StoredModel, Engine]:
        """The same as `stored`, with its engine. Its files are verified when it is loaded, its card each time.

        Args:
            tag: Of the model.
            card_digest: SHA-256 of the card that it has to have.

        Raises:
            ModelNotFound: If it is not in the store, or not any more.
            ModelCorrupted: If its card is another one, or a file is not the one that was saved.
        """
        if tag not in self._loaded:
            model = stored(tag, card_digest)
            self._loaded[tag] = model, load_engine(model, self._name, threads=1)
            if len(self._loaded) > MOST_ENGINES:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(tag)
        model, engine = self._loaded[tag]
        _check(model, card_digest)
        return model, engine


def stored(tag: str, card_digest: str) -> StoredModel:
    """The model of a full tag and no other, for whoever needs only its card.

    Args:
        tag: Of the model.
        card_digest: SHA-256 of the card that it has to have.

    Raises:
        ModelNotFound: If it is not in the store, or not any more.
        ModelCorrupted: If its card is another one.
    """
    model = find_model(tag)
    _check(model, card_digest)
    return model


def _check(model: StoredModel, card_digest: str) -> None:
    try:
        found = digest(model.folder / FILE_NAME)
    except FileNotFoundError as error:
        raise model_not_found(model.tag, [other.tag for other in list_models()]) from error
    if found != card_digest:
        raise model_corrupted(model.tag, FILE_NAME, "is not the one the job was submitted with")
