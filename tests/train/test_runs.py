"""The folder of a training run."""

from pathlib import Path

import pytest

from tests.support import pictures
from train.config import recipe
from train.data.source import DataSource
from train.runs import Run


@pytest.mark.parametrize(
    "dataset",
    [
        "digits",
        "folder:/my [/b]\x1b[31m\npets",
        "folder:" + "é" * 120,
        f"folder:/pictures/{'x' * 255}",
        "idx:/",
    ],
)
def test_a_run_has_a_plain_name_whatever_the_data_set_is_called(
    tmp_path: Path, dataset: str
) -> None:
    source = DataSource(dataset=dataset)
    with Run.start(tmp_path, source, pictures.shapes(), recipe("softmax"), min_accuracy=0.5) as run:
        request = run.request()

    assert run.name.isascii()
    assert run.name.isprintable()
    assert (request.source, request.config, request.min_accuracy) == (
        source,
        recipe("softmax"),
        0.5,
    )
