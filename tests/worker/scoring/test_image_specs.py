"""Sources of images of any size: jobs of models that take different images, in one worker."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from redis import Redis

from loupe.errors import InvalidSource
from loupe.images.arrays import idx
from loupe.images.spec import UInt8Array
from loupe.models.engines.loading import load_engine
from loupe.models.store import StoredModel
from loupe.settings import Settings
from tests.support.job_requests import submit
from tests.support.pictures import digits, png
from worker.process import running_locally
from worker.queue.claims import Claims
from worker.queue.jobs import Jobs
from worker.queue.submission import prepare
from worker.scoring.consumer import Consumer

COUNT, SHARD = 7, 3
TOLERANCE = 1e-5  # probabilities of one image, computed in batches of different sizes


def as_planes(images: UInt8Array) -> UInt8Array:
    planes = images.transpose(0, 3, 1, 2) if images.ndim == 4 else images[:, None]
    return np.ascontiguousarray(planes)


def save_folder(images: UInt8Array, path: Path) -> Path:
    path.mkdir()
    for number, image in enumerate(images):
        (path / f"{number}.png").write_bytes(png(image))
    return path


def save_zip(images: UInt8Array, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, image in enumerate(images):
            archive.writestr(f"{number}.png", png(image))
    return path


def save_npy(images: UInt8Array, path: Path) -> Path:
    np.save(path.with_suffix(".npy"), images)
    return path.with_suffix(".npy")


def save_npz(images: UInt8Array, path: Path) -> Path:
    np.savez_compressed(path.with_suffix(".npz"), images=images, labels=np.arange(len(images)))
    return path.with_suffix(".npz")


def save_idx(images: UInt8Array, path: Path) -> Path:
    path.write_bytes(idx.encode(images))
    return path


def save_packed_idx(images: UInt8Array, path: Path) -> Path:
    path.write_bytes(gzip.compress(idx.encode(images)))
    return path


def save_files_in_parquet(images: UInt8Array, path: Path) -> Path:
    pq.write_table(pa.table({"image": [png(image) for image in images]}), path)
    return path


def save_pixels_in_parquet(images: UInt8Array, path: Path) -> Path:
    flat = images.reshape(len(images), -1)
    columns = {f"pixel{number}": flat[:, number] for number in range(flat.shape[1])}
    pq.write_table(pa.table(columns), path)
    return path


def save_csv(images: UInt8Array, path: Path) -> Path:
    flat = images.reshape(len(images), -1)
    header = ",".join(f"pixel{number}" for number in range(flat.shape[1]))
    rows = "".join(",".join(map(str, row)) + "\n" for row in flat.tolist())
    path.with_suffix(".csv").write_text(f"{header}\n{rows}")
    return path.with_suffix(".csv")


def save_bare_csv(images: UInt8Array, path: Path) -> Path:
    path = save_csv(images, path)
    path.write_text(path.read_text().partition("\n")[2])
    return path


Save = Callable[[UInt8Array, Path], Path]
ARRAYS: dict[str, Save] = {
    "npy": save_npy,
    "npy, colours first": lambda images, path: save_npy(as_planes(images), path),
    "npy, Fortran order": lambda images, path: save_npy(np.asfortranarray(images), path),
    "npy, colours first, Fortran order": lambda images, path: save_npy(
        np.asfortranarray(as_planes(images)), path
    ),
    "npy, flat": lambda images, path: save_npy(images.reshape(len(images), -1), path),
    "npz": save_npz,
    "npz, colours first": lambda images, path: save_npz(as_planes(images), path),
    "idx": save_idx,
    "idx, gzipped": save_packed_idx,
    "pixels in Parquet": save_pixels_in_parquet,
    "csv": save_csv,
    "csv without header": save_bare_csv,
}
PICTURES: dict[str, Save] = {
    "folder": save_folder,
    "zip": save_zip,
    "pictures in Parquet": save_files_in_parquet,
}


def photos(model: StoredModel, count: int = COUNT) -> UInt8Array:
    """Return noise in which one colour is the strongest."""
    random = np.random.default_rng(2)
    images = random.integers(0, 100, (count, *model.card.input.shape), dtype=np.uint8)
    images[np.arange(count), :, :, np.arange(count) % 3] += 120
    return images


@pytest.fixture(params=["digits", "colours"])
def case(
    request: pytest.FixtureRequest, digits_model: StoredModel, colours_model: StoredModel
) -> tuple[StoredModel, UInt8Array]:
    if request.param == "digits":
        return digits_model, digits(COUNT)
    return colours_model, photos(colours_model)


def rows(output: Path) -> list[dict[str, object]]:
    tables = [pq.read_table(path) for path in sorted(output.glob("predictions-*"))]
    return pa.concat_tables(tables).to_pylist()  # type: ignore[no-any-return]


def assert_scored(output: Path, model: StoredModel, images: UInt8Array) -> None:
    found, expected = rows(output), load_engine(model, threads=1).predict(images)
    names = [f"p_{name}" for name in model.card.class_names]
    assert [int(str(row["id"]).removesuffix(".png")) for row in found] == list(range(len(images)))
    answers = np.array([[row[name] for name in names] for row in found], np.float32)
    np.testing.assert_allclose(answers, expected, atol=TOLERANCE)


@pytest.mark.parametrize("kind", [*PICTURES, *ARRAYS])
def test_every_kind_of_source_is_scored_with_models_of_any_size(
    kind: str, case: tuple[StoredModel, UInt8Array], settings: Settings, tmp_path: Path
) -> None:
    model, images = case
    source = (PICTURES | ARRAYS)[kind](images, tmp_path / "source")
    request = prepare(lambda _: None, source, tmp_path / "out", model.tag, SHARD).request
    with running_locally(settings, request) as queue:
        pass

    assert queue.get(request.job_id).state == "done"
    assert_scored(tmp_path / "out", model, images)


@pytest.mark.parametrize("kind", ARRAYS)
@pytest.mark.parametrize("asked", ["digits", "colours"])
def test_pixels_of_another_size_are_refused_with_both(
    kind: str,
    asked: str,
    digits_model: StoredModel,
    colours_model: StoredModel,
    tmp_path: Path,
) -> None:
    images = photos(colours_model, 2) if asked == "digits" else digits(2)
    model = digits_model if asked == "digits" else colours_model
    source = ARRAYS[kind](images, tmp_path / "source")
    with pytest.raises(InvalidSource) as raised:
        prepare(lambda _: None, source, tmp_path / "out", model.tag, SHARD)

    message = raised.value.message.replace(",", "")
    own, other = model.card.input.nbytes, images[0].size
    assert str(own) in message or "64 × 48 × 3" in message, message
    assert str(other) in message or str(images.shape[-1]) in message, message


def test_one_worker_scores_jobs_of_both_models(
    redis: Redis,
    settings: Settings,
    tmp_path: Path,
    digits_model: StoredModel,
    colours_model: StoredModel,
) -> None:
    jobs = Jobs(redis)
    cases = [(digits_model, digits(40)), (colours_model, photos(colours_model, 40))]
    for name in ("first", "second"):
        for model, images in cases:
            source = save_npy(images, tmp_path / f"{name}-{model.name}")
            submit(jobs, source, tmp_path / name / model.name, model.tag, SHARD)
    claims = Claims(redis, "a", lease_seconds=30.0, max_attempts=2)
    Consumer(jobs, claims, settings).run(burst=True)

    for name in ("first", "second"):
        for model, images in cases:
            assert_scored(tmp_path / name / model.name, model, images)


def test_contact_sheets_show_the_colours(
    settings: Settings, tmp_path: Path, colours_model: StoredModel
) -> None:
    source = save_npy(photos(colours_model), tmp_path / "source")
    out = tmp_path / "out"
    request = prepare(lambda _: None, source, out, colours_model.tag, SHARD).request
    with running_locally(settings, request):
        pass

    for name in ("_sample.png", "_least-confident.png"):
        with Image.open(out / name) as sheet:
            pixels = np.asarray(sheet.convert("RGB")).reshape(-1, 3).astype(int)
        for colour in range(3):
            others = np.delete(pixels, colour, axis=1).max(axis=1)
            assert (pixels[:, colour] > others + 30).mean() > 0.05
