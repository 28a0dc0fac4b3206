"""The folder of a training run."""

from pathlib import Path

import pytest

from train.config import recipe
from train.runs import DataSource, Run, TrainRequest


@pytest.mark.parametrize(
    "dataset", ["digits", "folder:/my [/b]\x1b[31m\npets", "folder:" + "é" * 120, "idx:/"]
)
def test_a_run_can_be_found_by_its_name_whatever_the_data_set_is_called(
    tmp_path: Path, dataset: str
) -> None:
    request = TrainRequest(source=DataSource(dataset=dataset), config=recipe("softmax"))
    run = Run.start(tmp_path, request)

    assert run.name.isascii()
    assert run.name.isprintable()
    assert Run.find(tmp_path, run.name).request() == request
