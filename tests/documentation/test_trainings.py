"""The documented trainings, with one epoch each, and with small data except for published sets.

`SHORTER` has all that is replaced.
"""

import gzip
import os
import re
import shlex
import shutil
import signal
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from loupe.images.spec import UInt8Array
from tests.documentation.conftest import using_store
from tests.documentation.places import TRAININGS, commands_at
from tests.documentation.world import write_photos
from tests.support import pictures
from tests.support.command import Loupe
from tests.support.programs import running, until
from tests.support.shell_examples import Command

DATA = os.environ.get("LOUPE_TEST_DATA")
FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
WEIGHTS = "weights_mobilenet_v3_small_1.0_224_no_top_v2.h5"
# A pattern of commands, and what makes them shorter.
SHORTER = {
    r"^loupe train sweep .*": ("--epochs 301,1001", "--epochs 3,5 --seeds 1"),
    r"--epochs 60": ("--epochs 60", "--epochs 1 --min-accuracy 0"),
    r"^loupe train (?!sweep|.*(--epochs|--quick|--min-accuracy|--resume))": (
        r"$",
        " --epochs 1 --min-accuracy 0",
    ),
}
PLACEHOLDERS = {"PHOTOS": "photos", "DRAWINGS": "pets", "DIR": "arrays"}
pytestmark = [pytest.mark.docs, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the data sets of the commands; return their folder."""
    folder = tmp_path_factory.mktemp("trainings")
    (folder / "home" / "models").mkdir(parents=True)
    write_photos(folder / "photos")
    shapes = pictures.shapes()
    for name in ("pets", "clothing"):
        shutil.copytree(folder / "photos", folder / name)
    bags = "".join(f"{name},Bag\n" for name in shapes.class_names)
    (folder / "classes.csv").write_text(f"folder,class\n{bags}")
    _write_arrays(folder, shapes.train.images, shapes.train.labels)
    if DATA:
        (folder / "keras" / "datasets").mkdir(parents=True)
        (folder / "keras" / "datasets" / "mnist").symlink_to(Path(DATA, "mnist"))
    return folder


def _write_arrays(folder: Path, images: UInt8Array, labels: np.ndarray) -> None:
    """Write the same images as IDX, NumPy and CSV files."""
    arrays = folder / "arrays"
    arrays.mkdir()
    small = labels.astype(np.uint8)
    for prefix in ("", "emnist-letters-"):
        for split in ("train", "t10k") if not prefix else ("train", "test"):
            head = struct.pack(">4B3I", 0, 0, 8, 3, *images.shape)
            (arrays / f"{prefix}{split}-images-idx3-ubyte").write_bytes(head + images.tobytes())
            content = struct.pack(">4BI", 0, 0, 8, 1, len(small)) + small.tobytes()
            with gzip.open(arrays / f"{prefix}{split}-labels-idx1-ubyte.gz", "wb") as file:
                file.write(content)
    for split in ("train", "test"):
        np.savez(arrays / f"k49-{split}-imgs.npz", images)
        np.savez(arrays / f"k49-{split}-labels.npz", small)
    np.savez(folder / "mnist.npz", x_train=images, y_train=small, x_test=images, y_test=small)
    table = np.column_stack([small, images.reshape(len(images), -1)])
    header = ",".join(["label", *(f"pixel{number}" for number in range(1, 785))])
    np.savetxt(folder / "fashion-mnist_train.csv", table, "%d", ",", header=header, comments="")


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run commands in the folder, with a store of its own."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("LOUPE_DATA_DIR", str(folder / "data"))
    monkeypatch.setenv("BENTOML_HOME", str(folder / "home"))
    monkeypatch.setenv("KERAS_HOME", str(folder / "keras"))
    with using_store(folder / "home"):
        yield folder


def shortened(text: str) -> str:
    """Return a command that takes less time."""
    for pattern, (old, new) in SHORTER.items():
        if re.search(pattern, text, re.DOTALL):
            return re.sub(old, new, text)
    return text


@pytest.mark.parametrize(
    "command", commands_at(TRAININGS), ids=lambda command: f"{command.page}: {command.text}"
)
def test_training_runs(here: Path, command: Command, loupe: Loupe) -> None:
    text = command.text.replace("\\\n", " ")
    if re.search(r"(?<!:)\bmnist\b", text.replace("fashion-mnist", "")) and not DATA:
        pytest.skip("LOUPE_TEST_DATA names no folder with MNIST")
    if "fashion-mnist" in text and "csv:" not in text and not FASHION_MNIST.exists():
        pytest.skip("Debian's package dataset-fashion-mnist is not installed")
    if "--relabel" in text:
        assert loupe("data", "check", "folder:photos").code == 0
    if WEIGHTS in text:
        _write_weights(here / WEIGHTS)
    if "mnist_cnn.keras" in text:
        _write_network(here / "mnist_cnn.keras")
    if "RUN" in text:
        text = text.replace("RUN", _failed_run(loupe) if "--min" in text else _stopped_run(here))
    for placeholder, value in PLACEHOLDERS.items():
        text = re.sub(rf"\b{placeholder}\b", value, text)

    ended = loupe(*shlex.split(shortened(text))[1:])

    assert ended.code == 0, ended
    assert re.search(r"saved \S+:\w+|nothing to train|SWEEP", ended.out + ended.err), ended


def _write_weights(path: Path) -> None:
    """Write the weights of an untrained backbone, in the format of the files that Keras offers."""
    from train.tensorflow import import_tensorflow

    import_tensorflow()
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    size = {"input_shape": (128, 128, 3), "include_top": False}
    model = keras.applications.MobileNetV3Small(**size, weights=None)
    with h5py.File(path, "w") as file:
        legacy_h5_format.save_weights_to_hdf5_group(file, model)


def _write_network(path: Path) -> None:
    """Write a network that Keras trained on MNIST."""
    from train.tensorflow import import_tensorflow

    import_tensorflow()
    import keras

    from train.data.datasets import load

    (images, labels), _ = load("mnist", normalize=True)
    layers = [keras.layers.Input((28, 28, 1)), keras.layers.Flatten()]
    layers += [keras.layers.Dense(128, "relu"), keras.layers.Dense(10, "softmax")]
    model = keras.Sequential(layers)
    model.compile("adam", "sparse_categorical_crossentropy")
    model.fit(images[..., None], labels, epochs=1, verbose=0)
    model.save(path)


def _failed_run(loupe: Loupe) -> str:
    """Return a run whose model is not accurate enough."""
    ended = loupe(*shlex.split("train digits --architecture mlp --epochs 8 --min-accuracy 1"))
    found = re.search(r"--resume (\S+)", ended.out + ended.err)
    assert found, ended
    return found[1]


def _stopped_run(folder: Path) -> str:
    """Return a run that was stopped after its second epoch."""
    log = folder / "log"
    command = "train digits --architecture mlp --epochs 20 --patience 0"
    with running(log, *shlex.split(command)) as train:
        until(lambda: re.search(r"epoch +2/", log.read_text()))
        train.send_signal(signal.SIGTERM)
        assert until(train.poll) == 130
    found = re.search(r"--resume (\S+)", log.read_text())
    assert found
    return found[1]
