"""An import ends within its limits of time and memory, whatever the model does."""

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from loupe.models.store import list_models
from tests.support.command import Loupe
from tests.support.onnx_models import convolution, save

pytestmark = pytest.mark.timeout(300)  # the limits are CPU time, which takes long on a busy machine

OPTIONS = ("--classes", "a,b,c", "--input", "0..1", "--name", "mine")


def endless(path: Path) -> None:
    """Write a network that adds 1 to its pixels 2⁴⁰ times."""
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["going"], ["still"]),
            helper.make_node("Add", ["value", "one"], ["more"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("value", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("still", TensorProto.BOOL, []),
            helper.make_tensor_value_info("more", TensorProto.FLOAT, None),
        ],
    )
    nodes = [
        helper.make_node("Loop", ["steps", "true", "pixels"], ["sum"], body=body),
        helper.make_node("ReduceMean", ["sum"], ["scores"], axes=[2, 3], keepdims=0),
    ]
    _save(path, nodes, steps=np.array(2**40), true=np.array(True), one=np.array(1, np.float32))


def vast(path: Path) -> None:
    """Write a network that adds the mean of 12 GB of zeros to its pixels."""
    nodes = [
        helper.make_node("Shape", ["pixels"], ["shape"]),
        helper.make_node("ReduceProd", ["shape"], ["count"], keepdims=1),
        helper.make_node("Mul", ["count", "many"], ["side"]),
        helper.make_node("ConstantOfShape", ["side"], ["zeros"]),
        helper.make_node("ReduceMean", ["zeros"], ["zero"], keepdims=0),
        helper.make_node("Add", ["pixels", "zero"], ["sum"]),
        helper.make_node("ReduceMean", ["sum"], ["scores"], axes=[2, 3], keepdims=0),
    ]
    _save(path, nodes, many=np.array([4_000_000]))


def _save(path: Path, nodes: list[onnx.NodeProto], **constants: NDArray[np.generic]) -> None:
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ("n", 3, 16, 16))],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ("n", 3))],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    save(path, graph)


@pytest.fixture
def limited(loupe: Loupe, store: Path, monkeypatch: pytest.MonkeyPatch) -> Loupe:
    """Import a model in a process of its own, whose output is not returned."""
    monkeypatch.setenv("BENTOML_HOME", str(store))
    monkeypatch.setenv("LOUPE_IMPORT_SECONDS", "10")
    return partial(loupe, "models", "import", *OPTIONS)


def test_a_model_is_imported_within_the_limits(limited: Loupe, tmp_path: Path) -> None:
    path = convolution(tmp_path / "m.onnx", shape=("n", 3, 16, 16))

    assert limited(path).code == 0
    assert [model.name for model in list_models()] == ["mine"]


def test_a_network_that_does_not_end_is_stopped(limited: Loupe, tmp_path: Path) -> None:
    endless(tmp_path / "m.onnx")
    ended = limited(tmp_path / "m.onnx")

    assert ended.err.startswith("error: model_too_costly: ")
    assert ended.err.count("\n") == 1
    assert "LOUPE_IMPORT_SECONDS" in ended.err
    assert not list_models()


def test_a_network_that_takes_too_much_memory_is_refused(limited: Loupe, tmp_path: Path) -> None:
    vast(tmp_path / "m.onnx")

    assert limited(tmp_path / "m.onnx").code == 1
    assert not list_models()
