"""The report: a self-contained page for any class names, with pictures and a model card."""

import base64
import io
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import JsonValue

from loupe.models.card import Figures, ModelCard
from tests.support import pictures
from train.data.datasets import Dataset, Split
from train.evaluate.evaluation import Epoch, Evaluation, Predictions, evaluate
from train.evaluate.report import write_report
from train.evaluate.robustness.measuring import Disturbance

HISTORY = (
    Epoch(1, 0.9, 0.6, 0.8, 0.7, 0.001, 2.0),
    Epoch(2, 0.5, 0.8, 0.6, 0.8, 0.0005, 2.0),
)
ALWAYS = ["confusion-matrix", "reliability", "samples"]
VOID = {"meta", "link", "img", "br"}  # elements without an end tag


class Page(HTMLParser):
    """The addresses that a browser would load, and the text that it would show."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.loaded: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        self.loaded += [
            value or ""
            for name, value in attributes
            if name in {"src", "href", "srcset", "action", "data"}
        ]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        self.text += " "

    def handle_data(self, data: str) -> None:
        self.text += data


def renamed(*class_names: str) -> Dataset:
    """Return the three shapes, or the first two, under other names."""
    shapes = pictures.shapes()
    if len(class_names) == 3:
        return replace(shapes, class_names=class_names)
    train, test = (
        replace(split, images=split.images[split.labels < 2], labels=split.labels[split.labels < 2])
        for split in (shapes.train, shapes.test)
    )
    return replace(shapes, class_names=class_names, train=train, test=test)


def answers(split: Split, classes: int, wrong: int) -> Predictions:
    predicted = split.labels.copy()
    predicted[:wrong] = (predicted[:wrong] + 1) % classes
    return Predictions(np.eye(classes, dtype=np.float32)[predicted] * np.float32(3), split.labels)


ROBUSTNESS = (
    Disturbance("none", "test", 100, 0.98, 0.0, 0.01),
    Disturbance("ruled", "picture", 100, 0.97, 0.0, 0.01),
    Disturbance("chalk", "picture", 100, 0.85, 0.2, 0.02),
    Disturbance("zigzag", "image", 100, 0.3, 0.0, 0.4),
    Disturbance("a new kind", "image", 100, 0.9, 0.0, 0.0),
)


def evaluated(
    dataset: Dataset, *, wrong: int = 2, history: tuple[Epoch, ...] = HISTORY, extra: bool = False
) -> Evaluation:
    classes = len(dataset.class_names)
    train, test = (answers(split, classes, wrong) for split in (dataset.train, dataset.test))
    return evaluate(
        dataset=dataset.name,
        architecture="mlp",
        class_names=dataset.class_names,
        train=train,
        test=test,
        extra=test if extra else None,
        history=history,
        temperature=1.25,
    )


def card_of(dataset: Dataset, evaluation: Evaluation, **config: JsonValue) -> ModelCard:
    return ModelCard(
        dataset=dataset.name,
        class_names=dataset.class_names,
        input=dataset.spec,
        source=dataset.source,
        licence=dataset.licence,
        figures=Figures(
            test_images=evaluation.test.images,
            test_digest=dataset.test.digest(),
            accuracy=evaluation.test.accuracy,
            loss=evaluation.test.loss,
            train_accuracy=evaluation.train.accuracy if evaluation.train else None,
            calibration_error=evaluation.calibration.error_after,
            engines_difference=1e-6,
            training_seconds=12.3,
        ),
        files={"model.keras": "0" * 64},
        config={"architecture": "mlp", **config},
        made_with={"keras": "3.10.0"},
        created=datetime(2025, 3, 4, 15, 6, tzinfo=UTC),
    )


def written(folder: Path, dataset: Dataset, evaluation: Evaluation, **config: JsonValue) -> Page:
    write_report(
        folder, evaluation, card_of(dataset, evaluation, **config), dataset, tag="shapes:abc"
    )
    return Page((folder / "report.html").read_text("utf-8"))


SHAPES = replace(pictures.shapes(), source="Drawn by the tests", licence="CC0")
EVALUATION = evaluated(SHAPES, extra=True)
assert EVALUATION.verdict
VERDICT = EVALUATION.verdict.sentence


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a report that contains everything it can."""
    folder = tmp_path_factory.mktemp("report")
    random = np.random.default_rng(0)
    write_report(
        folder,
        EVALUATION,
        card_of(
            SHAPES,
            EVALUATION,
            learning_rate=0.01,
            hidden=[64, 32],
            augment=True,
            schedule=None,
            classes=[],
        ),
        SHAPES,
        tag="shapes:abc",
        pixel_weights=random.normal(size=(3, 28, 28)).astype(np.float32),
        first_filters=random.normal(size=(8, 3, 3)).astype(np.float32),
    )
    return folder


@pytest.fixture
def html(folder: Path) -> str:
    return (folder / "report.html").read_text("utf-8")


@pytest.fixture
def markdown(folder: Path) -> str:
    return (folder / "MODEL_CARD.md").read_text("utf-8")


def test_a_report_has_a_page_pictures_metrics_and_a_card(folder: Path) -> None:
    names = sorted(path.stem for path in (folder / "report").iterdir())

    assert sorted(path.name for path in folder.iterdir()) == [
        "MODEL_CARD.md",
        "report",
        "report.html",
        "report.json",
    ]
    assert names == sorted([*ALWAYS, "learning-curves", "mistakes", "weights", "filters"])
    assert Evaluation.load(folder) == EVALUATION


def test_the_page_embeds_the_picture_files(folder: Path, html: str) -> None:
    files = {path.read_bytes() for path in (folder / "report").iterdir()}
    held = {
        base64.b64decode(uri.removeprefix("data:image/png;base64,"))
        for uri in Page(html).loaded
        if len(uri) > 10
    }

    assert held == files
    for png in files:
        image = Image.open(io.BytesIO(png))
        image.load()
        assert image.format == "PNG"


def test_the_page_loads_nothing_and_runs_nothing(html: str) -> None:
    page = Page(html)

    assert page.open == []
    assert page.tags.count("img") == 7
    assert all(address.startswith("data:") for address in page.loaded)
    assert "script" not in page.tags
    assert not re.search(r"https?:|@import|url\(", re.sub(r"base64,[\w+/=]+", "", html))
    assert len(html) < 2_000_000


def test_the_page_shows_the_metrics_and_the_verdict(html: str) -> None:
    words = " ".join(Page(html).text.split())

    assert "shapes:abc mlp trained on shapes, 3 classes · 2025-03-04 15:06 UTC" in words
    assert "Test accuracy 87.50 % ± 17.89 %, 16 images" in words
    assert VERDICT in words
    assert "across 5 80.0 % 80.0 % 80.0 % upright × 1" in words
    assert "Own pictures 87.50 %" in words
    assert "learning rate 0.01 hidden 64, 32 augment yes schedule – classes –" in words
    assert "keras 3.10.0" in words


def test_the_card_has_all_sections(markdown: str) -> None:
    headings = re.findall(r"^#+ (.+)$", markdown, re.MULTILINE)

    assert headings == [
        "Model card: shapes:abc",
        "Purpose",
        "Data",
        "Metrics",
        "Calibration",
        "Limits",
        "Training",
    ]
    for line in (
        "| source | Drawn by the tests |",
        "| licence | CC0 |",
        "| **test** | 16 | **87.50 %** ± 17.89 % |",
        "| across | 5 | 80.0 % | 80.0 % | 80.0 % |",
        VERDICT,
        "The model divides its logits by a temperature of 1.250",
        "across (recall 80.0 %, most often confused with upright), square (recall 83.3 %",
        "| learning rate | 0.01 |",
        "Packages: keras 3.10.0.",
    ):
        assert line in markdown


def test_class_names_are_escaped(tmp_path: Path) -> None:
    dataset = renamed("<script>alert(1)</script>", "a|b *c* [d](http://e)", '"><img src=x>')
    page = written(tmp_path, dataset, evaluated(dataset))
    markdown = (tmp_path / "MODEL_CARD.md").read_text("utf-8")

    assert "script" not in page.tags
    assert all(address.startswith("data:") for address in page.loaded)
    assert "<script>alert(1)</script>" in page.text
    assert r"\<script\>alert(1)\</script\>" in markdown
    assert r"| a\|b \*c\* \[d\](http://e) | 5 |" in markdown


@pytest.mark.parametrize("sign", ["=", "+", "-", "#", ">"])
def test_a_sign_at_the_start_of_a_line_is_no_markdown(tmp_path: Path, sign: str) -> None:
    dataset = renamed(f"{sign} one", "two")
    written(tmp_path, dataset, evaluated(dataset))

    assert f"\n\\{sign} one, two." in (tmp_path / "MODEL_CARD.md").read_text("utf-8")


def test_the_page_has_names_that_pictures_cannot_show(tmp_path: Path) -> None:
    dataset = renamed("シャツ", "x" * 200, "$")
    text = written(tmp_path, dataset, evaluated(dataset)).text

    assert all(name in text for name in dataset.class_names)


def test_a_class_that_is_never_predicted_is_in_the_report(tmp_path: Path) -> None:
    dataset = renamed("yes", "no")
    split = Predictions(np.tile(np.array([1, 0], np.float32), (10, 1)), dataset.test.labels)
    evaluation = evaluate(
        dataset="shapes", architecture="mlp", class_names=("yes", "no"), train=split, test=split
    )
    words = " ".join(written(tmp_path, dataset, evaluation).text.split())

    assert "no 5 – 0.0 % 0.0 % yes × 5" in words
    assert "| no | 5 | – | 0.0 % | 0.0 % |" in (tmp_path / "MODEL_CARD.md").read_text("utf-8")


def test_missing_parts_are_left_out(tmp_path: Path) -> None:
    evaluation = evaluated(SHAPES, wrong=0, history=())
    write_report(tmp_path, evaluation, card_of(SHAPES, evaluation), SHAPES)
    html = (tmp_path / "report.html").read_text("utf-8")

    assert sorted(path.stem for path in (tmp_path / "report").iterdir()) == ALWAYS
    assert "<h1>shapes, mlp</h1>" in html
    assert "None: all predictions for the test images are right." in html
    assert "Learning curves" not in html
    assert "weakest" not in (tmp_path / "MODEL_CARD.md").read_text("utf-8")


def test_report_says_which_pictures_the_model_reads(tmp_path: Path) -> None:
    dataset = renamed("a", "b", "c")
    page = written(tmp_path, dataset, evaluated(dataset).with_robustness(ROBUSTNESS))
    card = (tmp_path / "MODEL_CARD.md").read_text()

    for text in (page.text, card):
        assert "about as well as its test images: ruled paper (97 %)." in text
        assert "more mistakes with chalk on a board (85 %), a new kind (90 %)." in text
        assert "Do not rely on it with a zigzag line across (30 %)." in text
        assert "frequent with a zigzag line across (40 %)." in text
        assert "no answer with chalk on a board (20 %)." in text
    assert page.tags.count("h2") > 0
    assert Evaluation.load(tmp_path).robustness == ROBUSTNESS


def test_report_without_disturbed_images_has_no_section_on_them(tmp_path: Path) -> None:
    dataset = renamed("a", "b", "c")

    assert "Disturbed pictures" not in written(tmp_path, dataset, evaluated(dataset)).text
