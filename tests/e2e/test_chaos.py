"""Bulk scoring while workers are killed and Redis is restarted: one round of what `make chaos` plays for ten minutes."""

from pathlib import Path

import pytest

from loupe.store import StoredModel
from tests import chaos


@pytest.mark.timeout(300)
def test_jobs_come_out_the_same_whatever_is_killed_and_restarted(tmp_path: Path, digits_model: StoredModel) -> None:
    sources, expected = chaos.prepare(digits_model, tmp_path)
    ended = chaos.play(digits_model, sources, expected, tmp_path / "round", seed=0)

    assert ended.failures == []
    assert ended.done == {"kill": chaos.KILLS, "restart": chaos.RESTARTS}
