"""Descriptions of models, for REST and gRPC: metadata, configuration, index and statistics.

Source: triton-inference-server/server, docs/protocol: extension_model_configuration.md,
extension_model_repository.md and extension_statistics.md. Numbers of 64 bits stay numbers in JSON.
"""

from collections.abc import Iterable

from loupe import __version__
from loupe.errors import Forbidden
from loupe.settings import EngineName, Settings
from service.prediction.decoding import max_images
from service.prediction.served_models import ServedModel
from service.prediction.statistics import Duration
from service.protocols.open_inference.requests import (
    FAMILIARITY,
    INDEX,
    INPUT,
    LABEL,
    PROBABILITIES,
)

SERVER = {
    "name": "loupe",
    "version": __version__,
    # Without `statistics`: perf_analyzer would read them, take versions for integers, and abort.
    "extensions": [
        "binary_tensor_data",
        "classification",
        "model_configuration",
        "model_repository",
    ],
}
# By engine.
PLATFORMS: dict[EngineName, str] = {
    "onnx": "onnxruntime_onnx",
    "openvino": "openvino_onnx",
    "tensorflow": "tensorflow_keras",
}
BACKENDS: dict[EngineName, str] = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "tensorflow": "tensorflow",
}
NANOSECONDS, MILLISECONDS = 1e9, 1e3  # in a second


def metadata(
    served: ServedModel, versions: Iterable[ServedModel], settings: Settings
) -> dict[str, object]:
    """Return the inputs and outputs of a model, and its served versions."""
    classes, spec = len(served.stored.card.class_names), served.stored.card.input
    return {
        "name": served.stored.name,
        "versions": [each.stored.version for each in versions],
        "platform": PLATFORMS[settings.engine],
        "inputs": [{"name": INPUT, "datatype": "UINT8", "shape": [-1, *spec.shape]}],
        "outputs": [
            {"name": PROBABILITIES, "datatype": "FP32", "shape": [-1, classes]},
            {"name": LABEL, "datatype": "BYTES", "shape": [-1]},
            {"name": INDEX, "datatype": "INT64", "shape": [-1]},
            *_familiarity_of(served, {"datatype": "FP32", "shape": [-1]}),
        ],
    }


def configuration(served: ServedModel, settings: Settings) -> dict[str, object]:
    """Return a `ModelConfig`: inputs and outputs without the axis of the batch."""
    scalar = {"dims": [1], "reshape": {"shape": []}}
    classes, spec = len(served.stored.card.class_names), served.stored.card.input
    return {
        "name": served.stored.name,
        "platform": PLATFORMS[settings.engine],
        "backend": BACKENDS[settings.engine],
        "max_batch_size": max_images(settings, spec),
        "input": [{"name": INPUT, "data_type": "TYPE_UINT8", "dims": [*spec.shape]}],
        "output": [
            {"name": PROBABILITIES, "data_type": "TYPE_FP32", "dims": [classes]},
            {"name": LABEL, "data_type": "TYPE_STRING", **scalar},
            {"name": INDEX, "data_type": "TYPE_INT64", **scalar},
            *_familiarity_of(served, {"data_type": "TYPE_FP32", **scalar}),
        ],
        **({"dynamic_batching": {}} if settings.batching else {}),
    }


def _familiarity_of(served: ServedModel, described: dict[str, object]) -> list[dict[str, object]]:
    """Return the description of the output, if the model has it."""
    return [] if served.familiarity is None else [{"name": FAMILIARITY, **described}]


def index(models: Iterable[ServedModel]) -> list[dict[str, str]]:
    """Return the served versions; those that are only in the store are not in the index."""
    return [
        {"name": model.stored.name, "version": model.stored.version, "state": "READY"}
        for model in models
    ]


def statistics(models: Iterable[ServedModel]) -> dict[str, list[dict[str, object]]]:
    """Return the statistics of each version since this process loaded it."""
    return {"model_stats": [_statistics_of(model) for model in models]}


def control_refused(model: str) -> Forbidden:
    """Return the error for a request to load or unload a model."""
    return Forbidden(
        f"Clients cannot load or unload {model!r}: the service follows the model store. "
        "Promote a version there: loupe models promote NAME:VERSION",
        code="model_control_forbidden",
    )


def _statistics_of(served: ServedModel) -> dict[str, object]:
    statistics = served.statistics
    answers, waits = statistics.succeeded.count, statistics.waits
    return {
        "name": served.stored.name,
        "version": served.stored.version,
        "last_inference": int(statistics.last_request * MILLISECONDS),
        "inference_count": statistics.images,
        "execution_count": sum(run.count for run in statistics.runs.values()),
        "inference_stats": {
            "success": _duration(statistics.succeeded),
            "fail": _duration(statistics.failed),
            "queue": _duration(Duration(waits, statistics.queue_seconds)),
            "compute_input": _duration(Duration(answers, statistics.decode_seconds)),
            "compute_infer": _duration(Duration(waits, statistics.compute_seconds)),
            "compute_output": _duration(Duration(answers, statistics.encode_seconds)),
        },
        "batch_stats": [
            {"batch_size": images, "compute_infer": _duration(run)}
            for images, run in sorted(statistics.runs.items())
        ],
    }


def _duration(duration: Duration) -> dict[str, int]:
    return {"count": duration.count, "ns": int(duration.seconds * NANOSECONDS)}
