"""Small ONNX models, as other programs write them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from loupe.images.spec import Float32Array, UInt8Array

CLASSES = 3
TOLERANCE = 1e-4  # of probabilities that pass through another program


def convolution(
    path: Path,
    *,
    shape: Sequence[int | str],
    flat: Sequence[int] = (0, -1),
    dtype: int = TensorProto.FLOAT,
    tail: Sequence[str] = (),
    units: int = CLASSES,
    scale: float | None = None,
    opset: int = 17,
    ir_version: int = 8,
) -> Path:
    """Write a network with one convolution, a matrix product, and then the operators of `tail`.

    Args:
        path: The file.
        shape: Of the input: NCHW, or NHWC if the last side is 1 or 3.
        flat: Shape of the features.
        dtype: Of the input, the weights and the outputs.
        tail: Operators without weights.
        units: Number of outputs.
        scale: Multiplies the pixels first.
        opset: Version of the operators.
        ir_version: Version of the file format.
    """
    last = shape[-1] in (1, 3)
    channels, height, width = (shape[3], *shape[1:3]) if last else shape[1:]
    assert isinstance(channels, int)
    assert isinstance(height, int)
    assert isinstance(width, int)
    random = np.random.default_rng(0)
    number = helper.tensor_dtype_to_np_dtype(dtype)
    weights = {
        "kernel": random.normal(size=(4, channels, 3, 3)).astype(number),
        "matrix": (random.normal(size=(4 * (height - 2) * (width - 2), units)) / 40).astype(number),
        "flat": np.array(flat),
    }
    if scale:
        weights["scale"] = np.array(scale, number)
    nodes, value = [], "pixels"
    for name, operator, inputs, options in (
        *([("scaled", "Mul", ["scale"], {})] if scale else []),
        *([("first", "Transpose", [], {"perm": [0, 3, 1, 2]})] if last else []),
        ("maps", "Conv", ["kernel"], {}),
        ("active", "Relu", [], {}),
        ("row", "Reshape", ["flat"], {}),
        ("product", "MatMul", ["matrix"], {}),
        *((f"tail_{index}", operator, [], {}) for index, operator in enumerate(tail)),
    ):
        nodes.append(helper.make_node(operator, [value, *inputs], [name], **options))
        value = name
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("pixels", dtype, shape)],
        [helper.make_tensor_value_info(value, dtype, [shape[0], units])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return save(path, graph, opset=opset, ir_version=ir_version)


def save(
    path: Path, graph: onnx.GraphProto, *, opset: int = 17, ir_version: int = 8, domain: str = ""
) -> Path:
    """Write a graph as a model; `domain` is one more set of operators."""
    opsets = [helper.make_opsetid("", opset)]
    if domain:
        opsets.append(helper.make_opsetid(domain, 1))
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version)
    model.producer_name, model.producer_version = "tests", "1.0"
    onnx.save_model(model, path)
    return path


def single(
    path: Path,
    operator: str,
    inputs: Sequence[tuple[int, Sequence[int | str]]],
    output: Sequence[int | str],
    *,
    outputs: int = 1,
    domain: str = "",
    result: int | None = TensorProto.FLOAT,
    **options: object,
) -> Path:
    """Write a model of one operator, with inputs of these types and shapes.

    `result` is the type of the outputs; `None` for lists of floats.
    """
    names = [f"input_{index}" for index in range(len(inputs))]
    results = [f"output_{index}" for index in range(outputs)]
    graph = helper.make_graph(
        [helper.make_node(operator, names, results, domain=domain, **options)],
        "network",
        [
            helper.make_tensor_value_info(name, dtype, shape)
            for name, (dtype, shape) in zip(names, inputs, strict=True)
        ],
        [
            helper.make_tensor_sequence_value_info(name, TensorProto.FLOAT, None)
            if result is None
            else helper.make_tensor_value_info(name, result, output)
            for name in results
        ],
    )
    return save(path, graph, domain=domain)


def softmax(logits: NDArray[np.floating]) -> NDArray[np.floating]:
    """Return the probabilities of logits `(n, classes)`."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def given_answers(path: Path, inputs: NDArray[np.generic], batch: int = 1) -> Float32Array:
    """Run the given file itself, `batch` inputs at a time."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    runs = [session.run(None, {name: each})[0] for each in np.split(inputs, len(inputs) // batch)]
    return np.concatenate(runs).astype(np.float32)


def photos(*shape: int, count: int = 12) -> UInt8Array:
    """Return noise: uint8 `(count, *shape)`."""
    return np.random.default_rng(1).integers(0, 256, (count, *shape)).astype(np.uint8)
