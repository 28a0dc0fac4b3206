"""Statistics of steps: written as JSON, added up, with images for contact sheets."""

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.support import pictures
from worker.results import receipts
from worker.results.receipts import write_plan_statistics, write_receipt
from worker.results.statistics import MAX_IMAGES, StepStatistics

IMAGES = pictures.digits(200)
RANDOM = np.random.default_rng(0)
PROBABILITIES = RANDOM.dirichlet(np.ones(3), len(IMAGES)).astype(np.float32)


def sampled(start: int, stop: int, shard: int = 0) -> StepStatistics:
    """Return statistics of these images, added in batches of seven."""
    figures, random = StepStatistics([f"worker-{shard}"]), np.random.default_rng(shard)
    for first in range(start, stop, 7):
        batch = slice(first, min(first + 7, stop))
        figures.add_images(range(200)[batch], IMAGES[batch], PROBABILITIES[batch], random)
    return figures


def write(folder: Path, shard: int, figures: StepStatistics) -> None:
    write_receipt(folder, shard, 3, [], fingerprint="x", done=1, failed=0, figures=figures)


def test_statistics_survive_json() -> None:
    figures = sampled(0, 50)
    figures.seconds = {"score": 1.5}

    assert StepStatistics.from_json(json.loads(json.dumps(asdict(figures)))) == figures


def test_least_confident_images_are_kept() -> None:
    figures = sampled(0, 200)
    least = np.argsort(PROBABILITIES.max(axis=1))[:MAX_IMAGES]

    assert [tile.id for tile in figures.least_confident] == [str(place) for place in least]
    for tile, place in zip(figures.least_confident, least, strict=True):
        np.testing.assert_array_equal(tile.pixels(), IMAGES[place])
        assert tile.best == PROBABILITIES[place].argmax()
        assert tile.confidence == PROBABILITIES[place].max()


def test_sample_is_reproducible_and_differs_between_shards() -> None:
    assert sampled(0, 200, shard=3) == sampled(0, 200, shard=3)
    assert [tile.id for tile in sampled(0, 200, 3).sample] != [
        tile.id for tile in sampled(0, 200, 4).sample
    ]
    assert len({tile.id for tile in sampled(0, 200).sample}) == MAX_IMAGES


def test_empty_batch_adds_no_images() -> None:
    figures = StepStatistics()
    figures.add_images([], IMAGES[:0], PROBABILITIES[:0], np.random.default_rng(0))

    assert figures == StepStatistics()


@given(cuts=st.lists(st.integers(0, 200), max_size=4).map(sorted))
def test_least_confident_images_do_not_depend_on_the_shards(cuts: list[int]) -> None:
    together = StepStatistics()
    for shard, (start, stop) in enumerate(zip([0, *cuts], [*cuts, 200], strict=True)):
        together += sampled(start, stop, shard)

    assert together.least_confident == sampled(0, 200).least_confident
    assert len({tile.id for tile in together.sample}) == MAX_IMAGES
    assert together.sample == sorted(together.sample)


def test_attempt_replaces_earlier_ones(tmp_path: Path) -> None:
    write(tmp_path, 0, StepStatistics(["died"], {"score": 5.0}))
    write(tmp_path, 0, StepStatistics(["a"], {"score": 1.0}))
    write(tmp_path, 1, StepStatistics(["b"], {"score": 2.0, "write": 0.25}))
    write_plan_statistics(tmp_path, StepStatistics(["a"], {"plan": 0.5}))
    together = receipts.total_statistics(tmp_path, [0, 1], 3)

    assert together.workers == ["a", "b"]
    assert together.seconds == {"plan": 0.5, "read": 0, "score": 3.0, "write": 0.25}


def test_other_and_damaged_receipts_do_not_count(tmp_path: Path) -> None:
    for shard in range(3):
        write(tmp_path, shard, sampled(shard * 10, shard * 10 + 10, shard))
    (tmp_path / "_part-00001-of-00003.json").write_text("{")

    assert receipts.total_statistics(tmp_path, [0, 1], 3).workers == ["worker-0"]


def test_images_in_colour_are_kept_nearly_as_they_are() -> None:
    rows, columns = np.mgrid[0:96, 0:64]
    image = np.stack([rows * 2, columns * 3, np.full_like(rows, 90)], axis=2).astype(np.uint8)
    figures = StepStatistics(["worker"])
    probabilities = np.array([[0.2, 0.8]], np.float32)
    figures.add_images(["a"], image[None], probabilities, np.random.default_rng(0))
    (kept,) = StepStatistics.from_json(json.loads(json.dumps(asdict(figures)))).sample

    assert kept.pixels().shape == image.shape
    assert np.abs(kept.pixels().astype(int) - image).mean() < 3
    assert len(kept.data) < image.nbytes / 4
