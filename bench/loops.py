"""What a short script would do with a whole image set: Pillow, and ONNX Runtime with its default options."""

import io
import os
import tarfile
import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO

import numpy as np
import onnxruntime as ort
from PIL import Image

from bench.turns import seconds
from loupe import idx
from loupe.images import Float32Array, UInt8Array
from loupe.store import ONNX_FILE, StoredModel

BATCH_SIZES = (32, 128, 512, 2048)


class PlainLoop:
    """A loop over images, at the batch size that suits it best.

    Args:
        model: What scores.
        sample: uint8 `(n, 28, 28)`, to find that batch size with.
    """

    def __init__(self, model: StoredModel, sample: UInt8Array) -> None:
        self._session = ort.InferenceSession(model.folder / ONNX_FILE, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name
        self._batch_size = min(BATCH_SIZES, key=lambda size: seconds(lambda: self._score(sample, size)))

    def score_npy(self, path: Path) -> Float32Array:
        """Probabilities of the images in an `.npy` file, float32 `(n, classes)`, as are all of these."""
        return self._score(np.load(path, mmap_mode="r"), self._batch_size)

    def score_idx(self, path: Path) -> Float32Array:
        """Of those in an IDX file."""
        return self._score(idx.read(path), self._batch_size)

    def score_folder(self, folder: Path) -> Float32Array:
        """Of the picture files in a folder."""
        names = sorted(os.listdir(folder))  # noqa: PTH208 - twice as fast as pathlib
        return self._score_pictures(f"{folder}/{name}" for name in names)

    def score_zip(self, path: Path) -> Float32Array:
        """Of those in a zip archive."""
        with zipfile.ZipFile(path) as archive:
            return self._score_pictures(io.BytesIO(archive.read(name)) for name in archive.namelist())

    def score_tars(self, folder: Path) -> Float32Array:
        """Of those in the tar archives of a folder."""
        return self._score_pictures(_in_tars(sorted(folder.iterdir())))

    def _score(self, images: UInt8Array, batch_size: int) -> Float32Array:
        batches = (images[start : start + batch_size] for start in range(0, len(images), batch_size))
        return np.concatenate([self._run(batch) for batch in batches])

    def _score_pictures(self, files: Iterable[str | IO[bytes]]) -> Float32Array:
        images = (np.asarray(Image.open(file).convert("L")) for file in files)
        batches = iter(lambda: list(islice(images, self._batch_size)), [])
        return np.concatenate([self._run(np.stack(batch)) for batch in batches])

    def _run(self, images: UInt8Array) -> Float32Array:
        probabilities: Float32Array = self._session.run(None, {self._input: images})[0]
        return probabilities


def _in_tars(paths: Iterable[Path]) -> Iterator[IO[bytes]]:
    for path in paths:
        with tarfile.open(path) as archive:
            for member in archive:
                file = archive.extractfile(member)
                if file is not None:
                    yield file
