"""The served models, each with an engine and a queue, replaced without downtime."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import NamedTuple

from loupe.errors import LoupeError, ModelCorrupted
from loupe.models.answers import AnswerOptions
from loupe.models.certainty import Familiarity
from loupe.models.engines.engine import run_size
from loupe.models.engines.loading import load_engine
from loupe.models.explaining.nearest import Neighbours
from loupe.models.store import (
    LATEST,
    PRODUCTION,
    StoredModel,
    find_model,
    labels,
    model_not_found,
    names,
    revision,
)
from loupe.models.trials import Trial, check_comparable
from loupe.models.trials import running as running_trials
from loupe.runtime.cores import available_cores
from loupe.settings import Settings
from service.http.shares import part
from service.metrics import Metrics, ModelMetrics
from service.prediction.batching import Batcher
from service.prediction.decoding import MAX_IMAGE_BYTES
from service.prediction.statistics import Statistics
from service.prediction.trials import RunningTrial

logger = logging.getLogger(__name__)

MAX_QUEUED_REQUESTS = 2  # of `MAX_IMAGE_BYTES` and one caller, in front of one engine


@dataclass(eq=False)
class ServedModel:
    """A loaded model, the queue in front of it, what it did, and when it was loaded.

    `familiarity` is the card's, if the engine computes it; `neighbours` finds training pictures;
    `trial` is the one in which it takes part.
    """

    stored: StoredModel
    batcher: Batcher
    metrics: ModelMetrics
    statistics: Statistics
    familiarity: Familiarity | None
    neighbours: Neighbours
    since: datetime = field(default_factory=lambda: datetime.now(UTC))
    trial: RunningTrial | None = None
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


class _Chosen(NamedTuple):
    """The models to serve, by followed tag, the full tags of other tags, and the trials."""

    followed: dict[str, ServedModel]
    aliases: dict[str, str]
    tried: list[tuple[Trial, ServedModel]]


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
        self._trials: dict[str, RunningTrial] = {}  # by the tags whose requests are split
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
        self._swap(self._load_chosen())
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

    def choose(self, tag: str | None) -> ServedModel:
        """Return the model that answers a request for a tag; raise as `find` does."""
        trial = self._trials.get(tag or self.default)
        return self.find(tag) if trial is None else trial.choose()

    def all(self) -> list[ServedModel]:
        """Return all served models, by name and time of creation."""
        on_trial = (trial.candidate for trial in self._trials.values())
        return sorted({*self._followed.values(), *on_trial}, key=_name_and_age)

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
                self._swap(await asyncio.to_thread(self._load_chosen))
                self._revision = current

    async def close(self) -> None:
        """Answer what is queued, and close all models."""
        await asyncio.gather(*(served.retire() for served in self.all()), *self._retiring)

    def _load_chosen(self) -> "_Chosen":
        """Load the models that should be served now, and log those that cannot be."""
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
        its_names = {stored.name for stored in chosen.values()}
        for name in its_names:
            with suppress(ModelCorrupted):
                aliases |= {tag: find_model(tag).tag for tag in (name, f"{name}:{LATEST}")}
        loaded = {served.stored.tag: served for served in self.all()}
        followed = {tag: self._loaded(stored, loaded) for tag, stored in chosen.items()}
        tried: list[tuple[Trial, ServedModel]] = []
        for trial in running_trials():
            if trial.name in its_names:
                try:
                    candidate = self._loaded(find_model(trial.tag), loaded)
                except LoupeError as error:
                    logger.error("not trying %s: %s", trial.tag, error)
                    continue
                if candidate is not None:
                    tried.append((trial, candidate))
        found = {tag: served for tag, served in followed.items() if served is not None}
        return _Chosen(found, aliases, tried)

    def _loaded(self, stored: StoredModel, loaded: dict[str, ServedModel]) -> ServedModel | None:
        """Return the model from `loaded`, by full tag, or load it; `None` if it cannot be."""
        if stored.tag not in loaded:
            try:
                loaded[stored.tag] = self._open(stored)
            except Exception as error:  # noqa: BLE001 - a model may contain anything
                self._metrics.swapped(stored, succeeded=False)
                logger.error("not serving %s: %s", stored.tag, error)
        return loaded.get(stored.tag)

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

    def _swap(self, chosen: "_Chosen") -> None:
        """Replace the served models. Requests in flight keep the models they use."""
        before = set(self.all())
        tried_before = {trial.candidate for trial in self._trials.values()}
        self._followed |= chosen.followed
        followed = sorted(set(self._followed.values()), key=_name_and_age)
        by_full_tag = {served.stored.tag: served for served in followed}
        aliases = chosen.aliases.items()
        self._by_tag = {
            **{served.stored.name: served for served in followed},  # the newest of each name
            **by_full_tag,
            **{tag: by_full_tag[full] for tag, full in aliases if full in by_full_tag},
            **self._followed,
        }
        self._try(chosen.tried)
        now = set(self.all())
        for served in now - before:
            logger.info("serving %s", served.stored.tag)
        for served in before - now:
            if served not in tried_before:
                self._metrics.swapped(served.stored, succeeded=True)
            logger.info("no longer serving %s", served.stored.tag)
            task = asyncio.create_task(served.retire())
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    def _try(self, tried: list[tuple[Trial, ServedModel]]) -> None:
        """Split the requests for names and their production labels between two versions."""
        before = {trial.trial: trial for trial in self._trials.values()}
        self._trials = {}
        for served in set(self._by_tag.values()):
            served.trial = None
        for trial, candidate in tried:
            production = self._by_tag[trial.name]
            running = before.get(trial)
            if running is None or running.production is not production:
                try:
                    check_comparable(candidate.stored, production.stored)
                except LoupeError as error:
                    logger.error("not trying %s: %s", trial.tag, error)
                    continue
                running = RunningTrial(trial, production, candidate, self._metrics)
            production.trial = candidate.trial = running
            self._by_tag.setdefault(trial.tag, candidate)
            for tag in (trial.name, f"{trial.name}:{PRODUCTION}"):
                if self._by_tag.get(tag) is production:
                    self._trials[tag] = running


def _name_and_age(served: ServedModel) -> tuple[str, datetime]:
    return served.stored.name, served.stored.card.created
