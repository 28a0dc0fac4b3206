"""The figures of one model, or of several side by side, for people.

Fields that a later card adds are shown without a change here.
"""

import string
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from pydantic import JsonValue

from loupe.models.card import ModelCard
from loupe.models.significance import margin, noise
from loupe.models.store import StoredModel
from loupe.terminal import Column

DIGEST_DIGITS = 12  # of 64: enough to see whether two are the same
NOT_MEASURED = "not measured"
MIN_DECIMAL = 1e-4  # smaller values need exponents to show anything in four digits
LETTERS = string.ascii_uppercase  # names of the models in a comparison
COMPARED = {  # figures beside the accuracy, and their headers
    "calibration_error": "calibration\nerror",
    "loss": "loss",
    "train_accuracy": "train\naccuracy",
    "size_megabytes": "size\nMB",
    "training_seconds": "training\nseconds",
}
Labels: TypeAlias = Mapping[str, Sequence[str]]
"""The labels that point at models, by tag."""


def shown(model: StoredModel, labels: list[str]) -> dict[str, JsonValue]:
    """Return a model, and the labels that point at it, as `--json` shows them."""
    return {
        "tag": model.tag,
        "labels": [*labels],
        "folder": str(model.folder),
        "size_bytes": model.size_bytes,
        "card": model.card.model_dump(mode="json"),
    }


def described(card: ModelCard) -> dict[str, dict[str, str]]:
    """Return the whole card as sections of names and values, by title."""
    return {
        "data": {
            "data set": card.dataset,
            "classes": f"{len(card.class_names)}: {', '.join(card.class_names)}",
            "look": card.input.look,
            "pixels": str(card.input),
            "source": card.source,
            "licence": card.licence,
        },
        "figures, on the test split": _figures(card),
        "training": {_words(name): text(value) for name, value in card.config.items()},
        "made with": dict(card.made_with),
        "files, SHA-256": {name: _digest(value) for name, value in card.files.items()},
    }


def compared(models: Sequence[StoredModel], labelled: Labels) -> tuple[list[Column], list[Column]]:
    """Return a table of the models with their figures, and one of the settings that differ."""
    letters = list(LETTERS[: len(models)])
    figures = [
        Column("", letters),
        Column("tag", [model.tag for model in models]),
        Column("label", [" ".join(labelled.get(model.tag, [])) for model in models]),
        Column("test accuracy", [accuracy(model.card) for model in models], justify="right"),
    ]
    numbers = [_numbers(model) for model in models]
    for rank, (name, header) in enumerate(COMPARED.items(), start=1):
        cells = [figure(name, each.get(name)) for each in numbers]
        figures.append(Column(header, cells, rank, justify="right"))
    settings = [{"data_set": model.card.dataset, **model.card.config} for model in models]
    names = dict.fromkeys(name for each in settings for name in each)
    differing = [
        name for name in names if any(s.get(name) != settings[0].get(name) for s in settings)
    ]
    columns = [Column("setting", [_words(name) for name in differing])]
    for letter, each in zip(letters, settings, strict=True):
        columns.append(Column(letter, [text(each.get(name)) for name in differing]))
    return figures, columns


def answer(models: Sequence[StoredModel]) -> Iterator[str]:
    """Yield sentences that say which of the models is the most accurate, if one is."""
    measured = {
        letter: model.card.figures
        for letter, model in zip(LETTERS, models, strict=False)
        if model.card.figures
    }
    if len(measured) < len(models):
        unmeasured = [model.tag for model in models if not model.card.figures]
        yield f"Not measured: {', '.join(unmeasured)}"
    if len({figures.test_digest for figures in measured.values()}) > 1:
        yield "The test sets differ: accuracy, loss and calibration error cannot be compared."
        return
    if len(measured) < 2:
        return
    best, *others = sorted(measured, key=lambda letter: -measured[letter].accuracy)
    top, images = measured[best].accuracy, measured[best].test_images
    behind = {letter: top - measured[letter].accuracy for letter in others}
    chance = {letter: noise(top, measured[letter].accuracy, images) for letter in others}
    equal = [letter for letter in others if behind[letter] <= chance[letter]]
    if not equal:
        second = others[0]
        yield (
            f"{best} is the most accurate: {behind[second]:.4f} better than {second}, where "
            f"±{chance[second]:.4f} is noise."
        )
        return
    last = equal[-1]
    yield (
        f"No difference beyond noise between {', '.join(sorted([best, *equal]))}: at most "
        f"{behind[last]:.4f}, where ±{chance[last]:.4f} is noise."
    )
    if worse := [letter for letter in others if letter not in equal]:
        yield f"Less accurate: {', '.join(worse)}."


def accuracy(card: ModelCard) -> str:
    """Return the test accuracy with two standard errors."""
    if card.figures is None:
        return "–"
    figures = card.figures
    return f"{figures.accuracy:.4f} ± {margin(figures.accuracy, figures.test_images):.4f}"


def figure(name: str, value: JsonValue) -> str:
    """Format a figure of a card with as many digits as its neighbours."""
    if not isinstance(value, float):
        return text(value)
    if name.endswith(("_seconds", "_megabytes")):
        return f"{value:,.1f}"
    return f"{value:.4f}" if not value or abs(value) >= MIN_DECIMAL else f"{value:.1e}"


def text(value: JsonValue) -> str:
    """Format a value of a card."""
    match value:
        case None:
            return "–"
        case bool():
            return "yes" if value else "no"
        case int():
            return f"{value:,}"
        case float():
            return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
        case list():
            return ", ".join(text(item) for item in value) or "–"
        case dict():
            return ", ".join(f"{name} {text(item)}" for name, item in value.items()) or "–"
        case _:
            return str(value)


def _numbers(model: StoredModel) -> dict[str, float]:
    figures = model.card.figures.model_dump(mode="json") if model.card.figures else {}
    numbers = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
    return numbers | {"size_megabytes": round(model.size_bytes / 1e6, 1)}


def _figures(card: ModelCard) -> dict[str, str]:
    if card.figures is None:
        return {"test": NOT_MEASURED}
    return {
        _words(name): _digest(value) if name.endswith("digest") else figure(name, value)
        for name, value in card.figures.model_dump(mode="json").items()
    }


def _words(name: str) -> str:
    return name.replace("_", " ")


def _digest(value: str) -> str:
    return value[:DIGEST_DIGITS] + "…"
