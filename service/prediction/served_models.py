"""The models that are served: each has its own engine and its own queue, and gives way to another without losing a request."""

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone

from loupe.errors import LoupeError, ModelCorrupted
from loupe.models.engine import load_engine
from loupe.models.store import (
    LATEST,
    StoredModel,
    find_model,
    labels,
    model_not_found,
    names,
    revision,
)
from loupe.runtime.cores import available_cores
from loupe.settings import Settings
from service.metrics import Metrics, ModelMetrics
from service.prediction.batching import Batcher

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class ServedModel:
    """A model, the queue in front of it, and since when it answers."""

    stored: StoredModel
    batcher: Batcher
    metrics: ModelMetrics
    since: datetime = field(default_factory=lambda: datetime.now(timezone.utc))
    _users: int = 0
    _left: asyncio.Event = field(default_factory=asyncio.Event)

    @contextmanager
    def in_use(self) -> Iterator["ServedModel"]:
        """A request in hand, until whose end the model stays, whatever takes its place."""
        self._users += 1
        try:
            yield self
        finally:
            self._users -= 1
            if not self._users:
                self._left.set()

    async def retire(self) -> None:
        """Wait for the requests in hand, and end."""
        while self._users:
            self._left.clear()
            await self._left.wait()
        await self.batcher.close()


@dataclass(frozen=True)
class _Choice:
    """What the store says is to be served.

    Attributes:
        models: By the tag that the settings or the store's names ask for.
        aliases: Full tags of what other tags stand for: names, labels, the newest versions.
    """

    models: dict[str, StoredModel]
    aliases: dict[str, str]


class ServedModels:
    """What is served, by every tag that a request may use for it.

    Which models those are is decided by the settings: tags are followed, so that whatever a name or a label stands for is served. A
    model that cannot be loaded leaves the one before it where it is.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self.default = ""
        self._followed: dict[str, ServedModel] = {}  # by the tag that is followed
        self._by_tag: dict[str, ServedModel] = {}  # by every tag that a request may use
        self._seen: object = None  # the store's revision that is served
        self._retiring: set[asyncio.Task[None]] = set()

    def load(self) -> None:
        """Load the models when the service starts.

        Raises:
            ModelCorrupted: If the default model's files have changed.
            ModelNotFound: If the store has no model to serve by default.
        """
        self.default = self._settings.default_tag or find_model().name
        find_model(self.default)
        self._seen = revision()
        choice = self._choose()
        self._flip(choice, self._load(choice))
        if self.default not in self._followed:
            raise model_not_found(self.default, self.tags())

    def find(self, tag: str | None) -> ServedModel:
        """The model of a tag, `name`, `name:version` or `name:label`, or the default model.

        Raises:
            ModelNotFound: If it is not served.
        """
        try:
            return self._by_tag[tag or self.default]
        except KeyError:
            raise model_not_found(tag, self.tags()) from None

    def all(self) -> list[ServedModel]:
        """Each once, by name and time."""
        return sorted(
            set(self._followed.values()),
            key=lambda served: (served.stored.name, served.stored.card.created),
        )

    def are_busy(self) -> bool:
        """Whether somebody waits for an answer of any of them."""
        return any(served.batcher.admitted for served in self._followed.values())

    def tags(self) -> list[str]:
        """The full tags of what is served."""
        return [served.stored.tag for served in self.all()]

    def aliases(self, served: ServedModel) -> list[str]:
        """The other tags that a model is found by."""
        return sorted(
            tag
            for tag, model in self._by_tag.items()
            if model is served and tag != served.stored.tag
        )

    async def follow(self) -> None:
        """Keep up with the store, for ever."""
        while True:
            await asyncio.sleep(self._settings.follow_seconds)
            try:
                await self.refresh()
            except Exception:  # whatever is wrong with the store, those that are served stay
                logger.exception("the model store could not be read")

    async def refresh(self) -> None:
        """Serve what the store says now."""
        seen = await asyncio.to_thread(revision)
        if seen == self._seen:
            return
        choice = await asyncio.to_thread(self._choose)
        self._flip(choice, await asyncio.to_thread(self._load, choice))
        self._seen = seen

    async def close(self) -> None:
        """Answer what waits."""
        await asyncio.gather(*(served.retire() for served in self.all()), *self._retiring)

    def _choose(self) -> _Choice:
        models = {}
        for tag in dict.fromkeys([self.default, *(self._settings.model_tags or names())]):
            try:
                models[tag] = find_model(tag)
            except LoupeError as error:
                logger.error("not serving %s: %s", tag, error)
        aliases = {
            f"{full.partition(':')[0]}:{label}": full
            for full, given in labels().items()
            for label in given
        }
        for name in {stored.name for stored in models.values()}:
            with suppress(ModelCorrupted):
                aliases |= {tag: find_model(tag).tag for tag in (name, f"{name}:{LATEST}")}
        return _Choice(models, aliases)

    def _load(self, choice: _Choice) -> dict[str, ServedModel]:
        """The models of a choice by their full tags, those that are served already among them; what is wrong with one is told."""
        loaded = {served.stored.tag: served for served in self._followed.values()}
        for stored in choice.models.values():
            if stored.tag in loaded:
                continue
            try:
                loaded[stored.tag] = self._open(stored)
            except Exception as error:  # noqa: BLE001 - a model is what somebody else made
                self._metrics.swapped(stored, succeeded=False)
                logger.error("not serving %s: %s", stored.tag, error)
        return loaded

    def _open(self, stored: StoredModel) -> ServedModel:
        settings = self._settings
        engine = load_engine(stored, settings.engine, threads=1)
        metrics = self._metrics.of(stored)
        batcher = Batcher(
            engine.predict,
            classes=len(stored.card.class_names),
            max_batch_size=settings.max_batch_size,
            max_queued_images=settings.max_queued_images,
            threads=settings.threads or available_cores(),
            together=settings.batching,
            observer=metrics,
        )
        return ServedModel(stored, batcher, metrics)

    def _flip(self, choice: _Choice, loaded: dict[str, ServedModel]) -> None:
        """From now on, requests find the new models; those in hand end where they began."""
        before = set(self._followed.values())
        for tag, stored in choice.models.items():
            if stored.tag in loaded:
                self._followed[tag] = loaded[stored.tag]
        by_tag = {served.stored.tag: served for served in self._followed.values()}
        for alias, full in choice.aliases.items():
            if full in by_tag:
                by_tag[alias] = by_tag[full]
        newest = {
            served.stored.name: served for served in self.all()
        }  # for names that stand for a version left out
        self._by_tag = {**newest, **by_tag, **self._followed}
        now = set(self._followed.values())
        for served in now - before:
            logger.info("serving %s", served.stored.tag)
        for served in before - now:
            self._metrics.swapped(served.stored, succeeded=True)
            logger.info("no longer serving %s", served.stored.tag)
            task = asyncio.create_task(served.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
