"""Build the connection of Loupe's images to a given model into its ONNX graph.

The model's own operators, weights and opset stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from train.importing.formats.onnx_files import graphs
from train.importing.wiring import TINY, Wiring

MIN_IR_VERSION = 4  # the first whose constants need not be inputs, too
MIN_SCAN_OPSET = 11  # `Scan` is older, but not the operators that pad and cut a batch
ROWS = "n"  # name of the batch axis


@dataclass
class Builder:
    """New operators and constants of a graph, whose names are not those of the model."""

    taken: set[str]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: list[TensorProto] = field(default_factory=list)

    def name(self, wanted: str) -> str:
        """Return a name that is not taken, and take it."""
        while wanted in self.taken:
            wanted += "_"
        self.taken.add(wanted)
        return wanted

    def constant(self, value: NDArray[np.generic]) -> str:
        """Add a constant and return its name."""
        name = self.name(f"constant_{len(self.constants)}")
        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def add(self, operator: str, *inputs: str, to: str | None = None, **attributes: object) -> str:
        """Add an operator and return the name of its output."""
        output = to or self.name(f"{operator.lower()}_{len(self.nodes)}")
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def number(self, value: float) -> str:
        """Add a float32 constant of shape `(1,)`."""
        return self.constant(np.array([value], np.float32))

    def cast(self, value: str, dtype: int) -> str:
        """Convert a value to one of ONNX's types."""
        output = self.name("cast")
        self.nodes.append(helper.make_node("Cast", [value], [output], to=dtype))
        return output

    def reshape(self, value: str, shape: Sequence[int], to: str | None = None) -> str:
        """Reshape a value; 0 in `shape` keeps an axis."""
        return self.add("Reshape", value, self.constant(np.array(shape, np.int64)), to=to)


def wrap(
    model: onnx.ModelProto,
    wiring: Wiring,
    *,
    units: int,
    temperature: float = 1.0,
    rows: int | None = None,
) -> onnx.ModelProto:
    """Return a model from `images`, uint8 `(n, *spec.shape)`, to `probabilities`.

    Args:
        model: The given model, with one input and one output.
        wiring: What these are.
        units: Number of its outputs for an image: the classes, or 1 for two classes.
        temperature: Divides the logits.
        rows: Batch size of the model, if it takes no other; it then runs in a loop.
    """
    wrapped, build = copy_model(model)
    images, probabilities = build.name("images"), build.name("probabilities")
    given = wrapped.graph.input[0].name, wrapped.graph.output[0].name
    if rows is None:
        _prepare(build, images, wiring, to=given[0])
        build.nodes += wrapped.graph.node
        outputs = given[1]
    else:
        inputs = _prepare(build, images, wiring, to=build.name("inputs"))
        outputs = _in_loop(build, images, inputs, wrapped.graph, rows, wiring)
        del wrapped.graph.initializer[:], wrapped.graph.sparse_initializer[:]
        del wrapped.graph.value_info[:], wrapped.graph.quantization_annotation[:]
    dtype = model.graph.output[0].type.tensor_type.elem_type
    rows_of_classes = _finish(build, outputs, units, dtype, wiring, temperature)
    build.add("Identity", rows_of_classes, to=probabilities)
    for repeated, values in (
        (wrapped.graph.node, build.nodes),
        (wrapped.graph.input, [_tensor(images, TensorProto.UINT8, wiring.spec.shape)]),
        (wrapped.graph.output, [_tensor(probabilities, TensorProto.FLOAT, (max(units, 2),))]),
    ):
        del repeated[:]
        repeated.extend(values)
    wrapped.graph.initializer.extend(build.constants)
    return wrapped


def with_free_batch(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return the model with any batch size in its signature; its operators may not allow it."""
    copy, _ = copy_model(model)
    del copy.graph.value_info[:]
    for value in (copy.graph.input[0], copy.graph.output[0]):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_param = ROWS
    return copy


def replace_erfc(model: onnx.ModelProto) -> None:
    """Replace `Erfc`, which tf2onnx leaves in GELU and ONNX does not have, by `1 - Erf`."""
    nodes = list(model.graph.node)
    if all(node.op_type != "Erfc" for node in nodes):
        return
    one = numpy_helper.from_array(np.array(1, np.float32), "loupe_one")
    del model.graph.node[:]
    for node in nodes:
        if node.op_type != "Erfc":
            model.graph.node.append(node)
            continue
        erf = f"{node.output[0]}_erf"
        model.graph.node.append(helper.make_node("Erf", node.input, [erf]))
        model.graph.node.append(helper.make_node("Sub", [one.name, erf], node.output))
    model.graph.initializer.append(one)


def copy_model(model: onnx.ModelProto) -> tuple[onnx.ModelProto, Builder]:
    """Copy a model; constants that are inputs, too, become constants only."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.ir_version = max(copy.ir_version, MIN_IR_VERSION)
    constants = {tensor.name for tensor in copy.graph.initializer}
    inputs = [value for value in copy.graph.input if value.name not in constants]
    del copy.graph.input[:]
    copy.graph.input.extend(inputs)
    taken = {
        name
        for graph in graphs(copy)
        for node in graph.node
        for name in (*node.input, *node.output)
    }
    return copy, Builder(taken | constants | {value.name for value in inputs})


def _prepare(build: Builder, images: str, wiring: Wiring, to: str) -> str:
    """Add what `Wiring.prepare` does."""
    value, spec = images, wiring.spec
    if wiring.dtype != "uint8":
        value = build.cast(value, TensorProto.FLOAT)
        for operator, numbers, neutral in (("Sub", wiring.mean, 0.0), ("Div", wiring.std, 1.0)):
            if any(number != neutral for number in numbers):
                channels = numbers if len(numbers) == spec.channels else numbers[:1]
                value = build.add(operator, value, build.constant(np.array(channels, np.float32)))
        if wiring.dtype != "float32":
            value = build.cast(value, helper.np_dtype_to_tensor_dtype(np.dtype(wiring.dtype)))
    if wiring.channels_first:
        value = build.add("Transpose", value, perm=[0, 3, 1, 2])
    return build.reshape(value, (0, *wiring.shape), to=to)


def _in_loop(
    build: Builder,
    images: str,
    inputs: str,
    graph: onnx.GraphProto,
    rows: int,
    wiring: Wiring,
) -> str:
    """Run a graph of batch size `rows` on any number of inputs, and return `(n, classes)`.

    The batch, which is not empty, is padded to whole runs.
    """

    def numbers(*values: int) -> str:
        return build.constant(np.array(values, np.int64))

    count = build.add("Gather", build.add("Shape", images), numbers(0))  # (1,)
    steps = build.add("Div", build.cast(count, TensorProto.FLOAT), build.number(rows))
    runs = build.cast(build.add("Ceil", steps), TensorProto.INT64)
    padding = np.zeros((rows, *wiring.shape), wiring.dtype)
    padded = build.add("Concat", inputs, build.constant(padding), axis=0)
    total = build.add("Mul", runs, numbers(rows))
    cut = build.add("Slice", padded, numbers(0), total, numbers(0))
    shape = build.add("Concat", runs, numbers(rows, *wiring.shape), axis=0)
    stacked = build.add("Reshape", cut, shape)  # (runs, rows, *wiring.shape)
    body = onnx.GraphProto()
    body.CopyFrom(graph)
    answers = build.add("Scan", stacked, body=body, num_scan_inputs=1)  # (runs, rows, classes…)
    flat = build.add("Reshape", answers, build.add("Concat", total, numbers(-1), axis=0))
    return build.add("Slice", flat, numbers(0), count, numbers(0))


def _finish(
    build: Builder, outputs: str, units: int, dtype: int, wiring: Wiring, temperature: float
) -> str:
    """Add what `Wiring.to_logits` does, and a softmax with a temperature."""
    value = build.reshape(outputs, (0, units))
    if dtype != TensorProto.FLOAT:
        value = build.cast(value, TensorProto.FLOAT)
    probabilities = wiring.output == "probabilities"
    if units == 1:
        other = (
            build.add("Sub", build.number(1), value)
            if probabilities
            else build.add("Mul", value, build.number(0))
        )
        value = build.add("Concat", other, value, axis=1)
    if probabilities and temperature == 1:
        return value
    if probabilities:
        value = build.add("Log", build.add("Add", value, build.number(TINY)))
    if temperature != 1:
        value = build.add("Mul", value, build.number(1 / temperature))
    return build.add("Softmax", value, axis=1)


def _tensor(name: str, dtype: int, shape: Sequence[int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, dtype, [ROWS, *shape])
