"""Read ONNX files that may be hostile, without running anything in them."""

from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx.external_data_helper import load_external_data_for_tensor, uses_external_data

from loupe.errors import InvalidModel
from loupe.files import file_inside
from loupe.text import one_line

MAX_BYTES = 2**30  # of a model with its external data; protobuf cannot hold twice as much
STANDARD_DOMAINS = frozenset({"", "ai.onnx", "ai.onnx.ml"})
# Operators that ONNX Runtime itself adds, as its optimiser and quantiser write them.
RUNTIME_DOMAINS = frozenset({"com.microsoft", "com.microsoft.nchwc"})
RECURRENT = frozenset({"LSTM", "GRU", "RNN"})
MAX_LISTED = 3  # names in an error


def read_onnx(path: Path) -> onnx.ModelProto:
    """Return the model of an ONNX file, with its external data.

    Raises:
        InvalidModel: If the file is too large or damaged, uses custom operators, or refers to data
            outside its folder.
    """
    check_size(path, path.stat().st_size)
    try:
        model = onnx.load_model(path, load_external_data=False)
    except DecodeError as error:
        raise InvalidModel(
            f"'{path}' is neither a Keras nor an ONNX file, or a damaged or truncated one.",
            code="model_unreadable",
        ) from error
    if not model.graph.node:
        raise InvalidModel(
            f"'{path}' has no operators: it is no ONNX model, or a truncated one.",
            code="model_unreadable",
        )
    check_operators(model, path)
    external = [tensor for tensor in tensors(model) if uses_external_data(tensor)]
    if external:
        _check_external(path, external)
        for tensor in external:
            load_external_data_for_tensor(tensor, str(path.parent))
    return model


def check_size(path: Path, size: int) -> None:
    """Raise `InvalidModel` if a model is too large to be one for small images."""
    if size > MAX_BYTES:
        raise InvalidModel(
            f"'{path}' has {size:,} bytes; the limit for models is {MAX_BYTES:,}.",
            code="model_too_large",
        )


def graphs(model: onnx.ModelProto) -> Iterator[onnx.GraphProto | onnx.FunctionProto]:
    """Yield the graph, those inside its operators, and the model's own functions."""
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += attribute.graphs


def tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Yield all constants of a model."""
    for graph in graphs(model):
        if isinstance(graph, onnx.GraphProto):
            yield from graph.initializer
            for sparse in graph.sparse_initializer:
                yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                yield from [attribute.t] if attribute.HasField("t") else []
                yield from attribute.tensors
                for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                    yield from (sparse.values, sparse.indices)


def check_operators(model: onnx.ModelProto, path: Path) -> None:
    """Raise `InvalidModel` for operators that ONNX Runtime lacks, or that read sequences."""
    functions = {(function.domain, function.name) for function in model.functions}
    custom, recurrent = set(), set()
    for graph in graphs(model):
        for node in graph.node:
            if node.domain in STANDARD_DOMAINS:
                recurrent |= {node.op_type} & RECURRENT
            elif (
                node.domain not in RUNTIME_DOMAINS and (node.domain, node.op_type) not in functions
            ):
                custom.add(f"{node.domain}::{node.op_type}")
    if custom:
        raise InvalidModel(
            f"'{path}' uses custom operators, which ONNX Runtime does not have: {_listed(custom)}. "
            "Export it with standard operators only.",
            code="custom_operators",
        )
    if recurrent:
        raise recurrent_model(path, recurrent)


def recurrent_model(path: Path, layers: set[str]) -> InvalidModel:
    """Return the error for a model of sequences."""
    return InvalidModel(
        f"'{path}' has recurrent layers ({_listed(layers)}): it reads sequences, not images.",
        code="not_an_image_model",
    )


def _check_external(path: Path, external: list[onnx.TensorProto]) -> None:
    """Raise `InvalidModel` unless all external data is in regular files beside the model."""
    total = path.stat().st_size
    for tensor in external:
        fields = {entry.key: entry.value for entry in tensor.external_data}
        location = fields.get("location", "")
        file = file_inside(path.parent, location) if location else None
        parts = Path(location).parts
        plain = file is not None and not any(
            path.parent.joinpath(*parts[: end + 1]).is_symlink() for end in range(len(parts))
        )
        if file is None or not plain or ".." in parts or Path(location).is_absolute():
            raise InvalidModel(
                f"'{path}' takes weights from '{one_line(location)}', which is no regular file "
                "beside it. Copy all files of the model into one folder, without links.",
                code="external_data",
            )
        size = file.stat().st_size
        if not _number(fields, "offset") + _number(fields, "length") <= size:
            raise InvalidModel(
                f"'{file}' is shorter than '{path}' says: it is truncated, or of another model.",
                code="external_data",
            )
        total += int(_number(fields, "length")) or size
    check_size(path, total)


def _number(fields: dict[str, str], name: str) -> float:
    """Return a count of bytes, or NaN if it is none."""
    value = fields.get(name, "0")
    return int(value) if value.isascii() and value.isdigit() else float("nan")


def _listed(names: set[str]) -> str:
    first, more = sorted(names)[:MAX_LISTED], len(names) - MAX_LISTED
    return one_line(", ".join(first)) + (f" and {more} more" if more > 0 else "")
