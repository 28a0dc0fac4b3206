"""The nearest neighbours of every image of a data set, and what their labels say about its own."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from loupe.images.spec import Float32Array, UInt8Array
from train.data.splits import Int64Array

COUNT = 10  # neighbours of an image
COMPONENTS = 50  # principal components that are compared; more cost time and bring noise
SIDE = 28  # pixels; larger images shrink before they are compared
NEAR = 1e-3  # added to distances, so that a copy does not outvote all other neighbours


@dataclass(frozen=True)
class Neighbours:
    """The `k` nearest neighbours of `n` images, nearest first.

    Attributes:
        rows: int64, `(n, k)`: their rows.
        distances: float32, `(n, k)`, in grey levels: a root mean square over pixels, or less.
        residuals: float32, `(n,)`, in grey levels: what the principal components miss, as of noise.
    """

    rows: Int64Array
    distances: Float32Array
    residuals: Float32Array

    def probabilities(self, labels: Int64Array, classes: int) -> Float32Array:
        """Return the share of each class among an image's neighbours, nearer ones counting more.

        An image does not vote for itself: this is cross-validation that leaves one out.
        """
        weights = 1 / (self.distances + NEAR)
        weights /= weights.sum(axis=1, keepdims=True)
        shares = np.zeros((len(self.rows), classes), np.float32)
        np.add.at(shares, (np.arange(len(self.rows))[:, None], labels[self.rows]), weights)
        return shares


def find_neighbours(images: UInt8Array) -> Neighbours:
    """Return the neighbours of images, uint8 `(n, height, width[, 3])`.

    Comparing 70,000 images of 28 × 28 pixels takes about a minute of processor time.
    """
    from sklearn.decomposition import PCA
    from sklearn.neighbors import NearestNeighbors

    pixels = _small(images).reshape(len(images), -1).astype(np.float32)
    components = min(COMPONENTS, *pixels.shape)
    analysis = PCA(components, svd_solver="randomized", random_state=0)
    features = analysis.fit_transform(pixels)
    search = NearestNeighbors(n_neighbors=min(COUNT, len(images) - 1), algorithm="brute")
    distances, rows = search.fit(features).kneighbors()
    pixels -= analysis.mean_
    missed = np.square(pixels).mean(axis=1) - np.square(features).sum(axis=1) / pixels.shape[1]
    return Neighbours(
        rows,
        np.asarray(distances / np.sqrt(pixels.shape[1]), np.float32),
        np.sqrt(np.maximum(missed, 0)),
    )


def suspects(probabilities: Float32Array, labels: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Return rows whose labels are probably wrong, the surest first, and their likely classes.

    A class is likely where its probability is at least the mean of the images that have its label.
    Source: Northcutt, Jiang and Chuang, "Confident Learning", 2021,
    https://arxiv.org/abs/1911.00068.
    """
    classes = probabilities.shape[1]
    own = probabilities[np.arange(len(labels)), labels]
    counts = np.bincount(labels, minlength=classes)
    means = np.bincount(labels, own, classes) / np.maximum(counts, 1)
    likely = probabilities.argmax(axis=1)
    best = probabilities.max(axis=1)
    rows = np.flatnonzero((likely != labels) & (best >= means[likely]))
    rows = rows[np.argsort(own[rows] - best[rows], kind="stable")]
    return rows, likely[rows]


def oddness(neighbours: Neighbours, labels: Int64Array) -> NDArray[np.floating]:
    """Return how far each image is from its neighbours, for its class.

    0 is the median of the class, 1 a standard deviation of a normal distribution of logarithms.
    """
    logs = np.log(np.hypot(neighbours.distances.mean(axis=1), neighbours.residuals) + NEAR)
    found = np.zeros(len(logs))
    for label in np.unique(labels):
        of_class = logs[labels == label]
        middle = np.median(of_class)
        deviation = 1.4826 * np.median(np.abs(of_class - middle))
        found[labels == label] = (of_class - middle) / max(deviation, NEAR)
    return found


def _small(images: UInt8Array) -> UInt8Array:
    height, width = images.shape[1:3]
    if max(height, width) <= SIDE:
        return images
    scale = SIDE / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.stack(
        [np.asarray(Image.fromarray(each).resize(size, Image.Resampling.BOX)) for each in images]
    )
