"""One service with models of different images: every route takes those of the model it asks."""

import base64
import io
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.http as triton_http
from numpy.typing import NDArray
from PIL import Image

from loupe.client.client import Client
from loupe.client.local import load
from loupe.client.predictions import Outcome, Prediction
from loupe.images.spec import Float32Array, UInt8Array
from loupe.models.engines.engine import Engine
from loupe.models.engines.loading import load_engine
from loupe.models.store import StoredModel
from tests.e2e.protocols.conftest import BothProtocols, serving_both
from tests.support.pictures import digits, png
from tests.support.programs import run

COUNT = 6
TOLERANCE = 1e-5  # probabilities of one image, computed in batches of different sizes


class Served:
    """A model, images of its own, and the answers of its engine."""

    def __init__(self, stored: StoredModel, images: UInt8Array) -> None:
        engine: Engine = load_engine(stored, threads=1)
        self.stored, self.images = stored, images
        self.query = {"model": stored.tag}
        self.expected = engine.predict(images)
        self.planes = images.transpose(0, 3, 1, 2) if images.ndim == 4 else images[:, None]

    def rows(self, answer: list[dict[str, Any]]) -> NDArray[np.float64]:
        names = self.stored.card.class_names
        return np.array([[each["probabilities"][name] for name in names] for each in answer])


@pytest.fixture(scope="module")
def served(digits_model: StoredModel, colours_model: StoredModel) -> dict[str, Served]:
    random = np.random.default_rng(3)
    photos = random.integers(0, 100, (COUNT, *colours_model.card.input.shape), dtype=np.uint8)
    photos[np.arange(COUNT), :, :, np.arange(COUNT) % 3] += 120
    return {
        "digits": Served(digits_model, digits(COUNT, seed=3)),
        "colours": Served(colours_model, photos),
    }


@pytest.fixture(scope="module")
def both(
    served: dict[str, Served], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BothProtocols]:
    log = tmp_path_factory.mktemp("specs") / "log"
    tags = ",".join(each.stored.tag for each in served.values())
    with serving_both(log, LOUPE_MODELS=tags) as running:
        yield running


@pytest.fixture(scope="module")
def client(both: BothProtocols) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=both.service.url, timeout=50) as client:
        yield client


@pytest.fixture(params=["digits", "colours"])
def one(request: pytest.FixtureRequest, served: dict[str, Served]) -> Served:
    return served[request.param]


def npy(images: UInt8Array) -> bytes:
    file = io.BytesIO()
    np.save(file, images)
    return file.getvalue()


def b64(image: UInt8Array) -> str:
    return base64.b64encode(png(image)).decode()


def confidences(outcomes: Iterable[Outcome]) -> NDArray[np.float64]:
    """Return the probabilities of predictions, all of which must have been answered."""
    found = list(outcomes)
    assert all(isinstance(each, Prediction) for each in found), found
    return np.array(
        [[*each.probabilities.values()] for each in found if isinstance(each, Prediction)]
    )


def answered(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    return response.json()


def assert_close(found: NDArray[np.floating[Any]], expected: Float32Array) -> None:
    np.testing.assert_allclose(found, expected, atol=TOLERANCE)


def test_single_images_of_every_encoding(client: httpx.Client, one: Served) -> None:
    image = one.images[0]
    requests: list[dict[str, Any]] = [
        {"content": png(image), "headers": {"Content-Type": "image/png"}},
        {"files": {"image": ("a.png", png(image))}},
        {"json": {"image": b64(image)}},
        {"json": {"pixels": image.tolist()}},
    ]
    for request in requests:
        answer = answered(client.post("/predict", params=one.query, **request))
        assert answer["model"] == one.stored.tag
        assert_close(one.rows([answer]), one.expected[:1])


def test_batches_of_every_encoding(client: httpx.Client, one: Served) -> None:
    flat = one.images.reshape(COUNT, -1)
    mixed = [
        b64(each) if number % 2 else {"pixels": each.tolist()}
        for number, each in enumerate(one.images)
    ]
    requests: list[dict[str, Any]] = [
        *({"content": npy(array)} for array in (one.images, flat, one.planes)),
        {"content": npy(np.asfortranarray(one.images))},
        {"json": {"images": mixed}},
        {
            "files": [
                ("images", (f"{number}.png", png(image))) for number, image in enumerate(one.images)
            ]
        },
    ]
    for request in requests:
        answer = answered(client.post("/predict_batch", params=one.query, **request))
        assert_close(one.rows(answer["predictions"]), one.expected)


def test_the_default_model_takes_its_own_images(
    client: httpx.Client, served: dict[str, Served]
) -> None:
    answer = answered(client.post("/predict_batch", content=npy(served["digits"].images)))

    assert answer["model"] == served["digits"].stored.tag


@pytest.mark.parametrize("raw", [True, False])
def test_open_inference_over_http(both: BothProtocols, one: Served, raw: bool) -> None:
    url = both.service.url.removeprefix("http://")
    tensor = triton_http.InferInput("images", list(one.images.shape), "UINT8")
    tensor.set_data_from_numpy(one.images, binary_data=raw)
    output = triton_http.InferRequestedOutput("probabilities", binary_data=raw)
    with triton_http.InferenceServerClient(url) as client:
        result = client.infer(one.stored.name, [tensor], outputs=[output])

    assert_close(result.as_numpy("probabilities"), one.expected)


def test_open_inference_over_grpc(both: BothProtocols, one: Served) -> None:
    tensor = triton.InferInput("images", list(one.images.shape), "UINT8")
    with triton.InferenceServerClient(both.address) as client:
        result = client.infer(one.stored.name, [tensor.set_data_from_numpy(one.images)])
        described = client.get_model_metadata(one.stored.name)
        configuration = client.get_model_config(one.stored.name)

    assert_close(result.as_numpy("probabilities"), one.expected)
    shape = [*one.stored.card.input.shape]
    assert list(described.inputs[0].shape) == [-1, *shape]
    assert list(configuration.config.input[0].dims) == shape


def test_tensorflow_serving(client: httpx.Client, one: Served) -> None:
    path = f"/v1/models/{one.stored.name}"
    flat = one.images.reshape(COUNT, -1).tolist()
    for instances in (
        one.images.tolist(),
        (one.images / 255).tolist(),
        flat,
        [{"b64": b64(image)} for image in one.images],
    ):
        answer = answered(client.post(f"{path}:predict", json={"instances": instances}))
        assert_close(np.array(answer["predictions"]), one.expected)
    signature = answered(client.get(f"{path}/metadata"))["metadata"]["signature_def"]
    shape = signature["signature_def"]["serving_default"]["inputs"]["images"]["tensor_shape"]
    assert [side["size"] for side in shape["dim"]] == [
        "-1",
        *map(str, one.stored.card.input.shape),
    ]


def test_models_are_listed_with_the_images_they_take(
    client: httpx.Client, served: dict[str, Served]
) -> None:
    listed = {each["model"]: each["input"] for each in answered(client.get("/models"))["models"]}

    grey = {"look": "ink", "height": 28, "width": 28, "channels": 1, "fit": "crop", "single": True}
    colour = {
        "look": "photo",
        "height": 64,
        "width": 48,
        "channels": 3,
        "fit": "crop",
        "single": False,
    }
    assert listed == {
        served["digits"].stored.tag: grey,
        served["colours"].stored.tag: colour,
    }


@pytest.mark.parametrize(("asked", "sent"), [("digits", "colours"), ("colours", "digits")])
def test_images_of_another_model_are_refused_with_both_shapes(
    client: httpx.Client, served: dict[str, Served], asked: str, sent: str
) -> None:
    model, images = served[asked], served[sent].images
    own, other = model.stored.card.input.shape, images.shape[1:]
    tensor = {"name": "images", "datatype": "UINT8", "shape": [*images.shape], "data": []}
    name = model.stored.name
    nested: dict[str, Any] = {"pixels": images[0].tolist()}
    for path, request in (
        ("/predict", {"json": nested}),
        ("/predict_batch", {"content": npy(images)}),
        (f"/v1/models/{name}:predict", {"json": {"instances": images[:1].tolist()}}),
        (f"/v2/models/{name}/infer", {"json": {"inputs": [tensor]}}),
    ):
        refused = client.post(path, params=model.query if path[1] == "p" else {}, **request)
        assert refused.status_code in (400, 422), path
        message = refused.json()["error"]
        for side in (*own, *other):
            assert str(side) in message, (path, message)


def test_pictures_become_images_of_the_model_that_is_asked(
    client: httpx.Client, served: dict[str, Served]
) -> None:
    photo = np.zeros((200, 300, 3), np.uint8)
    photo[:, :, 1] = 200
    query = served["colours"].query
    answer = answered(client.post("/predict", params=query, content=png(photo)))
    assert answer["label"] == "green"

    ink = answered(client.post("/predict", content=png(photo)))
    assert ink["model"] == served["digits"].stored.tag
    refused = client.post("/predict", params=query | {"normalize": "off"}, content=png(photo))
    assert refused.json()["code"] == "invalid_pixels"


def test_requests_at_the_same_time_get_answers_of_their_own_model(
    client: httpx.Client, served: dict[str, Served]
) -> None:
    def ask(number: int) -> None:
        one = served["digits" if number % 2 else "colours"]
        image = number % COUNT
        body = {"pixels": one.images[image].tolist()} if number % 3 else None
        content = None if body else png(one.images[image])
        answer = client.post(
            "/predict",
            params=one.query,
            content=json.dumps(body) if body else content,
            headers={"Content-Type": "application/json" if body else "image/png"},
        )
        assert_close(one.rows([answered(answer)]), one.expected[image : image + 1])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(96)))


@pytest.mark.parametrize("where", ["service", "here"])
def test_clients_and_local_models_take_arrays_files_and_folders(
    both: BothProtocols, one: Served, where: str, tmp_path: Path
) -> None:
    for number, image in enumerate(one.images):
        (tmp_path / f"{number}.png").write_bytes(png(image))
    tag = one.stored.tag
    with Client(both.service.url) as client:
        local = load(tag)
        for pictures in (one.images, [*one.images], tmp_path, [png(each) for each in one.images]):
            outcomes = (
                client.predict_many(pictures, model=tag)
                if where == "service"
                else local.predict_many(pictures)
            )
            assert_close(confidences(outcomes), one.expected)
        first = one.images[0]
        answer = client.predict(first, model=tag) if where == "service" else local.predict(first)
        assert_close(confidences([answer]), one.expected[:1])


@pytest.mark.parametrize("asked", ["digits", "colours"])
def test_arrays_of_another_size_get_the_answers_of_their_pictures(
    both: BothProtocols, served: dict[str, Served], asked: str
) -> None:
    tag = served[asked].stored.tag
    local = load(tag)
    with Client(both.service.url) as client:
        for images in (
            served["digits"].images,
            served["colours"].images,
            served["colours"].images[:, :40],
            served["colours"].images[:, :, :, 0],
        ):
            files = [png(image) for image in images]
            expected = confidences(client.predict_many(files, model=tag))
            for _ in range(2):  # the client knows the model's size the second time
                found = confidences(client.predict_many(images, model=tag))
                assert_close(found, expected.astype(np.float32))
            assert_close(confidences(local.predict_many(images)), expected.astype(np.float32))


def test_grid_and_local_predictions_of_colours(served: dict[str, Served], tmp_path: Path) -> None:
    one = served["colours"]
    for number, image in enumerate(one.images):
        (tmp_path / f"{number}.png").write_bytes(png(image))
    grid = tmp_path / "grid.png"
    ended = run("predict", tmp_path, "--local", "--model", one.stored.tag, "--json", "--grid", grid)

    assert ended.returncode == 0, ended.stderr
    labels = [json.loads(line)["label"] for line in ended.stdout.splitlines()]
    names = one.stored.card.class_names
    assert labels == [names[best] for best in one.expected.argmax(axis=1)]
    with Image.open(grid) as drawn:
        assert drawn.mode == "RGB"
