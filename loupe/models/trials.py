"""Trials: a version takes a share of the requests before it goes into production.

A `canary` answers them. A `shadow` computes the same images after production has answered, and
nobody sees its answers. Services compare both versions, and end a trial that goes wrong. A file of
JSON per name holds its trial, or how the last one ended.
"""

from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError

from loupe.errors import Conflict, InvalidUsage, NotFound
from loupe.files import write_atomically
from loupe.models.promotion_log import store_unwritable
from loupe.models.store import PRODUCTION, StoredModel, find_model, trials_folder, verify
from loupe.models.trial_defaults import CANARY_SHARE, MAX_DISAGREEMENT, MAX_SLOWDOWN, SHADOW_SHARE

Kind = Literal["canary", "shadow"]
Reason = Literal["stopped", "replaced", "disagreement", "failures", "slow"]
DEFAULT_SHARES: dict[Kind, float] = {"canary": CANARY_SHARE, "shadow": SHADOW_SHARE}


class Trial(BaseModel):
    """A trial of one version, or how it ended.

    Attributes:
        name: Name of the model.
        version: The version on trial.
        kind: Whether it answers, or only computes.
        share: Share of the requests, above 0 and at most 1.
        max_disagreement: Share of images, 0..1, with another best class than in production, beyond
            which the trial ends.
        max_slowdown: Engine time per image over that of production, beyond which it ends.
        started: When it began, UTC.
        ended: When it ended, UTC.
        reason: Why it ended.
        compared: Images that both versions computed in the service that ended it.
        disagreed: Of these, images with another best class.
    """

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    name: str
    version: str
    kind: Kind
    share: float = Field(gt=0, le=1)
    max_disagreement: float = Field(default=MAX_DISAGREEMENT, ge=0, le=1)
    max_slowdown: float = Field(default=MAX_SLOWDOWN, ge=1)
    started: AwareDatetime
    ended: AwareDatetime | None = None
    reason: Reason | None = None
    compared: int = 0
    disagreed: int = 0

    @property
    def tag(self) -> str:
        """Full tag of the version on trial."""
        return f"{self.name}:{self.version}"


def begin(
    tag: str,
    kind: Kind,
    share: float | None = None,
    max_disagreement: float = MAX_DISAGREEMENT,
    max_slowdown: float = MAX_SLOWDOWN,
) -> Trial:
    """Begin the trial of a version; it replaces another trial of the same name.

    Args:
        tag: As for `find_model`.
        kind: See `Trial`.
        share: See `Trial`; by default that of `DEFAULT_SHARES`.
        max_disagreement: See `Trial`.
        max_slowdown: See `Trial`.

    Raises:
        Conflict: If the version is in production, or has other classes or another input.
        InvalidUsage: If a number is outside its range.
        ModelCorrupted: If its files differ from those that were saved.
        ModelNotFound: If there is no such model, or none of its name is in production.
        NotWritable: If the trial cannot be saved.
    """
    model = find_model(tag)
    check_comparable(model, find_model(f"{model.name}:{PRODUCTION}"))
    verify(model)
    try:
        trial = Trial(
            name=model.name,
            version=model.version,
            kind=kind,
            share=DEFAULT_SHARES[kind] if share is None else share,
            max_disagreement=max_disagreement,
            max_slowdown=max_slowdown,
            started=datetime.now(UTC),
        )
    except ValidationError as error:
        problems = (f"{each['loc'][0]}: {each['msg']}" for each in error.errors())
        raise InvalidUsage("; ".join(problems)) from error
    _write(trial)
    return trial


def check_comparable(model: StoredModel, production: StoredModel) -> None:
    """Raise `Conflict` if a version cannot take requests for the one in production."""
    if model.tag == production.tag:
        raise Conflict(f"{model.tag} is in production already.", code="in_production")
    for what in ("class_names", "input"):
        if getattr(model.card, what) != getattr(production.card, what):
            raise Conflict(
                f"{model.tag} cannot take requests for {production.tag}: they differ in {what}.",
                code="not_comparable",
            )


def stop(name: str) -> Trial:
    """End the trial of a name.

    Raises:
        NotFound: If there is no such trial.
        NotWritable: If it cannot be saved.
    """
    trial = find(name)
    if trial is None or trial.ended:
        raise NotFound(f"No version of '{name}' is on trial.", code="trial_not_found")
    return end(trial, "stopped")


def end(trial: Trial, reason: Reason, compared: int = 0, disagreed: int = 0) -> Trial:
    """Save that a trial has ended, unless another one has started or it has ended already.

    Raises:
        NotWritable: If it cannot be saved.
    """
    ended = trial.model_copy(
        update={
            "ended": datetime.now(UTC),
            "reason": reason,
            "compared": compared,
            "disagreed": disagreed,
        }
    )
    if find(trial.name) == trial:
        _write(ended)
    return ended


def find(name: str) -> Trial | None:
    """Return the trial of a name, or the last one that ended."""
    return _read(_path(name))


def all_trials() -> list[Trial]:
    """Return the trial of each name, or the last one that ended, by name."""
    paths = sorted(trials_folder().glob("*.json"))
    return [trial for trial in map(_read, paths) if trial is not None]


def running() -> list[Trial]:
    """Return the trials that have not ended."""
    return [trial for trial in all_trials() if trial.ended is None]


def _read(path: Path) -> Trial | None:
    try:
        return Trial.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise Conflict(
            f"'{path}' is not the record of a trial. Delete it.", code="trial_corrupted"
        ) from error
    except OSError as error:
        raise store_unwritable(error, path) from error


def _write(trial: Trial) -> None:
    path = _path(trial.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, trial.model_dump_json(indent=1), sync=True)
    except OSError as error:
        raise store_unwritable(error, path) from error


def _path(name: str) -> Path:
    return trials_folder() / f"{name}.json"
