"""TensorBoard: its logs, and that it starts."""

from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.support import pictures
from train.config import recipe
from train.fit.board import board, logging_to, write_pictures
from train.fit.fitting import fit


def test_loss_and_accuracy_of_every_epoch_are_logged(tmp_path: Path) -> None:
    fit(pictures.shapes(), recipe("softmax", epochs=2), callbacks=[logging_to(tmp_path)])
    logged = EventAccumulator(str(tmp_path / "train"))
    logged.Reload()

    assert {"epoch_loss", "epoch_accuracy", "epoch_learning_rate"} <= set(logged.Tags()["tensors"])
    assert len(logged.Tensors("epoch_loss")) == 2
    assert logged.summary_metadata["keras"].plugin_data.plugin_name == "graph_keras_model"


def test_the_pictures_of_a_report_are_logged(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((4, 6, 3), np.uint8)).save(tmp_path / "mistakes.png")
    write_pictures(tmp_path / "logs", tmp_path)
    logged = EventAccumulator(str(tmp_path / "logs" / "report"))
    logged.Reload()

    assert logged.Tags()["tensors"] == ["mistakes"]


def test_tensorboard_runs_until_the_block_ends(tmp_path: Path) -> None:
    with board(tmp_path) as url:
        assert "TensorBoard" in httpx.get(url).text

    with pytest.raises(httpx.ConnectError):
        httpx.get(url)
