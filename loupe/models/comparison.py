"""The figures of one model, or of two side by side, for people.

Fields that a later card adds are shown without a change here.
"""

from collections.abc import Mapping

from pydantic import JsonValue

from loupe.models.card import ModelCard
from loupe.models.store import StoredModel
from loupe.terminal import Column

DIGEST_DIGITS = 12  # of 64: enough to see whether two are the same
NOT_MEASURED = "not measured"
MIN_DECIMAL = 1e-4  # smaller values need exponents to show anything in four digits
SIGNS = {"accuracy": 1, "loss": -1, "calibration_error": -1}  # on the test split; 1: more is better
COST_SIGNS = {"training_seconds": -1, "size_megabytes": -1}  # comparable on any test split


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


def compared(a: StoredModel, b: StoredModel) -> tuple[list[Column], list[Column]]:
    """Return a table of figures that says which model is better, and one of differing settings."""
    signs = COST_SIGNS | (SIGNS if comparable(a.card, b.card) else dict.fromkeys(SIGNS, 0))
    first, second = _numbers(a), _numbers(b)
    names = [name for name in first if name in second and (first[name] or second[name])]
    gains = {name: signs.get(name, 0) * (second[name] - first[name]) for name in names}
    figures = [
        Column("", [_words(name) for name in names]),
        Column("A", [figure(name, first[name]) for name in names], justify="right"),
        Column("B", [figure(name, second[name]) for name in names], justify="right"),
        Column(
            "B − A",
            [_difference(name, first, second) if signs.get(name, 1) else "" for name in names],
            justify="right",
        ),
        Column("better", ["A" if gain < 0 else "B" if gain else "" for gain in gains.values()]),
    ]
    mine = {"data_set": a.card.dataset, **a.card.config}
    theirs = {"data_set": b.card.dataset, **b.card.config}
    differing = [name for name in {**mine, **theirs} if mine.get(name) != theirs.get(name)]
    settings = [
        Column("", [_words(name) for name in differing]),
        Column("A", [text(mine.get(name)) for name in differing]),
        Column("B", [text(theirs.get(name)) for name in differing]),
    ]
    return figures, settings


def comparable(a: ModelCard, b: ModelCard) -> bool:
    """Return whether two models were measured on the same test images."""
    return bool(a.figures and b.figures and a.figures.test_digest == b.figures.test_digest)


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
    # Costs are rounded so that negligible differences do not make one model better.
    if "training_seconds" in numbers:
        numbers["training_seconds"] = round(numbers["training_seconds"], 1)
    return numbers | {"size_megabytes": round(model.size_bytes / 1e6, 1)}


def _figures(card: ModelCard) -> dict[str, str]:
    if card.figures is None:
        return {"test": NOT_MEASURED}
    return {
        _words(name): _digest(value) if name.endswith("digest") else figure(name, value)
        for name, value in card.figures.model_dump(mode="json").items()
    }


def _difference(name: str, first: Mapping[str, float], second: Mapping[str, float]) -> str:
    a, b = first[name], second[name]
    return "" if a == b else ("+" if b > a else "−") + figure(name, abs(b - a))


def _words(name: str) -> str:
    return name.replace("_", " ")


def _digest(value: str) -> str:
    return value[:DIGEST_DIGITS] + "…"
