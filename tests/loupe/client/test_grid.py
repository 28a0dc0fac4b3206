"""The grid of predictions: each picture with its label and confidence."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.client.grid import GAP, SIDE, draw
from loupe.client.predictions import Prediction, PredictionError, View
from loupe.images.spec import UInt8Array


@pytest.fixture
def file(tmp_path: Path) -> Path:
    file = tmp_path / "red.png"
    Image.new("RGB", (40, 20), (200, 30, 30)).save(file)
    return file


def prediction(label: str | None = "boot", confidence: float = 0.8) -> Prediction:
    return Prediction("m:1", label, 0, confidence, {"boot": confidence})


def drawn(*outcomes: tuple[Path, Prediction | PredictionError]) -> UInt8Array:
    return np.asarray(Image.open(io.BytesIO(draw(outcomes))).convert("RGB"))


def test_readable_pictures_are_shown_in_colour(file: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("socks")
    unreadable = PredictionError("invalid_image", "x")
    one = drawn((file, prediction()))
    grid = drawn(
        (file, prediction()), (tmp_path / "notes.txt", unreadable), (tmp_path / "none", unreadable)
    )

    def reds(image: UInt8Array) -> int:
        return int((np.abs(image.astype(int) - (200, 30, 30)).sum(axis=2) < 30).sum())

    assert reds(one) == reds(grid) == pytest.approx(SIDE * SIDE / 2, rel=0.05)


def test_what_the_model_saw_is_beside_the_picture(file: Path) -> None:
    seen = np.zeros((28, 28), np.uint8)
    seen[10:20] = 255
    plain = drawn((file, prediction()))
    pair = drawn((file, prediction().with_view(View(file, seen))))

    assert pair.shape[1] - plain.shape[1] == pytest.approx(SIDE, abs=10)
    assert (pair[:, -SIDE // 2] == 0).all(axis=1).sum() == pytest.approx(SIDE * 18 / 28, abs=2)


def test_label_confidence_and_file_name_are_written(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.png"
    other.write_bytes(file.read_bytes())
    grids = [
        drawn((file, prediction())),
        drawn((file, prediction("bag"))),
        drawn((file, prediction(None))),
        drawn((file, prediction(confidence=0.6))),
        drawn((other, prediction())),
    ]

    assert len({grid.tobytes() for grid in grids}) == len(grids)


@pytest.mark.parametrize(
    ("tiles", "columns"), [(1, 1), (3, 3), (4, 4), (5, 4), (16, 4), (17, 5), (100, 10)]
)
def test_rows_have_four_columns_until_there_are_many(file: Path, tiles: int, columns: int) -> None:
    widths = [drawn(*[(file, prediction())] * count).shape[1] for count in (1, tiles)]

    assert widths[1] - widths[0] == (columns - 1) * (SIDE + GAP)
