"""The report on a model: a self-contained page, its pictures as files, and a model card."""

import base64
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from pydantic import JsonValue

from loupe.images.spec import Float32Array
from loupe.models.card import ModelCard
from loupe.models.significance import margin
from loupe.models.store import REPORT_FILE
from loupe.text import one_line
from train.data.datasets import Dataset
from train.evaluate import plots, sheets
from train.evaluate.evaluation import ClassMetrics, Evaluation
from train.evaluate.robustness.measuring import PHRASES, limits
from train.evaluate.verdict import percent

MARKDOWN_FILE = "MODEL_CARD.md"
PICTURES_FOLDER = "report"
WEAK_CLASSES = 3  # named in the model card


@dataclass(frozen=True)
class ClassRow:
    """A class of the test split, and the class that it is most often confused with."""

    metrics: ClassMetrics
    taken_for: str | None
    times: int


def write_report(
    folder: Path,
    evaluation: Evaluation,
    card: ModelCard,
    dataset: Dataset,
    *,
    tag: str | None = None,
    pixel_weights: Float32Array | None = None,
    first_filters: Float32Array | None = None,
) -> None:
    """Write `report.html`, pictures in `report/`, `report.json` and `MODEL_CARD.md` into a folder.

    The title is the tag, or else the data set and the architecture. For `pixel_weights` and
    `first_filters` see `train.evaluate.weights`.
    """
    pictures = _pictures(evaluation, dataset, pixel_weights, first_filters)
    (folder / PICTURES_FOLDER).mkdir(exist_ok=True)
    for name, png in pictures.items():
        (folder / PICTURES_FOLDER / f"{name}.png").write_bytes(png)
    rows = class_rows(evaluation)
    values = {
        "evaluation": evaluation,
        "card": card,
        "dataset": dataset,
        "rows": rows,
        "title": tag or f"{card.dataset}, {evaluation.architecture}",
        "pictures": pictures,
        "min_bin_images": plots.MIN_BIN_IMAGES,
        "weakest": _weakest(rows),
        "limits": limits(evaluation.robustness),
        "phrases": {"none": "no disturbance", **PHRASES},
        "margin": margin(0.9, evaluation.robustness[0].images) if evaluation.robustness else 0,
    }
    for template, file in (
        ("report.html.jinja", REPORT_FILE),
        ("model_card.md.jinja", MARKDOWN_FILE),
    ):
        text = TEMPLATES.get_template(template).render(values)
        (folder / file).write_text(text, encoding="utf-8")
    evaluation.save(folder)


def class_rows(evaluation: Evaluation) -> list[ClassRow]:
    """Return the classes of an evaluation, in order."""
    mistakes = np.array(evaluation.confusion)
    np.fill_diagonal(mistakes, 0)
    rows = zip(evaluation.classes, mistakes.argmax(axis=1), mistakes.max(axis=1), strict=True)
    return [
        ClassRow(metrics, evaluation.class_names[other] if times else None, int(times))
        for metrics, other, times in rows
    ]


def _weakest(rows: list[ClassRow]) -> list[ClassRow]:
    """Return the classes with the lowest recall that have mistakes."""
    mistaken = [row for row in rows if row.metrics.recall is not None and row.taken_for is not None]
    return sorted(mistaken, key=lambda row: row.metrics.recall or 0.0)[:WEAK_CLASSES]


def _pictures(
    evaluation: Evaluation,
    dataset: Dataset,
    pixel_weights: Float32Array | None,
    first_filters: Float32Array | None,
) -> dict[str, bytes]:
    """Return PNG files by the names that `report.html.jinja` uses."""
    names, calibration = evaluation.class_names, evaluation.calibration
    shown = dataset.train if evaluation.train else dataset.test
    pictures = {
        "confusion-matrix": plots.confusion_matrix(evaluation.confusion, names),
        "reliability": plots.reliability_diagram(
            calibration.bins_before, calibration.bins_after, calibration.temperature
        ),
        "samples": sheets.sample_sheet(shown.images, shown.labels, names, dataset.look),
    }
    if evaluation.history and evaluation.best_epoch:
        curves = plots.learning_curves(evaluation.history, evaluation.best_epoch)
        pictures["learning-curves"] = curves
    if evaluation.mistakes:
        pictures["mistakes"] = sheets.mistake_sheet(
            dataset.test.images, evaluation.mistakes, names, dataset.look
        )
    if pixel_weights is not None:
        pictures["weights"] = sheets.weight_images(pixel_weights, names)
    if first_filters is not None:
        pictures["filters"] = sheets.filters(first_filters)
    return pictures


def _share(value: float | None) -> str:
    return "–" if value is None else percent(value)


def _option(value: JsonValue) -> str:
    """Format a value of the configuration."""
    if value is None or value == []:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _data_url(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def _markdown(text: object) -> str:
    """Escape text for Markdown, also within tables and at the start of a line."""
    words = one_line(" ".join(str(text).split()))
    return re.sub(r"([\\`*_{}\[\]<>#|~&]|^[-+=])", r"\\\1", words)


TEMPLATES = Environment(
    loader=FileSystemLoader(Path(__file__).parent),
    autoescape=select_autoescape(("html.jinja",)),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
TEMPLATES.filters |= {
    "percent": percent,
    "share": _share,
    "option": _option,
    "markdown": _markdown,
    "data_url": _data_url,
}
