"""What steps note down: kept as JSON, put together, and the images that are chosen to be shown."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.support import pictures
from worker.results import receipts
from worker.results.receipts import write_plan_statistics, write_receipt
from worker.results.statistics import MAX_TILES, StepStatistics

IMAGES = pictures.digits(200)
RANDOM = np.random.default_rng(0)
PROBABILITIES = RANDOM.dirichlet(np.ones(3), len(IMAGES)).astype(np.float32)


def looked_at(start: int, stop: int, shard: int = 0) -> StepStatistics:
    """Of these images, in batches of seven."""
    figures, random = StepStatistics([f"worker-{shard}"]), np.random.default_rng(shard)
    for first in range(start, stop, 7):
        batch = slice(first, min(first + 7, stop))
        figures.add_images(range(200)[batch], IMAGES[batch], PROBABILITIES[batch], random)
    return figures


def written(folder: Path, shard: int, figures: StepStatistics) -> None:
    write_receipt(folder, shard, 3, [], fingerprint="x", done=1, failed=0, figures=figures)


def test_figures_are_written_and_read_back() -> None:
    figures = looked_at(0, 50)
    figures.seconds = {"score": 1.5}

    assert StepStatistics.from_json(json.loads(json.dumps(asdict(figures)))) == figures


def test_the_least_confident_images_are_kept_with_what_the_model_saw() -> None:
    figures = looked_at(0, 200)
    least = np.argsort(PROBABILITIES.max(axis=1))[:MAX_TILES]

    assert [tile.id for tile in figures.least_confident] == [str(place) for place in least]
    for tile, place in zip(figures.least_confident, least, strict=True):
        np.testing.assert_array_equal(tile.image, IMAGES[place])
        assert tile.best == PROBABILITIES[place].argmax()
        assert tile.confidence == PROBABILITIES[place].max()


def test_the_sample_is_always_the_same_and_each_shard_has_its_own() -> None:
    assert looked_at(0, 200, shard=3) == looked_at(0, 200, shard=3)
    assert [tile.id for tile in looked_at(0, 200, 3).sample] != [
        tile.id for tile in looked_at(0, 200, 4).sample
    ]
    assert len({tile.id for tile in looked_at(0, 200).sample}) == MAX_TILES


def test_a_batch_without_images_has_nothing_to_show() -> None:
    figures = StepStatistics()
    figures.add_images([], IMAGES[:0], PROBABILITIES[:0], np.random.default_rng(0))

    assert figures == StepStatistics()


@given(cuts=st.lists(st.integers(0, 200), max_size=4).map(sorted))
def test_however_a_source_is_cut_its_least_confident_images_are_found(cuts: list[int]) -> None:
    together = StepStatistics()
    for shard, (start, stop) in enumerate(zip([0, *cuts], [*cuts, 200], strict=True)):
        together += looked_at(start, stop, shard)

    assert together.least_confident == looked_at(0, 200).least_confident
    assert len({tile.id for tile in together.sample}) == MAX_TILES
    assert together.sample == sorted(together.sample)


def test_an_attempt_takes_the_place_of_those_before_it(tmp_path: Path) -> None:
    written(tmp_path, 0, StepStatistics(["died"], {"score": 5.0}))
    written(tmp_path, 0, StepStatistics(["a"], {"score": 1.0}))
    written(tmp_path, 1, StepStatistics(["b"], {"score": 2.0, "write": 0.25}))
    write_plan_statistics(tmp_path, StepStatistics(["a"], {"plan": 0.5}))
    together = receipts.total_statistics(tmp_path, [0, 1], 3)

    assert together.workers == ["a", "b"]
    assert together.seconds == {"plan": 0.5, "read": 0, "score": 3.0, "write": 0.25}


def test_what_does_not_count_or_is_damaged_is_left_out(tmp_path: Path) -> None:
    for shard in range(3):
        written(tmp_path, shard, looked_at(shard * 10, shard * 10 + 10, shard))
    (tmp_path / "_part-00001-of-00003.json").write_text("{")

    assert receipts.total_statistics(tmp_path, [0, 1], 3).workers == ["worker-0"]
