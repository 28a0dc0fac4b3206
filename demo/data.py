"""Get the demonstration's data, whatever the machine has."""

import os
import shutil
import subprocess

from rich.console import Console

from loupe.errors import DatasetNotFound
from train.data.datasets import Dataset, load_dataset

DEBIAN_PACKAGE = "dataset-fashion-mnist"


def load(console: Console) -> Dataset:
    """Fashion-MNIST: from this machine, from Debian's package, or by download; scikit-learn's digits if none of that works."""
    try:
        dataset = _load_fashion_mnist(console)
    except DatasetNotFound as error:
        console.print(error.message, markup=False, highlight=False)
        console.print(
            "[bold]Fashion-MNIST cannot be had here: going on with scikit-learn's handwritten digits.[/]"
        )
        dataset = load_dataset("digits")
    train, test = len(dataset.train.images), len(dataset.test.images)
    console.print(f"{dataset.name}: {train:,} images to train on, {test:,} to test with")
    return dataset


def _load_fashion_mnist(console: Console) -> Dataset:
    try:
        return load_dataset("fashion-mnist", download=False)
    except DatasetNotFound:
        if os.geteuid() == 0 and shutil.which("apt-get"):
            _install_package(console)
        return load_dataset("fashion-mnist")


def _install_package(console: Console) -> None:
    """Install Debian's package of the data set; where that fails, the download is still to be tried."""
    with console.status(f"installing Debian's package {DEBIAN_PACKAGE}"):
        for command in (["apt-get", "update"], ["apt-get", "install", "--yes", DEBIAN_PACKAGE]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                console.print(
                    f"{' '.join(command)} failed: {done.stderr.strip().splitlines()[-1:]}",
                    highlight=False,
                )
                return
    console.print(f"installed Debian's package {DEBIAN_PACKAGE}")
