"""One round of the chaos test, which `make chaos` repeats for ten minutes."""

from pathlib import Path

import pytest

from loupe.models.store import StoredModel
from tests.stress import chaos


@pytest.mark.timeout(300)
def test_killed_workers_and_redis_restarts_do_not_change_results(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    sources, expected = chaos.prepare(digits_model, tmp_path)
    ended = chaos.run_round(digits_model, sources, expected, tmp_path / "round", seed=0)

    assert ended.failures == []
    assert ended.disturbances == {"kill": chaos.KILLS, "restart": chaos.RESTARTS}
