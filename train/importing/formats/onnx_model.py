"""A given model in ONNX, run by ONNX Runtime."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper, numpy_helper

from loupe.errors import InvalidModel
from loupe.models.store import ONNX_FILE
from loupe.runtime.cores import available_cores
from train.familiarity.graph import without_distance
from train.importing.formats.given import GivenModel, OutputHint, Signature
from train.importing.formats.onnx_files import tensors
from train.importing.formats.onnx_graph import MIN_SCAN_OPSET, with_free_batch, wrap
from train.importing.wiring import Inputs, Outputs, Wiring

FATAL = 4  # ONNX Runtime's level of logs; its errors are exceptions, too
SAME = 1e-4  # maximum difference between a batch and its images one by one, relative to the largest
PASSED_ON = frozenset(
    {"Identity", "Cast", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten"}
)
MIN_DIVISOR = 30  # of pixels from 0 to 255, whose standard deviation is about 60


class OnnxModel(GivenModel):
    """A model of an ONNX file."""

    def __init__(self, proto: onnx.ModelProto, path: Path) -> None:
        without_distance(proto)
        self._proto = proto
        self._path = path
        self._session = self._start(proto)
        self._free = proto
        opsets = {each.domain: each.version for each in proto.opset_import}
        self._opset = opsets.get("", opsets.get("ai.onnx", 0))
        self.format = f"ONNX, opset {self._opset}"
        self.parameters = sum(int(np.prod(each.dims)) for each in tensors(proto))
        self.made_with = {"onnxruntime": ort.__version__}
        if proto.producer_name:
            self.made_with[proto.producer_name] = proto.producer_version or "unknown version"

    @property
    def signature(self) -> Signature:
        """See `GivenModel.signature`."""
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        names = [each.name for each in inputs], [each.name for each in outputs]
        if not inputs or not outputs or not inputs[0].type.startswith("tensor("):
            return Signature(*names, "none", ())
        value = next(each for each in self._proto.graph.input if each.name == inputs[0].name)
        elements = value.type.tensor_type.elem_type
        shape = tuple(side if isinstance(side, int) else None for side in inputs[0].shape)
        return Signature(*names, helper.tensor_dtype_to_np_dtype(elements).name, shape)

    @property
    def takes_bytes(self) -> bool:
        """See `GivenModel.takes_bytes`: look for a division near the input."""
        constants = {each.name: each for each in self._proto.graph.initializer}
        constants |= {
            node.output[0]: node.attribute[0].t
            for node in self._proto.graph.node
            if node.op_type == "Constant" and node.attribute[0].HasField("t")
        }
        for node in self._after(self._session.get_inputs()[0].name):
            known = [numpy_helper.to_array(constants[x]) for x in node.input if x in constants]
            if node.op_type not in ("Div", "Mul") or not known or not known[0].size:
                return False
            divisor = known[0] if node.op_type == "Div" else 1 / np.maximum(known[0], 1e-9)
            return bool((divisor > MIN_DIVISOR).all())
        return False

    @property
    def output_hint(self) -> OutputHint | None:
        """See `GivenModel.output_hint`: look at the last operator."""
        makers = {name: node for node in self._proto.graph.node for name in node.output}
        node = makers.get(self._proto.graph.output[0].name)
        while node is not None and node.op_type in PASSED_ON:
            node = makers.get(node.input[0])
        hints: dict[str, OutputHint] = {
            "Softmax": "probabilities",
            "LogSoftmax": "logits",
            "Sigmoid": "sigmoid",
        }
        return hints.get(node.op_type) if node is not None else None

    def run_batch(self, inputs: Inputs) -> Outputs:
        """See `GivenModel.run_batch`."""
        return self._answers(self._session, inputs)

    def settle(self, inputs: Inputs) -> None:
        """See `GivenModel.settle`: find out whether any batch size gives the same answers."""
        fixed = self.signature.shape[0] if self.signature.shape else None
        self.batch_size = fixed or 1
        alone = self.run(inputs)
        if not np.isfinite(alone).all():
            return  # refused later, as for every model
        free = with_free_batch(self._proto)
        try:
            together = self._answers(self._start(free), inputs)
        except InvalidModel:
            together = None
        limit = SAME * max(1.0, float(np.abs(alone).max(initial=0.0)))
        if (
            together is not None
            and together.shape == alone.shape
            and np.abs(together - alone).max(initial=0.0) <= limit
        ):
            self.batch_size, self._free = None, free
            self._session = self._start(free)
        elif self._opset < MIN_SCAN_OPSET:
            raise InvalidModel(
                f"'{self._path}' takes batches of {self.batch_size} only, and its opset is too old "
                f"to run it in a loop. Export it with a free batch size, or with opset "
                f"{MIN_SCAN_OPSET} or later.",
                code="fixed_batch",
            )

    def save(self, folder: Path, wiring: Wiring, units: int, temperature: float) -> tuple[str, ...]:
        """See `GivenModel.save`."""
        model = self._free if self.batch_size is None else self._proto
        wrapped = wrap(model, wiring, units=units, temperature=temperature, rows=self.batch_size)
        onnx.save_model(wrapped, folder / ONNX_FILE)
        return (ONNX_FILE,)

    def _start(self, proto: onnx.ModelProto) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = available_cores()
        options.log_severity_level = FATAL
        try:
            return ort.InferenceSession(
                proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its classes have no common base but this one
            raise self._refused("load", error) from error

    def _answers(self, session: ort.InferenceSession, inputs: Inputs) -> Outputs:
        try:
            answers = session.run(None, {session.get_inputs()[0].name: inputs})[0]
        except Exception as error:
            raise self._refused("run", error) from error
        if not isinstance(answers, np.ndarray):
            raise InvalidModel(
                f"'{self._path}' returns {session.get_outputs()[0].type}, not one tensor.",
                code="not_a_classifier",
            )
        return answers

    def _refused(self, action: str, error: Exception) -> InvalidModel:
        line = " ".join(str(error).split())
        return InvalidModel(
            f"ONNX Runtime cannot {action} '{self._path}': {line[:300]}", code="model_unsupported"
        )

    def _after(self, name: str) -> Iterator[onnx.NodeProto]:
        """Yield the operators that take the input, past those that only pass it on."""
        while True:
            users = [node for node in self._proto.graph.node if name in node.input]
            if len(users) != 1:
                return
            if users[0].op_type not in PASSED_ON:
                yield users[0]
                return
            name = users[0].output[0]
