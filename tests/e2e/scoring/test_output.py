"""Outputs of `loupe score`: file systems without hard links."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.linkless import without_hard_links
from tests.support.programs import run


def test_results_are_written_to_a_file_system_without_hard_links(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    np.save(tmp_path / "images.npy", pictures.digits(20))
    command = ["score", tmp_path / "images.npy", "--local", "--model", digits_model.tag]
    linkless = without_hard_links(tmp_path)
    out = tmp_path / "out"

    ended = run(*command, "--out", out, **linkless)
    assert ended.returncode == 0, ended.stderr
    assert pq.read_table(out).num_rows == 20
    refused = run(*command, "--out", out, "--top-k", 2, **linkless)
    assert refused.stderr.startswith("error: invalid_output: ")
