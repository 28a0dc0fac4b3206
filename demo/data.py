"""Get the demonstration's data from the best available source."""

import os
import shutil
import subprocess

from loupe.errors import DatasetNotFound
from loupe.terminal import console
from train.data.datasets import Dataset, load_dataset

DEBIAN_PACKAGE = "dataset-fashion-mnist"


def load() -> Dataset:
    """Load Fashion-MNIST from this machine, from Debian's package, or by download.

    If none of that works, load scikit-learn's digits.
    """
    try:
        dataset = _load_fashion_mnist()
    except DatasetNotFound as error:
        console.print(error.message)
        console.print("Fashion-MNIST is not available: using scikit-learn's digits.", style="bold")
        dataset = load_dataset("digits")
    train, test = len(dataset.train.images), len(dataset.test.images)
    console.print(f"{dataset.name}: {train:,} training images, {test:,} test images")
    return dataset


def _load_fashion_mnist() -> Dataset:
    try:
        return load_dataset("fashion-mnist", download=False)
    except DatasetNotFound:
        if os.geteuid() == 0 and shutil.which("apt-get"):
            _install_package()
        return load_dataset("fashion-mnist")


def _install_package() -> None:
    """Install Debian's package of the data set; if that fails, the caller still downloads it."""
    with console.status(f"installing Debian's package {DEBIAN_PACKAGE}"):
        for command in (["apt-get", "update"], ["apt-get", "install", "--yes", DEBIAN_PACKAGE]):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                problem = done.stderr.strip().splitlines()[-1:]
                console.print(f"{' '.join(command)} failed: {problem}")
                return
    console.print(f"installed Debian's package {DEBIAN_PACKAGE}")
