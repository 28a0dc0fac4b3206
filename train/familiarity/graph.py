"""Find the layer before the last one in an ONNX graph, and add the distance to it."""

from collections import deque
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from loupe.images.spec import Float32Array
from loupe.models.certainty import DISTANCE
from train.importing.formats.onnx_graph import ROWS, copy_model

DENSE = frozenset({"MatMul", "Gemm"})
# Operators between the last dense layer and the probabilities.
HEAD = frozenset(
    {"Softmax", "LogSoftmax", "Sigmoid", "Log", "Exp", "Add", "Sub", "Mul", "Div", "Sum", "Mean"}
    | {"Concat", "Identity", "Cast", "Clip", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
)
# Opset since which reductions take their axes as an input, and since which ReduceSum does.
AXES_ARE_INPUTS, SUMS_AXES_ARE_INPUTS = 18, 13
TINY = 1e-6  # added to the length of features, which may be 0


@dataclass(frozen=True)
class Layers:
    """Names of tensors of a graph.

    Attributes:
        features: The input of the last dense layer, or of the first of several views' layers.
        are_floats: Whether the features are known to be float32.
        logits: The input of the softmax; `None` if there is none.
        probabilities: Its output.
    """

    features: str
    are_floats: bool
    logits: str | None
    probabilities: str | None


@dataclass(frozen=True)
class Distance:
    """The distance of features and logits from what a model learnt.

    It is the least of `features @ centres` divided by the length of the features, minus
    `energy_weight` times the logarithm of the sum of the exponentials of the logits; but at least
    the length times `length_weight` plus `offset`, as noise may have long features.

    Attributes:
        centres: float32, shape `(features, m)`: directions of known features, with a negative
            length that weights them.
        energy_weight: 0 without logits.
        length_weight: Weight of the length.
        offset: See above.
    """

    centres: Float32Array
    energy_weight: float
    length_weight: float
    offset: float


def find_layers(model: onnx.ModelProto) -> Layers | None:
    """Return the layers of a classifier; `None` if it does not end in a dense layer.

    It is `None`, too, if a tensor has the name of the output to add.
    """
    graph = model.graph
    makers = {name: node for node in graph.node for name in node.output}
    if DISTANCE in makers:
        return None
    types = {each.name: each.data_type for each in graph.initializer}
    constants = types | {node.output[0]: 0 for node in graph.node if node.op_type == "Constant"}
    names, logits, probabilities = deque([graph.output[0].name]), None, None
    while names:
        node = makers.get(names.popleft())
        if node is None:
            continue
        if node.op_type in DENSE and node.input[1] in constants:
            are_floats = constants[node.input[1]] == TensorProto.FLOAT
            return Layers(node.input[0], are_floats, logits, probabilities)
        if node.op_type in HEAD:
            if node.op_type == "Softmax":
                logits, probabilities = node.input[0], node.output[0]
            names.extend(node.input)
    return None


def without_distance(model: onnx.ModelProto) -> None:
    """Remove the distance, and the output of features, from a model that Loupe exported."""
    graph = model.graph
    if [each.name for each in graph.output[1:2]] == [DISTANCE]:
        del graph.output[1:]
        nodes = [node for node in graph.node if DISTANCE not in node.output]
        del graph.node[:]
        graph.node.extend(nodes)


def exposing(model: onnx.ModelProto, layers: Layers) -> onnx.ModelProto:
    """Return the model with its layers as further outputs."""
    exposed, build = copy_model(model)
    names = [layers.features] + ([layers.logits] if layers.logits else [])
    for name in names:
        value = build.cast(name, TensorProto.FLOAT)
        exposed.graph.output.append(_output(value, None))
    exposed.graph.node.extend(build.nodes)
    return exposed


def with_distance(model: onnx.ModelProto, layers: Layers, distance: Distance) -> onnx.ModelProto:
    """Return the model with one more output: `distance`, float32 `(n,)`.

    A third one, the features, float32 `(n, d)`, takes no operator, and thus no time: the tensor has
    its own name. Features of another type are no output.
    """
    wrapped, build = copy_model(model)
    opset = next(each.version for each in model.opset_import if each.domain in ("", "ai.onnx"))
    axis = build.constant(np.array([1], np.int64)) if opset >= SUMS_AXES_ARE_INPUTS else ""

    def reduce(operator: str, value: str, since: int = AXES_ARE_INPUTS) -> str:
        if opset < since:
            return build.add(operator, value, axes=[1], keepdims=0)
        return build.add(operator, value, axis, keepdims=0)

    features = build.cast(layers.features, TensorProto.FLOAT)
    nearest = reduce("ReduceMin", build.add("MatMul", features, build.constant(distance.centres)))
    # ReduceL2 takes three times as long.
    squares = reduce("ReduceSum", build.add("Mul", features, features), SUMS_AXES_ARE_INPUTS)
    length = build.add("Add", build.add("Sqrt", squares), build.number(TINY))
    long = build.add("Mul", length, build.number(distance.length_weight))
    long = build.add("Add", long, build.number(distance.offset))
    far = build.add("Div", nearest, length)
    if layers.logits and layers.probabilities and distance.energy_weight:
        # OpenVINO reduces ReduceLogSumExp over the whole batch.
        logit, probability = (
            reduce("ReduceMax", build.cast(name, TensorProto.FLOAT))
            for name in (layers.logits, layers.probabilities)
        )
        energy = build.add("Sub", logit, build.add("Log", probability))
        far = build.add("Sub", far, build.add("Mul", energy, build.number(distance.energy_weight)))
    build.add("Max", far, long, to=DISTANCE)
    wrapped.graph.node.extend(build.nodes)
    wrapped.graph.initializer.extend(build.constants)
    wrapped.graph.output.append(_output(DISTANCE, ()))
    if layers.are_floats:
        wrapped.graph.output.append(_output(layers.features, distance.centres.shape[:1]))
    return wrapped


def _output(name: str, shape: tuple[int, ...] | None) -> onnx.ValueInfoProto:
    sides = None if shape is None else (ROWS, *shape)
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, sides)
