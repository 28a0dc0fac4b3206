"""A source of digits, and helpers for tests of sources."""

from pathlib import Path

import pytest

from loupe.images.spec import ImageSpec
from loupe.jobs import DEFAULT_OPTIONS, ScoringOptions
from tests.support import pictures
from worker.sources.opening import open_source
from worker.sources.source import Records
from worker.storage import AnyPath

MAX_PIXELS = 100_000
IMAGES, SHARD = 70, 10  # of the source: seven parts


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Write a folder of digits, one of which cannot be read."""
    folder = tmp_path / "digits"
    folder.mkdir()
    for number, image in enumerate(pictures.digits(IMAGES)):
        (folder / f"{number:02d}.png").write_bytes(pictures.png(image))
    (folder / "45.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    return folder


@pytest.fixture
def index_folder(tmp_path: Path) -> Path:
    made = tmp_path / "index"
    made.mkdir()
    return made


def scored(
    path: AnyPath,
    index_folder: Path,
    shard_images: int = 4,
    batch_size: int = 3,
    options: ScoringOptions = DEFAULT_OPTIONS,
) -> list[Records]:
    """Plan a source, then read all its records shard by shard."""
    source = open_source(path, ImageSpec("ink"), MAX_PIXELS, options)
    plan = source.plan(shard_images, index_folder)
    batches = [
        batch()
        for shard in plan.shards
        for batch in source.batches(shard, batch_size, index_folder, plan.revision)
    ]
    assert sum(len(batch.ids) + len(batch.errors) for batch in batches) == plan.total
    return batches
