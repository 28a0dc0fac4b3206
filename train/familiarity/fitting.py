"""Fit the distance of images from what a model learnt, and measure it on validation images."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from scipy.special import logsumexp
from sklearn.cluster import MiniBatchKMeans

from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.certainty import DISTANCE, Familiarity
from loupe.runtime.cores import available_cores
from train.familiarity.graph import Distance, exposing, find_layers, with_distance

CENTRES = 32  # directions of features; more are hardly better, and cost time in every answer
MIN_IMAGES = 100  # of validation; 1 % of fewer is less than one image
MAX_IMAGES = 5_000  # to learn from, and to validate with
QUANTILES = 201  # of the distances in the card
BATCH = 256  # images
LENGTH_SHARE = 0.7  # of the length's extremes, compared with those of the other terms
TINY = 1e-6
EXTREME = 0.99  # quantile whose distance from the median is the unit of both terms


def add_familiarity(path: Path, known: UInt8Array, validation: UInt8Array) -> Familiarity | None:
    """Add the output `distance` to an ONNX file.

    Args:
        path: The file; its first output, the probabilities, stays as it is.
        known: Images that the model learnt, uint8 `(n, *shape)`.
        validation: Others of the same kind.

    Returns:
        What the card says about it; `None` if there are too few images, or the model does not end
        in a dense layer. The file is then unchanged.
    """
    model = onnx.load_model(path)
    layers = find_layers(model)
    if layers is None or len(known) < MIN_IMAGES or len(validation) < MIN_IMAGES:
        return None
    known, validation = _thinned(known), _thinned(validation)
    exposed = exposing(model, layers)
    features, *_ = _run(exposed, known)
    if features.ndim != 2 or not np.isfinite(features).all():
        return None
    finished = with_distance(model, layers, _fit(features, *_run(exposed, validation)))
    onnx.save_model(finished, path)
    (distances,) = _run(finished, validation, [DISTANCE])
    if not np.isfinite(distances).all() or np.ptp(distances) == 0:
        onnx.save_model(model, path)
        return None
    quantiles = np.quantile(distances.astype(np.float64), np.linspace(0, 1, QUANTILES))
    return Familiarity(distances=tuple(quantiles.tolist()), images=len(validation))


def _thinned(images: UInt8Array) -> UInt8Array:
    """Return at most `MAX_IMAGES`, evenly spaced: images may be sorted by class."""
    return images[:: -(-len(images) // MAX_IMAGES)]


def _fit(
    known: Float32Array, validation: Float32Array, logits: Float32Array | None = None
) -> Distance:
    """Fit the distance to features of known images, `(n, d)`, and weight its terms.

    Each term counts as much as its extreme validation images lie from the median ones; the length
    of the features counts less, as it tells less.
    """
    centres = MiniBatchKMeans(
        min(CENTRES, len(known)), random_state=0, n_init=1, batch_size=1024
    ).fit(_directions(known))
    directions = _directions(centres.cluster_centers_)
    cosine = (_directions(validation) @ directions.T).max(axis=1)
    weighted = directions.T * np.float32(-_weight(cosine))
    distances = -_weight(cosine) * cosine
    energy_weight = 0.0
    if logits is not None:
        energy = logsumexp(logits, axis=1)
        energy_weight = _weight(energy)
        distances = distances - energy_weight * energy
    lengths = np.linalg.norm(validation, axis=1)
    length_weight = LENGTH_SHARE * _weight(-lengths) / max(_weight(-distances), TINY)
    offset = float(np.median(distances) - length_weight * np.median(lengths))
    if not length_weight:  # all features are as long
        offset = float(distances.min()) - 1
    return Distance(
        np.ascontiguousarray(weighted, np.float32), energy_weight, length_weight, offset
    )


def _directions(features: Float32Array) -> Float32Array:
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)


def _weight(values: Float32Array) -> float:
    """Return what makes the distance from the median to the lowest values 1; 0 without a spread."""
    spread = float(np.median(values) - np.quantile(values, 1 - EXTREME))
    return 1 / spread if spread > 0 else 0.0


def _run(
    model: onnx.ModelProto, images: UInt8Array, outputs: list[str] | None = None
) -> list[Float32Array]:
    """Return the named outputs of a model, or all but the first, for images."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = available_cores()
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = outputs or [each.name for each in session.get_outputs()[1:]]
    taken = session.get_inputs()[0].name
    starts = range(0, len(images), BATCH)
    batches = [session.run(names, {taken: images[at : at + BATCH]}) for at in starts]
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]
