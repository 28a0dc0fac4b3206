"""A folder with the files of the examples, and how commands run in it."""

import json
import os
import re
import shlex
import shutil
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import onnx
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tests.support import pictures
from tests.support.command import Ended, Loupe
from tests.support.programs import environment
from tests.support.shell_examples import Command

ROOT = Path(__file__).parents[2]
TOOLS = Path(sys.executable).parent
# Parts of commands that stand for something else, and what that is in the tests.
PLACEHOLDERS = {
    "TAG": "digits:latest",
    "OTHER_TAG": "digits:production",
    "NAME": "digits",
    "OUT": "results",
    "DIR": "results",
    "SOURCE": "photos",
    "I/N": "0/1",
    "FILE": "colours.onnx",
    "PHOTOS": "photos",
    "digits:cmo3bfxfl63loax4": "digits:old",
    "digits:fhcy7uhfl6fhoax4": "digits:new",
    "digits:g4dmgjxfl66q2ax4": "digits:old",
    "digits:hxuq7rjm6ownqax4": "digits:new",
    "digits:g2ysd6bm6ownqax4": "digits:old",
    "digits:gypnbnbm6ownqax4": "fashion-mnist:first",
}
# Folders at the root of a file system, which lie below the folder of the tests.
AT_ROOT = re.compile(r"(?<![\w./}])/(?=(data|srv)/)")
IN_SHELL = re.compile(r"[|;&$*<>]|completion")


@dataclass(frozen=True)
class World:
    """A folder with the files of the examples, a store with models, a service and a worker.

    Attributes:
        folder: The folder in which commands run.
        variables: Environment variables of all commands.
        url: The address of the service, without a slash at the end.
    """

    folder: Path
    variables: dict[str, str]
    url: str

    def filled_in(self, text: str, loupe: Loupe) -> str:
        """Return a command with the names of the tests instead of placeholders."""
        for placeholder, value in PLACEHOLDERS.items():
            text = re.sub(rf"(?<![\w/]){placeholder}(?!\w)", value, text)
        if re.search(r"\bID\b", text):
            newest = json.loads(loupe("jobs", "list", "--json").out)[0]
            text = re.sub(r"\bID\b", newest["id"], text)
        return AT_ROOT.sub(f"{self.folder}/", text)

    def run(self, command: Command, loupe: Loupe) -> Ended:
        """Run a command of Loupe in this process, which saves a second, or any other in a shell."""
        text = self.filled_in(command.text, loupe)
        if text.startswith("loupe ") and not IN_SHELL.search(text):
            return loupe(*shlex.split(text, comments=True)[1:])
        ended = subprocess.run(
            ["bash", "-euc", with_silent_curl(text, self.url)],
            cwd=self.folder,
            env=shell_environment(self.folder, **self.variables),
            capture_output=True,
            text=True,
        )
        return Ended(ended.returncode, ended.stdout, ended.stderr)


def with_silent_curl(text: str, url: str) -> str:
    """Return a command that calls a service at another address, and fails if that refuses."""
    text = text.replace("localhost:3000", url.removeprefix("http://"))
    return text.replace("curl ", "curl --silent --show-error --fail-with-body ")


def shell_environment(home: Path, **variables: object) -> dict[str, str]:
    """Return the variables of a shell with the installed programs, and with another home."""
    return environment(**variables, PATH=f"{TOOLS}:{os.environ['PATH']}", HOME=home)


def answers(url: str, certificate: Path | None = None) -> Callable[[], bool]:
    """Return a function that returns whether a service is ready."""
    trusted = ssl.create_default_context(cafile=certificate) if certificate else False

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/readyz", verify=trusted).is_success
        except httpx.TransportError:
            return False

    return ready


def write_photos(folder: Path) -> None:
    """Write the pictures of a user, in a folder for each class."""
    shapes = pictures.shapes()
    for number, (image, label) in enumerate(
        zip(shapes.train.images, shapes.train.labels, strict=True)
    ):
        path = folder / shapes.class_names[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(pictures.png(image))


def write_files(folder: Path) -> None:
    """Write the files that examples use."""
    shutil.copytree(ROOT / "examples", folder / "examples")
    write_photos(folder / "photos")
    shapes = pictures.shapes()
    for name in ("test", "incoming", "srv/pictures/incoming"):
        shutil.copytree(folder / "photos", folder / name)
    (folder / "srv/loupe/.venv").mkdir(parents=True)
    (folder / "srv/loupe/.venv/bin").symlink_to(TOOLS)
    shutil.make_archive(str(folder / "photos"), "zip", folder / "photos")
    table = {"image": [pictures.png(image) for image in shapes.test.images[:9]]}
    columns = {"label": [0] * 9, "camera": ["a"] * 9, "taken_at": ["today"] * 9}
    pyarrow.parquet.write_table(pa.table(table | columns), folder / "test.parquet")
    _write_boots(folder / "boots.onnx", folder / "classes.txt")
    _write_network(
        folder / "colours.onnx", np.zeros((28 * 28 * 3, 10), np.float32), TensorProto.UINT8
    )


def _write_boots(network: Path, classes: Path) -> None:
    """Write a network that another program trained on the photos: least squares of the pixels."""
    shapes = pictures.shapes()
    pixels = np.repeat(shapes.train.images[:, None] / 255, 3, axis=1)  # (n, 3, 28, 28)
    wanted = np.eye(len(shapes.class_names))[shapes.train.labels] * 20
    matrix = np.linalg.lstsq(pixels.reshape(len(pixels), -1), wanted, rcond=None)[0]
    _write_network(network, matrix.astype(np.float32), TensorProto.FLOAT)
    classes.write_text("\n".join(shapes.class_names))


def _write_network(path: Path, matrix: NDArray[np.float32], pixel: int) -> None:
    """Write a linear classifier of photos in colour, NCHW for float32 and NHWC for uint8."""
    shape = ["n", 3, 28, 28] if pixel == TensorProto.FLOAT else ["n", 28, 28, 3]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["numbers"], ["flat"]),
        helper.make_node("MatMul", ["flat", "matrix"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(
        nodes,
        path.stem,
        [helper.make_tensor_value_info("pixels", pixel, shape)],
        [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", matrix.shape[1]])],
        [numpy_helper.from_array(matrix, "matrix")],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), path)


@contextmanager
def terminal(answers: str) -> Iterator[int]:
    """Yield the input of a terminal where somebody has typed these answers."""
    main, other = os.openpty()
    try:
        os.write(main, answers.encode())
        yield other
    finally:
        os.close(main)
        os.close(other)
