"""Models that take each other's place while requests are answered: none may be lost, and none answered by two models at once."""

import asyncio
import io
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from bench import posts
from bench.connection import Connection, Reply
from bench.open_loop import run
from bench.peers import LOUPE, serving
from bench.pictures import find_images
from bench.report import Row, at_most
from loupe.card import digest
from loupe.engine import load_engine
from loupe.gate import promote
from loupe.images import Float32Array, UInt8Array
from loupe.store import ONNX_FILE, StoredModel

SWAPS = 100
CALLERS = 4  # of each kind
IMAGES = 300  # of one request: several slices, between which a swap may come; the others send one
FOLLOW_SECONDS = 0.05  # between the service's looks at the store
PATIENCE_SECONDS = 20.0
TOLERANCE = 1e-3  # batches of different sizes are not computed quite alike
LOST, MIXED = "lost", "mixed"


def measure(model: StoredModel) -> Iterator[Row]:
    """Requests that were lost, and answers that no one model gives, in a hundred swaps under load."""
    images = find_images(model, IMAGES)
    with tempfile.TemporaryDirectory() as name, _own_store(Path(name) / "home"):
        home = Path(name) / "home"
        there, back = _copy(model, home, "there"), _turned_round(_copy(model, home, "back"))
        models = {each.tag: load_engine(each).predict(images) for each in (there, back)}
        promote(there.tag, force=True)
        environment = {"BENTOML_HOME": str(home), "LOUPE_FOLLOW_SECONDS": str(FOLLOW_SECONDS)}
        with serving([LOUPE], there, Path(name), **environment, LOUPE_MODELS=model.name) as programs:
            seen = run(_swap_under_load(programs[LOUPE].port, images, models))
    requests = f"{seen.total():,} requests"
    for what in (LOST, MIXED):
        yield Row(f"{SWAPS} swaps under load: {what}", f"{seen[what]} of {requests}", "none", seen[what], at_most(0))


async def _swap_under_load(port: int, images: UInt8Array, models: Mapping[str, Float32Array]) -> Counter[str]:
    """Count answers by what they are while the models change places."""
    seen: Counter[str] = Counter()
    callers = [_Caller(port, images[:count], models, seen) for count in (1, len(images)) for _ in range(CALLERS)]
    calling = [asyncio.create_task(caller.call_again_and_again()) for caller in callers]
    for swap in range(SWAPS):
        tag = list(models)[(swap + 1) % 2]
        await asyncio.to_thread(promote, tag, force=True)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while {caller.answered_by for caller in callers} != {tag}:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{tag} was promoted {PATIENCE_SECONDS:g} s ago and does not answer everybody yet")
            await asyncio.sleep(FOLLOW_SECONDS / 5)
    for caller in callers:
        caller.stopping = True
    await asyncio.gather(*calling)
    return seen


class _Caller:
    """Sends the same images again and again, and judges the answers."""

    def __init__(self, port: int, images: UInt8Array, models: Mapping[str, Float32Array], seen: Counter[str]) -> None:
        self._port = port
        self._request = posts.npy(images, accept=posts.NPY).encoded()
        self._models = {tag: answers[: len(images)] for tag, answers in models.items()}
        self._seen = seen
        self.answered_by = ""
        self.stopping = False

    async def call_again_and_again(self) -> None:
        connection = await Connection.open(self._port)
        while not self.stopping:
            try:
                reply = await connection.ask(self._request)
            except ConnectionError:
                self._seen[LOST] += 1
                connection = await Connection.open(self._port)
                continue
            self.answered_by = reply.headers.get(b"x-loupe-model", b"").decode()
            self._seen[_verdict(reply, self._models)] += 1
        connection.close()


def _verdict(reply: Reply, models: Mapping[str, Float32Array]) -> str:
    """The model whose answer it is, or what is wrong with it."""
    if reply.status != 200:
        return LOST
    tag = reply.headers[b"x-loupe-model"].decode()
    is_its = np.allclose(np.load(io.BytesIO(reply.body)), models[tag], atol=TOLERANCE)
    return tag if is_its else MIXED


@contextmanager
def _own_store(home: Path) -> Iterator[None]:
    """A store that nobody else uses, for this process."""
    (home / "models").mkdir(parents=True)
    BentoMLContainer.model_store.set(ModelStore(home / "models"))
    try:
        yield
    finally:
        BentoMLContainer.model_store.reset()


def _copy(model: StoredModel, home: Path, version: str) -> StoredModel:
    folder = home / "models" / model.name / version
    shutil.copytree(model.folder, folder)
    (folder.parent / "latest").write_text(version)
    return replace(model, tag=f"{model.name}:{version}", folder=folder)


def _turned_round(model: StoredModel) -> StoredModel:
    """The same model with its answers' columns in reverse, so that everybody sees which of the two has answered."""
    path = model.folder / ONNX_FILE
    network = onnx.load(path)
    answer = network.graph.output[0].name
    for node in network.graph.node:
        node.output[:] = ["forward" if name == answer else name for name in node.output]
    columns = range(len(model.card.class_names))[::-1]
    network.graph.initializer.append(
        onnx.helper.make_tensor("columns", onnx.TensorProto.INT64, [len(columns)], columns)
    )
    network.graph.node.append(onnx.helper.make_node("Gather", ["forward", "columns"], [answer], axis=1))
    onnx.save(network, path)
    card = model.card.model_copy(update={"files": {**model.card.files, path.name: digest(path)}})
    card.save(model.folder)
    return replace(model, card=card)
