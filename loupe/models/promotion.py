"""What may be in production: a model gets the label only if it is better than the one that has it, and a model with a label stays."""

from dataclasses import dataclass
from datetime import datetime, timezone

from loupe.errors import LoupeError
from loupe.models import promotion_log as promotions
from loupe.models.promotion_log import OpenLog, PromotedFigures, Promotion
from loupe.models.store import (
    PRODUCTION,
    StoredModel,
    find_model,
    full_tag,
    list_models,
    promotions_path,
    remove_model,
    verify,
    versions,
)
from loupe.old_errors.core import (
    LabelInUse,
    NotBetter,
    NotComparable,
    NothingToRollBack,
    VersionNeeded,
)


@dataclass(frozen=True)
class RolledBack:
    """A label that went back: its line in the log, and the versions passed over because they are not in the store any more."""

    promotion: Promotion
    deleted: tuple[str, ...]


def promote(tag: str, *, force: bool = False) -> Promotion | None:
    """Put a model into production.

    Args:
        tag: As `find_model` takes it.
        force: Also if it is not better than the one in production, or was measured on another test set.

    Returns:
        Its line in the log, or nothing if it is in production already.

    Raises:
        ModelNotFound: If there is no such model.
        ModelCorrupted: If its files are not those that were saved.
        NotBetter: If its test accuracy is not above that of the model in production.
        NotComparable: If the two were measured on different test sets.
        StoreUnwritable: If it cannot be written down; nothing has changed.
    """
    with promotions.writing(
        promotions_path()
    ) as log:  # nobody promotes another or deletes it meanwhile
        model = find_model(tag)
        verify(model)
        before = promotions.pointers(log.history).get((model.name, PRODUCTION))
        if before is not None and before.to_version == model.version:
            return None
        refusal = _refusal(model, before)
        if refusal is not None and not force:
            raise refusal
        return _point(log, model, before, "promote", forced=refusal is not None)


def rollback(name: str) -> RolledBack:
    """Put into production what was there before: a second rollback goes a second step back.

    What was rolled back is no step any more: after promotions of A, B and C, two rollbacks lead to A, a promotion of D and another
    rollback to A again. Versions that are not in the store any more are passed over.

    Raises:
        NothingToRollBack: If there was no other version before, or none that is still there.
        ModelCorrupted: If its files are not those that were saved.
        StoreUnwritable: If it cannot be written down; nothing has changed.
    """
    with promotions.writing(promotions_path()) as log:
        before = promotions.pointers(log.history).get((name, PRODUCTION))
        if before is None:
            raise NothingToRollBack(name, None, [])
        current, there = before.to_version, versions(name)
        earlier = [
            version
            for version in promotions.standing(log.history, name, PRODUCTION)[-2::-1]
            if version != current
        ]
        target = next((version for version in earlier if version in there), None)
        deleted = earlier[: None if target is None else earlier.index(target)]
        gone = tuple(f"{name}:{version}" for version in dict.fromkeys(deleted))
        if target is None:
            raise NothingToRollBack(name, f"{name}:{current}", gone)
        model = find_model(f"{name}:{target}")
        verify(model)
        return RolledBack(_point(log, model, before, "rollback", forced=False), gone)


def delete(tag: str) -> str:
    """Remove a model from the store, also one that cannot be read; its full tag comes back.

    Raises:
        VersionNeeded: If the tag is a name only.
        ModelNotFound: If there is no such model.
        LabelInUse: If a label points at it.
        StoreUnwritable: If it cannot be removed.
    """
    if ":" not in tag:
        raise VersionNeeded(tag)
    tag = full_tag(tag)
    name, _, version = tag.partition(":")
    with promotions.writing(promotions_path()) as log:
        for (labelled, label), promotion in promotions.pointers(log.history).items():
            if (labelled, promotion.to_version) == (name, version):
                raise LabelInUse(
                    tag, label, [model.tag for model in list_models(name) if model.tag != tag]
                )
        remove_model(tag)
    return tag


def _refusal(model: StoredModel, before: Promotion | None) -> LoupeError | None:
    """Why a model should not follow the one in production; nothing can be said against the first, nor after one that is gone."""
    if before is None or before.to_version not in versions(model.name):
        return None
    current, figures = before.to_figures, model.card.figures
    production = f"{model.name}:{before.to_version}"
    if figures.test_digest != current.test_digest:
        return NotComparable(model.tag, figures.accuracy, production, current.accuracy)
    if figures.accuracy <= current.accuracy:
        return NotBetter(model.tag, figures.accuracy, production, current.accuracy)
    return None


def _point(
    log: OpenLog,
    model: StoredModel,
    before: Promotion | None,
    kind: promotions.Kind,
    *,
    forced: bool,
) -> Promotion:
    promotion = Promotion(
        time=datetime.now(timezone.utc),
        kind=kind,
        name=model.name,
        label=PRODUCTION,
        from_version=None if before is None else before.to_version,
        to_version=model.version,
        from_figures=None if before is None else before.to_figures,
        to_figures=PromotedFigures.of(model.card.figures),
        forced=forced,
    )
    log.append(promotion)
    return promotion
