"""A given SavedModel, run by TensorFlow, and converted to ONNX for the store.

A SavedModel is a program: its operations can read and write files. Its description is checked
before TensorFlow loads it.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf2onnx
from google.protobuf.message import DecodeError
from tensorflow.core.framework.node_def_pb2 import NodeDef
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel as Description

from loupe.errors import InvalidModel
from loupe.text import one_line
from train.importing.formats.onnx_files import check_operators, check_size
from train.importing.formats.onnx_graph import replace_erfc
from train.importing.formats.onnx_model import OnnxModel
from train.importing.wiring import Inputs, Outputs
from train.tensorflow import quiet

FILE = "saved_model.pb"
SIGNATURE = "serving_default"
# Operations on files, networks, strings and tables, and those that call Python.
UNSAFE = re.compile(
    r"File|Py_?[Ff]unc|Save|Restore|Checkpoint|Socket|Server|Send|Recv|Remote|Rpc|Dataset|Iterator"
    r"|Lookup|Table|Reader|Print|Debug|Summary|Audio|Jpeg|Png|String|Regex|Xla|TPU|Custom|Exec"
)
# TensorFlow's own functions that save and restore variables; loading does not run them.
CHECKPOINTING = re.compile(r"__inference__traced_(save|restore)_\d+")


class SavedModel(OnnxModel):
    """The model in a folder of a SavedModel."""

    def __init__(self, path: Path) -> None:
        description = _read(path)
        _check(path, description)
        version = description.meta_graphs[0].meta_info_def.tensorflow_version
        try:
            with quiet(on_failure=True):
                # Keep the loaded object: its variables end with it.
                self._loaded = tf.saved_model.load(str(path))
                function = self._loaded.signatures[SIGNATURE]
                (name, spec), (output,) = _ends(path, function)
                self._function = tf.function(
                    partial(_call, function, name, output), input_signature=[spec]
                )
                proto, _ = tf2onnx.convert.from_function(self._function, [spec])
        except InvalidModel:
            raise
        except Exception as error:  # TensorFlow and tf2onnx raise every kind
            line = one_line(" ".join(str(error).split())[:300])
            raise InvalidModel(
                f"'{path}' cannot be converted to ONNX: {line}", code="model_unsupported"
            ) from error
        replace_erfc(proto)
        check_operators(proto, path)
        super().__init__(proto, path)
        self.format = f"SavedModel, TensorFlow {version}"
        self.made_with |= {"tensorflow": tf.__version__, "tf2onnx": tf2onnx.__version__}

    def run_batch(self, inputs: Inputs) -> Outputs:
        """See `GivenModel.run_batch`."""
        try:
            return np.asarray(self._function(tf.constant(inputs)))
        except tf.errors.OpError as error:
            raise self._refused("run", error) from error


def _call(
    function: tf.types.experimental.ConcreteFunction, name: str, output: str, inputs: tf.Tensor
) -> tf.Tensor:
    return function(**{name: inputs})[output]


def _ends(
    path: Path, function: tf.types.experimental.ConcreteFunction
) -> tuple[tuple[str, tf.TensorSpec], tuple[str]]:
    """Return the one input of a signature, and the name of its one output."""
    inputs, outputs = function.structured_input_signature[1], function.structured_outputs
    if len(inputs) != 1 or len(outputs) != 1:
        raise InvalidModel(
            f"'{path}' has {len(inputs)} inputs and {len(outputs)} outputs. Loupe needs one input, "
            "the image, and one output, the classes.",
            code="not_an_image_model",
        )
    (item,), (output,) = inputs.items(), outputs
    return item, (output,)


def _read(path: Path) -> Description:
    """Read the description of a SavedModel, whose files must be regular and not too large."""
    files = list(path.rglob("*"))
    if any(each.is_symlink() for each in files):
        raise InvalidModel(f"'{path}' holds links. Copy the files there.", code="external_data")
    check_size(path, sum(each.stat().st_size for each in files if each.is_file()))
    description = Description()
    try:
        description.ParseFromString((path / FILE).read_bytes())
        graph = description.meta_graphs[0]
    except (DecodeError, IndexError) as error:
        raise InvalidModel(
            f"'{path / FILE}' is damaged or truncated.", code="model_unreadable"
        ) from error
    if not graph.HasField("object_graph_def") or SIGNATURE not in graph.signature_def:
        raise InvalidModel(
            f"'{path}' has no signature '{SIGNATURE}' of TensorFlow 2.", code="model_unsupported"
        )
    return description


def _check(path: Path, description: Description) -> None:
    """Raise `InvalidModel` for operations that reach out of the model, or cannot be converted."""
    graph = description.meta_graphs[0]
    functions = graph.graph_def.library.function
    # Only nodes of the graph itself, which TensorFlow 2 does not run, may call these.
    unchecked = {
        each.signature.name for each in functions if CHECKPOINTING.fullmatch(each.signature.name)
    } - set(graph.object_graph_def.concrete_functions)
    for node in graph.graph_def.node:
        _check_node(path, node, set())
    for function in functions:
        if function.signature.name not in unchecked:
            for node in function.node_def:
                _check_node(path, node, unchecked)
        if function.attr["_XlaMustCompile"].b:  # as Keras does for convolutions in groups
            raise InvalidModel(
                f"'{path}' has parts that only XLA runs, such as convolutions in groups, and that "
                "tf2onnx cannot convert. Import the model's .keras file instead.",
                code="model_unsupported",
            )


def _check_node(path: Path, node: NodeDef, forbidden: set[str]) -> None:
    values = node.attr.values()
    called = {value.func.name for value in values if value.HasField("func")}
    called |= {each.name for value in values for each in value.list.func}
    if UNSAFE.search(node.op) or called & forbidden:
        raise InvalidModel(
            f"'{path}' has the operation {one_line(node.op)}, which can read or write files or run "
            "other programs. Export the model without it, or to ONNX.",
            code="unsafe_model",
        )
