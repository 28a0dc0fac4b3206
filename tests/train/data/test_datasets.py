"""Data sets by name, and the arrays for notebooks."""

import gzip
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from loupe.errors import InvalidUsage
from loupe.images.arrays import idx
from tests.support import pictures
from tests.support.pictures import sort_into_folders
from tests.support.programs import environment
from train.data.datasets import NAMES, check_name, full_name, load, load_dataset
from train.data.image_options import ImageOptions
from train.data.own.idx_folders import FILES

KNOWN = "fashion-mnist, mnist, kmnist, emnist, cifar10, cifar100, digits, digits-8x8, idx:DIR"


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    return sort_into_folders(tmp_path / "pets", {"cat": 10, "dog": 20})


def write_idx(folder: Path, packed: bool = False) -> Path:
    folder.mkdir(exist_ok=True)
    arrays = (pictures.digits(30), [0, 1] * 15, pictures.digits(10, seed=1), [0, 1] * 5)
    for name, array in zip(FILES, arrays, strict=True):
        data = idx.encode(np.asarray(array, np.uint8))
        (folder / (f"{name}.gz" if packed else name)).write_bytes(
            gzip.compress(data) if packed else data
        )
    return folder


# Names


def test_every_kind_of_name_is_loaded(tmp_path: Path, pets: Path) -> None:
    assert load_dataset("digits").train.images.shape == (1347, 28, 28)
    assert load_dataset("digits-8x8", test_fraction=0.1).test.images.shape == (180, 8, 8)
    assert load_dataset(f"folder:{pets}").look == "object"
    assert load_dataset(
        f"folder:{pets}", options=ImageOptions(look="ink"), test_fraction=0.5
    ).test.images.shape == (
        15,
        28,
        28,
    )
    assert (
        load_dataset(f"idx:{write_idx(tmp_path / 'mine')}", options=ImageOptions(look="ink")).name
        == "mine"
    )


def test_a_path_may_start_with_a_tilde(monkeypatch: pytest.MonkeyPatch, pets: Path) -> None:
    monkeypatch.setenv("HOME", str(pets.parent))

    assert load_dataset("folder:~/pets").name == "pets"


def test_a_folder_named_mnist_gets_another_model_name(tmp_path: Path) -> None:
    assert load_dataset(f"idx:{write_idx(tmp_path / 'mnist')}").name == "idx-mnist"
    sort_into_folders(tmp_path / "Digits", {"cat": 10, "dog": 10})
    assert load_dataset(f"folder:{tmp_path / 'Digits'}").name == "folder-digits"


def test_the_seed_determines_the_split_of_a_folder(pets: Path) -> None:
    assert (
        load_dataset(f"folder:{pets}", split_seed=1).test.digest()
        != load_dataset(f"folder:{pets}").test.digest()
    )


def test_pictures_larger_than_the_setting_are_left_out(
    pets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (pets / "cat" / "large.png").write_bytes(pictures.huge_png(100))
    monkeypatch.setenv("LOUPE_MAX_IMAGE_PIXELS", "5000")

    assert [item.path for item in load_dataset(f"folder:{pets}").unreadable] == ["cat/large.png"]


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("mnits", "mnist"),
        ("Fashion_MNIST", "fashion-mnist"),
        ("digit", "digits"),
        ("folders:/pets", "folder:/pets"),
        ("IDX:/Pets", "idx:/Pets"),
        ("folder:", "folder:DIR"),
        ("zebra", None),
        ("", None),
        ("mnist:3", None),
        ("z" * 300, None),
    ],
)
def test_an_unknown_name_is_refused_with_all_names_and_a_suggestion(
    name: str, meant: str | None
) -> None:
    with pytest.raises(InvalidUsage) as raised:
        check_name(name)

    suggestion = f"Did you mean {meant}?" if meant else ""
    assert (raised.value.code, raised.value.exit_code) == ("unknown_dataset", 2)
    assert all(fact in raised.value.message for fact in (f"'{name}'", suggestion, KNOWN))
    assert ("Did you mean" in raised.value.message) == bool(meant)


def test_path_alone_names_a_data_set_of_its_kind(tmp_path: Path, pets: Path) -> None:
    mine = write_idx(tmp_path / "mine", packed=True)
    assert full_name(str(pets)) == f"folder:{pets}"
    assert full_name(str(mine)) == f"idx:{mine}"
    assert full_name("pixels.csv") == "csv:pixels.csv"
    assert full_name("npz:pixels.npz") == "npz:pixels.npz"
    assert full_name("mnist") == "mnist"
    assert load_dataset(str(pets)).class_names == load_dataset(f"folder:{pets}").class_names


def test_published_name_wins_over_a_folder_of_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "digits").mkdir()
    monkeypatch.chdir(tmp_path)
    assert full_name("digits") == "digits"


def test_known_names_are_accepted_and_missing_folders_refused(pets: Path) -> None:
    assert {check_name(name)[0] for name in NAMES} == {None}
    assert check_name(f"folder:{pets}") == ("folder", pets)
    with pytest.raises(InvalidUsage, match="/nowhere") as raised:
        check_name("folder:/nowhere")

    assert raised.value.code == "folder_not_found"


@pytest.mark.parametrize(
    ("name", "options", "fact"),
    [
        ("digits", {"look": "object"}, "'ink'"),
        ("digits", {"look": "inky"}, "'inky'"),
        ("mnist", {"look": "object"}, "'ink'"),
        ("mnist", {"size": 64}, "28 × 28"),
        ("digits-8x8", {"size": 28}, "8 × 8"),
        ("fashion-mnist", {"colour": True}, "grey"),
        ("fashion-mnist", {"fit": "pad"}, "--fit"),
    ],
)
def test_images_that_a_published_set_does_not_have_are_refused(
    name: str, options: dict[str, object], fact: str
) -> None:
    with pytest.raises(InvalidUsage, match=fact) as raised:
        load_dataset(name, options=ImageOptions.of(**options))

    assert (raised.value.code, raised.value.exit_code) == ("invalid_dataset_option", 2)


def test_a_published_test_split_stays_as_it_is() -> None:
    with pytest.raises(InvalidUsage, match="test fraction") as raised:
        load_dataset("mnist", test_fraction=0.2)

    assert raised.value.code == "invalid_dataset_option"


# Arrays for notebooks


def test_a_notebook_gets_images_and_labels_of_two_splits() -> None:
    (x_train, t_train), (x_test, t_test) = load("digits")

    assert (x_train.shape, x_train.dtype, x_test.shape) == (
        (1347, 28, 28),
        np.dtype(np.uint8),
        (450, 28, 28),
    )
    assert (t_train.shape, t_train.dtype, t_test.shape) == ((1347,), np.dtype(np.int64), (450,))


def test_images_can_be_scaled_and_flattened_and_labels_one_hot() -> None:
    (plain, labels), _ = load("digits")
    (x_train, t_train), (x_test, t_test) = load(
        "digits", normalize=True, flatten=True, one_hot=True
    )

    assert (x_train.shape, x_train.dtype, x_test.shape) == (
        (1347, 784),
        np.dtype(np.float32),
        (450, 784),
    )
    assert (t_train.shape, t_train.dtype, t_test.shape) == (
        (1347, 10),
        np.dtype(np.float32),
        (450, 10),
    )
    np.testing.assert_allclose(x_train, plain.reshape(-1, 784) / 255, rtol=1e-6)
    assert (float(x_train.min()), float(x_train.max())) == (0, 1)
    np.testing.assert_array_equal(t_train.argmax(axis=1), labels)
    np.testing.assert_array_equal(t_train.sum(axis=1), 1)


def test_digits_of_8x8_are_scaled_to_one_too() -> None:
    (x_train, _), _ = load("digits-8x8", normalize=True, flatten=True)

    assert (x_train.shape, float(x_train.max())) == ((1347, 64), 1)


@pytest.mark.parametrize("packed", [False, True], ids=["mapped", "unpacked"])
def test_a_notebook_can_change_its_arrays(tmp_path: Path, packed: bool) -> None:
    (images, labels), _ = load(f"idx:{write_idx(tmp_path / 'mine', packed)}")

    assert images.flags.writeable
    assert labels.flags.writeable


def test_unreadable_files_are_logged(pets: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pets / "cat" / "notes.png").write_text("purrs")
    (pets / "cat" / "notes.txt").write_text("purrs")
    load(f"folder:{pets}")

    assert "cat/notes.png is left out: " in caplog.text
    assert ".txt 1" in caplog.text


def test_importing_the_data_sets_imports_no_framework() -> None:
    script = (
        "import sys, train.data.datasets; "
        "heavy = {'tensorflow', 'keras', 'sklearn', 'matplotlib', 'bentoml'}; "
        "print(sorted(heavy & set(sys.modules)))"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True
    )

    assert ended.stdout == "[]\n", ended.stderr
