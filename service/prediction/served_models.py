"""The served models, each with an engine and a queue, replaced without downtime."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from loupe.errors import LoupeError, ModelCorrupted
from loupe.models.answers import AnswerOptions
from loupe.models.certainty import Familiarity
from loupe.models.engine import load_engine, run_size
from loupe.models.explaining.nearest import Neighbours
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
from service.http.shares import part
from service.metrics import Metrics, ModelMetrics
from service.prediction.batching import Batcher
from service.prediction.decoding import MAX_IMAGE_BYTES
from service.prediction.statistics import Statistics

logger = logging.getLogger(__name__)

MAX_QUEUED_REQUESTS = 2  # of `MAX_IMAGE_BYTES` and one caller, in front of one engine


@dataclass(eq=False)
class ServedModel:
    """A loaded model, the queue in front of it, what it did, and when it was loaded.

    `familiarity` is the card's, if the engine computes it; `neighbours` finds training pictures.
    """

    stored: StoredModel
    batcher: Batcher
    metrics: ModelMetrics
    statistics: Statistics
    familiarity: Familiarity | None
    neighbours: Neighbours
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    _requests: int = 0
    _unused: asyncio.Event = field(default_factory=asyncio.Event)

    def __enter__(self) -> "ServedModel":
        """Keep the model loaded for a request."""
        self._requests += 1
        return self

    def __exit__(self, *_: object) -> None:
        """End the request."""
        self._requests -= 1
        if not self._requests:
            self._unused.set()

    def check(self, options: AnswerOptions) -> None:
        """Raise `InvalidRequest` if this model cannot answer with these options."""
        options.check(self.stored.card, self.familiarity)

    async def retire(self) -> None:
        """Wait until no request uses the model, and close its queue."""
        while self._requests:
            self._unused.clear()
            await self._unused.wait()
        await self.batcher.close()


class ServedModels:
    """The served models, found by every tag that a request may use.

    The settings name the tags to follow. When a tag gets another version, that version replaces
    the old one; if it cannot be loaded, the old one stays.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        self._settings = settings
        self._metrics = metrics
        self.default = ""
        self._followed: dict[str, ServedModel] = {}  # by followed tag
        self._by_tag: dict[str, ServedModel] = {}  # by every tag
        self._revision: object = None  # of the store, when it was last read
        self._retiring: set[asyncio.Task[None]] = set()
        self._refreshing = asyncio.Lock()  # a model is loaded once

    def load(self) -> None:
        """Load the models when the service starts.

        Raises:
            ModelCorrupted: If the default model's files have changed.
            ModelNotFound: If the store has no model to serve by default.
        """
        self.default = self._settings.default_tag or find_model().name
        find_model(self.default)  # raises the reason why it cannot be served
        self._revision = revision()
        self._swap(*self._load_chosen())
        if self.default not in self._followed:
            raise model_not_found(self.default, self.tags())

    def find(self, tag: str | None) -> ServedModel:
        """Return the model with a tag (`name`, `name:version`, `name:label`), or the default one.

        Raises:
            ModelNotFound: If it is not served.
        """
        try:
            return self._by_tag[tag or self.default]
        except KeyError:
            raise model_not_found(tag, self.tags()) from None

    def all(self) -> list[ServedModel]:
        """Return all served models, by name and time of creation."""
        return sorted(
            set(self._followed.values()),
            key=lambda served: (served.stored.name, served.stored.card.created),
        )

    def versions(self, tag: str) -> list[ServedModel]:
        """Return the version with a tag, or all served versions of a name.

        Raises:
            ModelNotFound: If it is not served.
        """
        named = [served for served in self.all() if served.stored.name == tag]
        return named or [self.find(tag)]

    def tags(self) -> list[str]:
        """Return the full tags of the served models."""
        return [served.stored.tag for served in self.all()]

    def aliases(self, served: ServedModel) -> list[str]:
        """Return the other tags of a model."""
        found = (tag for tag, model in self._by_tag.items() if model is served)
        return sorted(tag for tag in found if tag != served.stored.tag)

    async def follow(self) -> None:
        """Serve new versions as they appear in the store; runs until it is cancelled."""
        while True:
            await asyncio.sleep(self._settings.follow_seconds)
            try:
                await self.refresh()
            except Exception:  # keep the served models if the store cannot be read
                logger.exception("the model store could not be read")

    async def refresh(self) -> None:
        """Serve what is in the store now, if it has changed."""
        async with self._refreshing:
            current = await asyncio.to_thread(revision)
            if current != self._revision:
                self._swap(*await asyncio.to_thread(self._load_chosen))
                self._revision = current

    async def close(self) -> None:
        """Answer what is queued, and close all models."""
        await asyncio.gather(*(served.retire() for served in self.all()), *self._retiring)

    def _load_chosen(self) -> tuple[dict[str, ServedModel], dict[str, str]]:
        """Load the models that should be served now, and log those that cannot be.

        Returns:
            The models by followed tag, and the full tags of names and labels.
        """
        chosen: dict[str, StoredModel] = {}
        for tag in dict.fromkeys([self.default, *(self._settings.model_tags or names())]):
            try:
                chosen[tag] = find_model(tag)
            except LoupeError as error:
                logger.error("not serving %s: %s", tag, error)
        aliases = {
            f"{full.partition(':')[0]}:{label}": full
            for full, given in labels().items()
            for label in given
        }
        for name in {stored.name for stored in chosen.values()}:
            with suppress(ModelCorrupted):
                aliases |= {tag: find_model(tag).tag for tag in (name, f"{name}:{LATEST}")}
        by_full_tag = {served.stored.tag: served for served in self._followed.values()}
        for stored in chosen.values():
            if stored.tag not in by_full_tag:
                try:
                    by_full_tag[stored.tag] = self._open(stored)
                except Exception as error:  # noqa: BLE001 - a model may contain anything
                    self._metrics.swapped(stored, succeeded=False)
                    logger.error("not serving %s: %s", stored.tag, error)
        loaded = {
            tag: by_full_tag[stored.tag]
            for tag, stored in chosen.items()
            if stored.tag in by_full_tag
        }
        return loaded, aliases

    def _open(self, stored: StoredModel) -> ServedModel:
        settings = self._settings
        engine = load_engine(stored, settings.engine, threads=1)
        metrics, statistics = self._metrics.of(stored), Statistics()
        spec = stored.card.input

        max_bytes = part(MAX_QUEUED_REQUESTS, settings.processes) * MAX_IMAGE_BYTES

        def ran(images: int, waited: Sequence[float], seconds: float) -> None:
            metrics.ran(images, waited, seconds)
            statistics.ran(images, waited, seconds)

        batcher = Batcher(
            engine.run,
            classes=engine.classes,
            max_batch_size=run_size(spec, settings.max_batch_size),
            max_queued_images=min(settings.max_queued_images, max_bytes // spec.nbytes),
            threads=settings.threads or available_cores(),
            together=settings.batching,
            on_run=ran,
        )
        neighbours = Neighbours(stored, engine)
        return ServedModel(stored, batcher, metrics, statistics, engine.familiarity, neighbours)

    def _swap(self, loaded: dict[str, ServedModel], aliases: dict[str, str]) -> None:
        """Replace the served models. Requests in flight keep the models they use."""
        before = set(self._followed.values())
        self._followed |= loaded
        by_full_tag = {served.stored.tag: served for served in self._followed.values()}
        self._by_tag = {
            **{served.stored.name: served for served in self.all()},  # the newest of each name
            **by_full_tag,
            **{tag: by_full_tag[full] for tag, full in aliases.items() if full in by_full_tag},
            **self._followed,
        }
        now = set(self._followed.values())
        for served in now - before:
            logger.info("serving %s", served.stored.tag)
        for served in before - now:
            self._metrics.swapped(served.stored, succeeded=True)
            logger.info("no longer serving %s", served.stored.tag)
            task = asyncio.create_task(served.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)
