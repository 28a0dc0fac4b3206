"""Check Keras files that may be hostile, without building anything that they describe."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import h5py
from pydantic import JsonValue

from loupe.errors import InvalidModel
from loupe.text import one_line
from train.importing.formats.onnx_files import check_size, recurrent_model

CONFIG, WEIGHTS = "config.json", "model.weights.h5"
MAX_CONFIG_BYTES = 2**24  # the largest of keras.applications have 2 MB
# Layers that run code from the file, read other files, or leave TensorFlow.
UNSAFE = frozenset(
    {"Lambda", "TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"}
    | {"StringLookup", "IntegerLookup", "TextVectorization", "Hashing", "__lambda__"}
)
RECURRENT = frozenset(
    {"LSTM", "GRU", "SimpleRNN", "RNN", "Bidirectional"}
    | {"ConvLSTM1D", "ConvLSTM2D", "ConvLSTM3D", "LSTMCell", "GRUCell", "SimpleRNNCell"}
)
DAMAGED = (OSError, ValueError, KeyError, RuntimeError, zipfile.BadZipFile, RecursionError)


@contextmanager
def checked_keras(path: Path) -> Iterator[Path]:
    """Check a `.keras` file, an `.h5` file or the folder of an unzipped `.keras` file.

    Yields a path that Keras's loader accepts, in the block.

    Raises:
        InvalidModel: If the file is damaged or too large, or describes what Loupe does not run.
    """
    with tempfile.TemporaryDirectory(prefix="loupe-keras-") as temporary:
        try:
            if path.is_dir():
                yield _check_parts(path, path / CONFIG, path / WEIGHTS, Path(temporary))
            elif zipfile.is_zipfile(path):
                yield _check_zip(path, Path(temporary))
            else:
                yield _check_h5(path, Path(temporary))
        except DAMAGED as error:
            reason = one_line(" ".join(str(error).split())[:200])
            raise InvalidModel(
                f"'{path}' is not a Keras model, or a damaged or truncated one: {reason}",
                code="model_unreadable",
            ) from error


def _check_zip(path: Path, temporary: Path) -> Path:
    with zipfile.ZipFile(path) as archive:
        check_size(path, sum(each.file_size for each in archive.infolist()))
        for name in (CONFIG, WEIGHTS):
            with archive.open(name) as packed, (temporary / name).open("wb") as file:
                shutil.copyfileobj(packed, file)
    return _check_parts(path, temporary / CONFIG, temporary / WEIGHTS, temporary)


def _check_parts(path: Path, config: Path, weights: Path, temporary: Path) -> Path:
    """Check the two parts of a `.keras` file, and zip them again without any other."""
    check_size(path, config.stat().st_size + weights.stat().st_size)
    if config.stat().st_size > MAX_CONFIG_BYTES:
        raise InvalidModel(f"'{path}' has a {CONFIG} that is too large.", code="model_too_large")
    check_config(path, json.loads(config.read_bytes()))
    with h5py.File(weights) as file:
        _check_links(path, file)
    clean = temporary / "model.keras"
    with zipfile.ZipFile(clean, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.0.0"}))
        archive.write(config, CONFIG)
        archive.write(weights, WEIGHTS)
    return clean


def _check_h5(path: Path, temporary: Path) -> Path:
    check_size(path, path.stat().st_size)
    with h5py.File(path) as file:
        config = file.attrs.get("model_config")
        if config is None:
            raise InvalidModel(
                f"'{path}' has weights, but no network, as save_weights() and Transformers write "
                "it. Save the whole model: model.save('model.keras'), or export it to ONNX.",
                code="weights_only",
            )
        check_config(path, json.loads(config))
        _check_links(path, file)
    named = temporary / "model.h5"
    named.symlink_to(path.absolute())
    return named


def check_config(path: Path, config: JsonValue) -> None:
    """Raise `InvalidModel` if the description of a network has a layer that Loupe does not run."""
    unsafe, foreign, recurrent = set(), set(), set()
    for each in _objects(config):
        name, module = str(each["class_name"]), each.get("module")
        if name in UNSAFE:
            unsafe.add(name)
        elif name in RECURRENT:
            recurrent.add(name)
        elif module is not None and str(module).partition(".")[0] not in ("keras", "builtins"):
            foreign.add(f"{module}.{name}")
        elif ">" in name or ">" in str(each.get("registered_name") or ""):
            foreign.add(name)
    if unsafe:
        raise InvalidModel(
            f"'{path}' has the layer {_listed(unsafe)}, which can run any program or read other "
            "files. Replace it by layers of Keras, or export the model to ONNX.",
            code="unsafe_model",
        )
    if foreign:
        raise InvalidModel(
            f"'{path}' has layers that are not Keras's own: {_listed(foreign)}. Export it to ONNX.",
            code="custom_layers",
        )
    if recurrent:
        raise recurrent_model(path, recurrent)


def _objects(config: JsonValue) -> Iterator[dict[str, JsonValue]]:
    """Yield every object of a configuration that has a class, at any depth."""
    pending = [config]
    while pending:
        value = pending.pop()
        if isinstance(value, list):
            pending += value
        elif isinstance(value, dict):
            if "class_name" in value:
                yield value
            pending += value.values()


def _check_links(path: Path, file: h5py.File) -> None:
    """Raise `InvalidModel` if an HDF5 file takes data from other files, or unpacks to too much."""
    total = 0
    pending = [cast("h5py.Group", file)]
    seen = set()
    while pending:
        group = pending.pop()
        for name in group:
            link = group.get(name, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise InvalidModel(
                    f"'{path}' has a link instead of weights: {one_line(str(name))}.",
                    code="external_data",
                )
            item = group[name]
            if (address := h5py.h5o.get_info(item.id).addr) in seen:
                continue
            seen.add(address)
            if isinstance(item, h5py.Group):
                pending.append(item)
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise InvalidModel(
                        f"'{path}' takes weights from other files: {one_line(item.name)}.",
                        code="external_data",
                    )
                total += item.nbytes
    check_size(path, total)


def _listed(names: set[str]) -> str:
    return one_line(", ".join(sorted(names)[:3]))
