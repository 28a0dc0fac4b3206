"""The figures of models in words: of one, or of two side by side. Fields that a later card has are shown without a change here."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, JsonValue, RootModel

from loupe.models.card import ModelCard
from loupe.models.store import StoredModel
from loupe.terminal import Column

DIGEST_DIGITS = 12  # of 64: enough to see whether two are the same
LEAST_DECIMAL = 1e-4  # what four digits after the point can tell
SIGNS = {
    "accuracy": 1,
    "loss": -1,
    "calibration_error": -1,
}  # of the test split: 1 where more is better
COST_SIGNS = {
    "training_seconds": -1,
    "size_megabytes": -1,
}  # these can be compared whatever the test split is


class Shown(BaseModel):
    """A model as `--json` shows it."""

    tag: str
    labels: list[str]
    folder: Path
    size_bytes: int
    card: ModelCard

    @classmethod
    def of(cls, model: StoredModel, labels: list[str]) -> "Shown":
        """A model and the labels that point at it."""
        return cls(
            tag=model.tag,
            labels=labels,
            folder=model.folder,
            size_bytes=model.size_bytes,
            card=model.card,
        )


class ShownList(RootModel[list[Shown]]):
    """The store as `--json` lists it."""


def described(card: ModelCard) -> dict[str, dict[str, str]]:
    """The whole card: by title the names and values of a section."""
    figures = card.figures.model_dump(mode="json")
    return {
        "data": {
            "data set": card.dataset,
            "classes": f"{len(card.class_names)}: {', '.join(card.class_names)}",
            "look": card.look,
            "source": card.source,
            "licence": card.licence,
        },
        "figures, on the test split": {
            _words(name): _digest(value) if name.endswith("digest") else figure(name, value)
            for name, value in figures.items()
        },
        "training": {_words(name): text(value) for name, value in card.config.items()},
        "made with": dict(card.made_with),
        "files, SHA-256": {name: _digest(value) for name, value in card.files.items()},
    }


def compared(a: StoredModel, b: StoredModel) -> tuple[list[Column], list[Column]]:
    """Two tables: the figures with their differences and which model is better, and the settings in which the two differ."""
    comparable = a.card.figures.test_digest == b.card.figures.test_digest
    signs = {**COST_SIGNS, **(SIGNS if comparable else dict.fromkeys(SIGNS, 0))}
    first, second = _numbers(a), _numbers(b)
    names = [name for name in first if name in second and (first[name] or second[name])]
    figures = [
        Column("", [_words(name) for name in names]),
        Column("A", [figure(name, first[name]) for name in names], justify="right"),
        Column("B", [figure(name, second[name]) for name in names], justify="right"),
        Column(
            "B − A",
            [_difference(name, first, second) if signs.get(name, 1) else "" for name in names],
            justify="right",
        ),
        Column(
            "better", [_better(signs.get(name, 0) * (second[name] - first[name])) for name in names]
        ),
    ]
    mine, theirs = _settings(a.card), _settings(b.card)
    differing = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    settings = [
        Column("", [_words(name) for name in differing]),
        Column("A", [text(mine.get(name)) for name in differing]),
        Column("B", [text(theirs.get(name)) for name in differing]),
    ]
    return figures, settings


def figure(name: str, value: JsonValue) -> str:
    """A figure of a card for people, with as many digits as its neighbours have."""
    if not isinstance(value, float):
        return text(value)
    if name.endswith(("_seconds", "_megabytes")):
        return f"{value:,.1f}"
    return f"{value:.4f}" if not value or abs(value) >= LEAST_DECIMAL else f"{value:.1e}"


def text(value: JsonValue) -> str:
    """A value of a card for people."""
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
    figures: Mapping[str, JsonValue] = model.card.figures.model_dump(mode="json")
    known = {name: value for name, value in figures.items() if isinstance(value, (int, float))}
    costs = {
        "training_seconds": model.card.figures.training_seconds,
        "size_megabytes": model.size_bytes / 1e6,
    }
    return {
        **known,
        **{name: round(cost, 1) for name, cost in costs.items()},
    }  # nobody pays for less


def _settings(card: ModelCard) -> dict[str, JsonValue]:
    return {"data_set": card.dataset, **card.config}


def _difference(name: str, first: Mapping[str, float], second: Mapping[str, float]) -> str:
    a, b = first[name], second[name]
    return "" if a == b else ("+" if b > a else "−") + figure(name, abs(b - a))


def _better(gain: float) -> str:
    return "B" if gain > 0 else "A" if gain < 0 else ""


def _words(name: str) -> str:
    return name.replace("_", " ")


def _digest(value: str) -> str:
    return value[:DIGEST_DIGITS] + "…"
