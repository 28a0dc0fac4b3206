"""Configuration, index and statistics of models, over HTTP and gRPC with `tritonclient`."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from google.protobuf.json_format import MessageToDict
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from loupe.models.store import StoredModel
from tests.e2e.protocols.conftest import BothProtocols
from tests.support import pictures

Json: TypeAlias = Any
Client: TypeAlias = "over_http.InferenceServerClient | over_grpc.InferenceServerClient"
CALLS = ("success", "fail", "queue", "compute_input", "compute_infer", "compute_output")


@pytest.fixture(params=["HTTP", "gRPC"])
def client(request: pytest.FixtureRequest, both: BothProtocols) -> Iterator[Client]:
    if request.param == "HTTP":
        with over_http.InferenceServerClient(both.service.url.removeprefix("http://")) as client:
            yield client
    else:
        with over_grpc.InferenceServerClient(both.address) as client:
            yield client


def plain(answer: Json) -> Json:
    """Return an answer of either client as JSON."""
    if isinstance(answer, (dict, list)):
        return answer
    return MessageToDict(answer, preserving_proto_field_name=True)


def infer(client: Client, images: int, *, bad: bool = False) -> None:
    module = over_http if isinstance(client, over_http.InferenceServerClient) else over_grpc
    if bad:
        tensor = module.InferInput("images", [1], "BYTES")
        tensor.set_data_from_numpy(np.array([b"no picture"], np.object_))
    else:
        tensor = module.InferInput("images", [images, 28, 28], "UINT8")
        tensor.set_data_from_numpy(pictures.digits(images))
    client.infer("digits", [tensor])


def durations(client: Client, name: str = "digits", version: str = "") -> dict[str, int]:
    """Return the counters of a model: `images`, `runs`, and counts and times of its calls."""
    answer = client.get_inference_statistics(name, version)
    if not isinstance(answer, dict):
        answer = MessageToDict(
            answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
        )
    (found,) = answer["model_stats"]
    inner = found["inference_stats"]
    return {
        "images": int(found["inference_count"]),
        "runs": int(found["execution_count"]),
        "batches": sum(int(each["compute_infer"]["count"]) for each in found["batch_stats"]),
        "last": int(found["last_inference"]),
        **{f"{call}.{part}": int(inner[call][part]) for call in CALLS for part in ("count", "ns")},
    }


@pytest.mark.parametrize("version", ["", "latest", "{}"])
def test_configuration_matches_the_metadata(
    client: Client, digits_model: StoredModel, version: str
) -> None:
    version = version.format(digits_model.version)
    config = plain(client.get_model_config("digits", version))
    config = config.get("config", config)
    metadata = plain(client.get_model_metadata("digits", version))

    assert (config["name"], config["max_batch_size"]) == ("digits", 4096)
    assert config["platform"] == metadata["platform"]
    assert "dynamic_batching" in config
    (images,) = config["input"]
    assert (images["name"], images["data_type"]) == ("images", "TYPE_UINT8")
    assert [int(side) for side in images["dims"]] == [28, 28]
    assert [each["name"] for each in config["output"]] == [
        each["name"] for each in metadata["outputs"]
    ]
    assert [int(side) for side in config["output"][0]["dims"]] == [10]


def test_index_lists_the_served_versions(
    client: Client, digits_model: StoredModel, shapes_model: StoredModel
) -> None:
    index = client.get_model_repository_index()
    models = index if isinstance(index, list) else plain(index)["models"]

    assert sorted((each["name"], each["version"], each["state"]) for each in models) == [
        ("digits", digits_model.version, "READY"),
        ("shapes", shapes_model.version, "READY"),
    ]


def test_statistics_count_requests_images_and_times(
    client: Client, digits_model: StoredModel
) -> None:
    before = durations(client)
    started = time.time_ns()
    for images in (1, 3, 200):
        infer(client, images)
    for _ in range(2):
        with pytest.raises(InferenceServerException):
            infer(client, 1, bad=True)
    after = durations(client, version=digits_model.version)
    elapsed = time.time_ns() - started
    grown = {name: after[name] - before[name] for name in after}

    assert (grown["success.count"], grown["fail.count"], grown["images"]) == (3, 2, 204)
    assert 3 < grown["runs"] == grown["batches"]  # many images run in slices
    assert grown["queue.count"] == grown["compute_infer.count"] >= grown["runs"]
    assert grown["compute_input.count"] == grown["compute_output.count"] == 3
    for call in CALLS:
        assert 0 < grown[f"{call}.ns"] < elapsed * grown[f"{call}.count"], call
    assert started // 1_000_000 <= after["last"] <= time.time_ns() // 1_000_000


def test_other_calls_are_no_inferences(client: Client) -> None:
    before = durations(client)
    client.get_model_metadata("digits")
    client.get_model_config("digits")
    assert client.is_model_ready("digits")

    assert durations(client) == before


def test_every_protocol_counts(client: Client, both: BothProtocols) -> None:
    before = durations(client)
    picture = pictures.png(pictures.digits(1)[0])
    httpx.post(f"{both.service.url}/predict", content=picture)
    body = {"instances": pictures.digits(2).tolist()}
    httpx.post(f"{both.service.url}/v1/models/digits:predict", json=body)
    httpx.post(f"{both.service.url}/v1/models/digits:predict", content=b"{")
    after = durations(client)

    assert after["images"] - before["images"] == 3
    assert after["success.count"] - before["success.count"] == 2
    assert after["fail.count"] - before["fail.count"] == 1


def test_statistics_of_all_models_are_listed(client: Client) -> None:
    answer = plain(client.get_inference_statistics())

    assert sorted(each["name"] for each in answer["model_stats"]) == ["digits", "shapes"]


@pytest.mark.parametrize(
    "ask",
    [
        lambda client: client.get_model_config("birds"),
        lambda client: client.get_model_config("digits", "7"),
        lambda client: client.get_inference_statistics("birds"),
        lambda client: client.get_inference_statistics("digits", "7"),
    ],
    ids=["config", "config of a version", "statistics", "statistics of a version"],
)
def test_models_that_are_not_served_are_not_found(
    client: Client, ask: Callable[[Client], object]
) -> None:
    with pytest.raises(InferenceServerException) as raised:
        ask(client)

    assert raised.value.status() in ("404", "StatusCode.NOT_FOUND")


@pytest.mark.parametrize("name", ["digits", "birds"])
@pytest.mark.parametrize("call", ["load_model", "unload_model"])
def test_clients_cannot_load_or_unload_models(client: Client, call: str, name: str) -> None:
    with pytest.raises(InferenceServerException) as raised:
        getattr(client, call)(name)

    assert raised.value.status() in ("403", "StatusCode.PERMISSION_DENIED")
    assert "loupe models promote" in raised.value.message()
    assert client.is_model_ready("digits")


def test_long_messages_are_refused_unread(both: BothProtocols) -> None:
    with grpc.insecure_channel(both.address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        request = pb.RepositoryModelLoadRequest(model_name="x" * 100_000)
        with pytest.raises(grpc.RpcError) as raised:
            stub.RepositoryModelLoad(request)

    assert raised.value.code() == grpc.StatusCode.INVALID_ARGUMENT
