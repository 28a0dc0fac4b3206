"""Options for images: look, size, colours and fit, of pictures and of arrays."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.errors import InvalidDataset, InvalidUsage
from loupe.images.arrays import idx
from loupe.images.spec import ImageSpec
from tests.support.pictures import png
from train.data.datasets import load, load_dataset
from train.data.image_options import ImageOptions
from train.data.own.idx_folders import FILES

LABELS = np.arange(40) % 2


def colours(*shape: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize(
    ("options", "shape", "expected"),
    [
        ({}, None, ImageSpec("object")),
        ({"look": "ink", "size": 40}, None, ImageSpec("ink", 40, 40)),
        ({"size": 64, "colour": True}, None, ImageSpec("photo", 64, 64, 3)),
        ({"size": "64"}, None, ImageSpec("object", 64, 64)),
        ({"size": "48x64", "colour": True}, None, ImageSpec("photo", 48, 64, 3)),
        ({"look": "photo", "fit": "pad"}, None, ImageSpec("photo", fit="pad")),
        ({}, (40, 30), ImageSpec("object")),
        ({"look": "photo"}, (40, 30), ImageSpec("photo", 40, 30)),
        ({}, (32, 32, 3), ImageSpec("photo", 32, 32, 3)),
        ({"size": 64}, (32, 32, 3), ImageSpec("photo", 64, 64, 3)),
        ({"look": "object"}, (32, 32, 3), ImageSpec("object")),
    ],
    ids=str,
)
def test_the_spec_follows_from_options_and_arrays(
    options: dict[str, object], shape: tuple[int, ...] | None, expected: ImageSpec
) -> None:
    assert ImageOptions.of(**options).spec(shape) == expected


@pytest.mark.parametrize(
    ("options", "shape", "fact"),
    [
        ({"look": "ink", "colour": True}, None, "'ink'"),
        ({"size": 15}, None, "15"),
        ({"size": 129, "colour": True}, None, "129"),
        ({"size": "48x64x3"}, None, "48x64x3"),
        ({"size": "wide"}, None, "wide"),
        ({"size": "48x"}, None, "48x"),
        ({"size": "48x200"}, None, "200"),
        ({"fit": "pad"}, None, "--fit"),
        ({"colour": True}, (28, 28), r"\(28, 28\)"),
        ({}, (224, 224, 3), "--size"),
    ],
    ids=str,
)
def test_impossible_options_are_refused(
    options: dict[str, object], shape: tuple[int, ...] | None, fact: str
) -> None:
    with pytest.raises(InvalidUsage, match=fact) as raised:
        ImageOptions.of(**options).spec(shape)

    assert (raised.value.code, raised.value.exit_code) == ("invalid_dataset_option", 2)


def test_pictures_keep_their_colours(tmp_path: Path) -> None:
    red = np.full((40, 60, 3), (200, 20, 20), np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for number in range(10):
            (tmp_path / name / f"{number}.png").write_bytes(png(red + number))
    dataset = load_dataset(f"folder:{tmp_path}", options=ImageOptions(size=32, colour=True))

    assert dataset.spec == ImageSpec("photo", 32, 32, 3)
    assert dataset.train.images.shape == (16, 32, 32, 3)
    assert (dataset.train.images[..., 0] > dataset.train.images[..., 1] + 100).all()
    assert dataset.colour_share == 0
    assert load_dataset(f"folder:{tmp_path}").colour_share == 1


def test_arrays_in_colour_keep_colours_and_size(tmp_path: Path) -> None:
    images = colours(40, 20, 24, 3)
    np.savez(tmp_path / "own.npz", train_images=images, train_labels=LABELS[:, None])
    dataset = load_dataset(f"npz:{tmp_path}/own.npz", test_fraction=0.5)

    assert dataset.spec == ImageSpec("photo", 20, 24, 3)
    assert {*map(bytes, dataset.train.images)} < {*map(bytes, images)}


def test_arrays_in_colour_become_grey_for_other_looks(tmp_path: Path) -> None:
    images = colours(40, 20, 24, 3)
    np.savez(tmp_path / "own.npz", x=images, y=LABELS)
    grey = load_dataset(f"npz:{tmp_path}/own.npz", options=ImageOptions(look="object"))

    assert grey.train.images.shape == (32, 28, 28)
    assert Image.fromarray(images[0]).convert("L").size == (24, 20)


def test_idx_files_may_have_colours(tmp_path: Path) -> None:
    labels = LABELS.astype(np.uint8)
    arrays = (colours(40, 16, 16, 3), labels, colours(20, 16, 16, 3), labels[:20])
    for name, array in zip(FILES, arrays, strict=True):
        (tmp_path / name).write_bytes(idx.encode(array))

    assert load_dataset(f"idx:{tmp_path}").spec == ImageSpec("photo", 16, 16, 3)


@pytest.mark.parametrize("shape", [(40, 28, 28, 4), (40, 2, 28, 28), (40, 7), (40, 2, 2, 2, 3)])
def test_arrays_of_a_wrong_shape_are_refused_with_both_shapes(
    tmp_path: Path, shape: tuple[int, ...]
) -> None:
    np.savez(tmp_path / "own.npz", x=colours(*shape), y=LABELS)

    with pytest.raises(InvalidDataset) as raised:
        load_dataset(f"npz:{tmp_path}/own.npz")
    assert raised.value.code == "invalid_arrays"
    assert str(shape) in raised.value.message
    assert "(n, height, width)" in raised.value.message


def test_splits_of_which_one_is_grey_are_refused(tmp_path: Path) -> None:
    np.savez(
        tmp_path / "own.npz",
        x_train=colours(40, 28, 28, 3),
        y_train=LABELS,
        x_test=colours(40, 28, 28),
        y_test=LABELS,
    )

    with pytest.raises(InvalidDataset, match=r"\(28, 28, 3\).*\(28, 28\)"):
        load_dataset(f"npz:{tmp_path}/own.npz")


def test_images_that_take_too_much_memory_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("train.data.splits.MAX_BYTES", 40 * 64 * 64 - 1)
    np.savez(tmp_path / "own.npz", x=colours(40, 28, 28), y=LABELS)

    assert load_dataset(f"npz:{tmp_path}/own.npz").spec == ImageSpec("object")
    with pytest.raises(InvalidDataset, match="163,840") as raised:
        load_dataset(f"npz:{tmp_path}/own.npz", options=ImageOptions(size=64))
    assert raised.value.code == "too_many_images"


def test_notebooks_choose_size_and_colours(tmp_path: Path) -> None:
    np.savez(tmp_path / "own.npz", x=colours(40, 28, 28, 3), y=LABELS)
    (images, _), _ = load(f"npz:{tmp_path}/own.npz", size=32, flatten=True)

    assert images.shape == (32, 32 * 32 * 3)
