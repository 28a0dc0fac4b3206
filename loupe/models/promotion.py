"""Promotion, rollback and deletion: only a better model replaces the one in production.

Better means more accurate on the same test images, by more than chance can explain.
"""

from datetime import UTC, datetime

from loupe.errors import Conflict, InvalidUsage
from loupe.models import promotion_log as promotions
from loupe.models.promotion_log import OpenLog, PromotedFigures, Promotion
from loupe.models.significance import noise
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
from loupe.models.trials import running


def promote(tag: str, *, force: bool = False) -> Promotion | None:
    """Put a model into production.

    Args:
        tag: As for `find_model`.
        force: Accept a model that is not better, was not measured, or on another test set.

    Returns:
        The log line, or `None` if the model is in production already.

    Raises:
        ModelNotFound: If there is no such model.
        ModelCorrupted: If its files differ from those that were saved.
        Conflict: If the model is not better, not comparable, or not measured.
        NotWritable: If the log cannot be written; nothing has changed.
    """
    with promotions.writing(promotions_path()) as log:  # excludes other promotions and deletions
        model = find_model(tag)
        verify(model)
        before = promotions.pointers(log.history).get((model.name, PRODUCTION))
        if before is not None and before.to_version == model.version:
            return None
        refusal = _refusal(model, before)
        if refusal is not None and not force:
            raise refusal
        return _point(log, model, before, "promote", forced=refusal is not None)


def promote_first(model: StoredModel) -> None:
    """Put a saved model into production if it is the first measured one of its name.

    If earlier versions were never promoted, the newest of them is, since it answered so far: a new
    version never replaces what is served.

    Raises:
        NotWritable: If the log cannot be written.
    """
    with promotions.writing(promotions_path()) as log:
        if (model.name, PRODUCTION) not in promotions.pointers(log.history):
            earlier = [
                each
                for each in list_models(model.name)
                if each.tag != model.tag and each.card.figures
            ]
            _point(log, earlier[0] if earlier else model, None, "promote", forced=False)


def rollback(name: str) -> tuple[Promotion, tuple[str, ...]]:
    """Put the previous version into production; a second rollback goes back one more step.

    Versions that were rolled back do not count: after promotions of A, B and C, two rollbacks lead
    to A; then a promotion of D and a rollback lead to A again. Deleted versions are skipped.

    Returns:
        The log line, and the full tags of the deleted versions that were skipped.

    Raises:
        Conflict: If no previous version is left in the store.
        ModelCorrupted: If its files differ from those that were saved.
        NotWritable: If the log cannot be written; nothing has changed.
    """
    with promotions.writing(promotions_path()) as log:
        before = promotions.pointers(log.history).get((name, PRODUCTION))
        if before is None:
            raise _nothing_to_roll_back(f"No version of '{name}' has been promoted.")
        current, existing = before.to_version, versions(name)
        past = promotions.standing(log.history, name, PRODUCTION)[-2::-1]
        earlier = [version for version in past if version != current]
        target = next((version for version in earlier if version in existing), None)
        deleted = earlier[: None if target is None else earlier.index(target)]
        gone = tuple(f"{name}:{version}" for version in dict.fromkeys(deleted))
        if target is None:
            raise _nothing_to_roll_back(
                f"{name}:{current} followed {', '.join(gone)}, which was deleted."
                if gone
                else f"{name}:{current} is the first version of '{name}' in production."
            )
        model = find_model(f"{name}:{target}")
        verify(model)
        return _point(log, model, before, "rollback", forced=False), gone


def delete(tag: str) -> str:
    """Remove a model from the store, even an unreadable one, and return its full tag.

    Raises:
        InvalidUsage: If the tag is only a name.
        ModelNotFound: If there is no such model.
        Conflict: If a label points at it, or it is on trial.
        NotWritable: If it cannot be removed.
    """
    if ":" not in tag:
        raise InvalidUsage(
            f"'{tag}' does not say which version. Give NAME:VERSION; `loupe models` lists them.",
            code="version_needed",
        )
    tag = full_tag(tag)
    name, _, version = tag.partition(":")
    with promotions.writing(promotions_path()) as log:
        for (labelled, label), promotion in promotions.pointers(log.history).items():
            if (labelled, promotion.to_version) == (name, version):
                raise _label_in_use(tag, label)
        if any(trial.tag == tag for trial in running()):
            raise Conflict(
                f"{tag} is on trial. End the trial: loupe models canary {name} --stop",
                code="on_trial",
            )
        remove_model(tag)
    return tag


def _label_in_use(tag: str, label: str) -> Conflict:
    others = [model.tag for model in list_models(tag.partition(":")[0]) if model.tag != tag]
    advice = f"It is the only version. To delete it nevertheless: bentoml models delete {tag}"
    if others:
        advice = f"First promote one of {', '.join(others)}: loupe models promote TAG"
    return Conflict(f"{tag} has the label '{label}'. {advice}", code="label_in_use")


def _nothing_to_roll_back(message: str) -> Conflict:
    return Conflict(message, code="nothing_to_roll_back")


def _refusal(model: StoredModel, before: Promotion | None) -> Conflict | None:
    """Return why a model must not go into production, or not follow the one that is there."""
    figures = model.card.figures
    advice = f"Promote it nevertheless: loupe models promote {model.tag} --force"
    if figures is None:
        return Conflict(
            f"{model.tag} was not measured, so nobody knows how good it is. Import it again with "
            f"--test. {advice}",
            code="not_measured",
        )
    if before is None or before.to_version not in versions(model.name):
        return None
    current = before.to_figures
    production = f"{model.name}:{before.to_version}"
    if current is None:
        return Conflict(
            f"{production}, which is in production, was not measured, so {model.tag} cannot be "
            f"compared with it. {advice}",
            code="not_comparable",
        )
    # Six digits are as exact as a test set can be.
    mine, theirs = f"{figures.accuracy:.6g}", f"{current.accuracy:.6g}"
    if figures.test_digest != current.test_digest:
        return Conflict(
            f"{model.tag} and {production}, which is in production, were measured on different "
            f"test sets: accuracies {mine} and {theirs} cannot be compared. {advice}",
            code="not_comparable",
        )
    chance = noise(figures.accuracy, current.accuracy, figures.test_images)
    if figures.accuracy - current.accuracy > chance:
        return None
    is_more = f", which chance can explain: differences below {chance:.2g} are noise"
    return Conflict(
        f"{model.tag} is not better than {production}, which is in production: its accuracy on "
        f"the same {figures.test_images:,} test images is {mine}, against {theirs}"
        f"{is_more if figures.accuracy > current.accuracy else ''}. {advice}",
        code="not_better",
    )


def _point(
    log: OpenLog,
    model: StoredModel,
    before: Promotion | None,
    kind: promotions.Kind,
    *,
    forced: bool,
) -> Promotion:
    promotion = Promotion(
        time=datetime.now(UTC),
        kind=kind,
        name=model.name,
        label=PRODUCTION,
        from_version=before.to_version if before else None,
        to_version=model.version,
        from_figures=before.to_figures if before else None,
        to_figures=(
            PromotedFigures.model_validate(model.card.figures) if model.card.figures else None
        ),
        forced=forced,
    )
    log.append(promotion)
    return promotion
