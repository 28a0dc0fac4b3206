"""The Open Inference Protocol over gRPC, with `tritonclient` against a running service."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import cycle
from pathlib import Path
from threading import Event

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.http as triton_http
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from numpy.typing import NDArray
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc
from tritonclient.utils import InferenceServerException

from loupe.images.normalize import normalize_pixels
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.models.engines.engine import Engine
from loupe.models.promotion import promote
from loupe.models.store import StoredModel
from service.http.bodies import LARGEST_BODIES_SHARE
from service.http.keys import digest_of
from service.protocols.open_inference.grpc_arrivals import SLOTS
from service.protocols.open_inference.grpc_streams import STREAMS_SHARE
from tests.e2e.protocols.conftest import MAX_BYTES, BothProtocols, serving_both
from tests.support import pictures
from tests.support.programs import free_port, run, until
from tests.support.stores import copied

TOLERANCE = 1e-5  # probabilities of one image, computed in batches of different sizes
DIGITS = pictures.digits(5, seed=11)
MANY = np.zeros((4096, 28, 28), np.uint8)
KEY = "the-key-of-alice-0001"
OTHER_KEY = "the-other-key-of-bob-1"
LIMITED_KEY = "the-limited-key-of-carol"
CLIENTS = 4


@pytest.fixture(scope="module")
def client(both: BothProtocols) -> Iterator[triton.InferenceServerClient]:
    with triton.InferenceServerClient(both.address) as client:
        yield client


@pytest.fixture(scope="module")
def stub(both: BothProtocols) -> Iterator[service_pb2_grpc.GRPCInferenceServiceStub]:
    """Return a plain stub, which can send messages that Triton's client cannot."""
    with grpc.insecure_channel(both.address) as channel:
        yield service_pb2_grpc.GRPCInferenceServiceStub(channel)


def tensor(images: UInt8Array) -> triton.InferInput:
    """Return pixels as an input."""
    return triton.InferInput("images", list(images.shape), "UINT8").set_data_from_numpy(images)


def files(contents: list[bytes]) -> triton.InferInput:
    """Return picture files as an input."""
    return triton.InferInput("images", [len(contents)], "BYTES").set_data_from_numpy(
        np.array(contents, np.object_)
    )


def texts(values: NDArray[np.object_]) -> list[str]:
    """Return the elements of a BYTES tensor."""
    return [value.decode() for value in values.ravel()]


def assert_answers(
    result: triton.InferResult, images: UInt8Array, engine: Engine, model: StoredModel
) -> None:
    """Check all three outputs, compared with the engine's."""
    expected = engine.predict(images)
    best = expected.argmax(axis=1)
    np.testing.assert_allclose(result.as_numpy("probabilities"), expected, atol=TOLERANCE)
    np.testing.assert_array_equal(result.as_numpy("index"), best)
    assert texts(result.as_numpy("label")) == [model.card.class_names[place] for place in best]
    assert (result.get_response().model_name, result.get_response().model_version) == (
        model.name,
        model.version,
    )


# What answers


def test_server_is_live_and_ready_and_lists_its_extensions(
    client: triton.InferenceServerClient,
) -> None:
    assert client.is_server_live()
    assert client.is_server_ready()
    described = client.get_server_metadata()
    assert described.name == "loupe"
    assert {"binary_tensor_data", "model_configuration"} <= set(described.extensions)


def test_model_is_ready_by_name_version_or_label(
    client: triton.InferenceServerClient, digits_model: StoredModel
) -> None:
    for name, version in (
        ("digits", ""),
        ("digits", digits_model.version),
        ("digits", "latest"),
        ("shapes", ""),
    ):
        assert client.is_model_ready(name, version)
    for name, version in (("birds", ""), ("digits", "0000000"), ("digits:latest", "latest")):
        assert not client.is_model_ready(name, version)


def test_metadata_is_that_of_rest(
    client: triton.InferenceServerClient, both: BothProtocols
) -> None:
    for model in ("digits", "shapes"):
        metadata = client.get_model_metadata(model, as_json=True)
        for described in (*metadata["inputs"], *metadata["outputs"]):
            described["shape"] = [
                int(side) for side in described["shape"]
            ]  # JSON of protobuf has them as texts
        assert metadata == httpx.get(f"{both.service.url}/v2/models/{model}").json()


def test_methods_beyond_the_protocol_are_not_implemented(
    client: triton.InferenceServerClient,
) -> None:
    for call in (
        client.get_trace_settings,
        client.get_log_settings,
    ):
        with pytest.raises(InferenceServerException) as raised:
            call()
        assert raised.value.status() == "StatusCode.UNIMPLEMENTED"


# Inference


@pytest.mark.parametrize("count", [1, 5, 300])
def test_all_outputs_are_sent_if_none_is_named(
    client: triton.InferenceServerClient, engine: Engine, digits_model: StoredModel, count: int
) -> None:
    images = pictures.digits(count, seed=12)

    assert_answers(client.infer("digits", [tensor(images)]), images, engine, digits_model)
    assert_answers(
        client.infer("digits", [tensor(images[..., None])]), images, engine, digits_model
    )


def test_blank_pictures_have_neither_label_nor_index(
    client: triton.InferenceServerClient,
) -> None:
    result = client.infer("digits", [tensor(np.stack([np.zeros_like(DIGITS[0]), DIGITS[0]]))])

    label, index = texts(result.as_numpy("label")), result.as_numpy("index")
    assert (label[0], index[0]) == ("", -1)
    assert label[1] == str(index[1])


def test_pictures_of_any_size_are_normalized(
    client: triton.InferenceServerClient, engine: Engine, digits_model: StoredModel
) -> None:
    sheet = np.full((400, 300), 230, np.uint8)
    sheet[100:300, 140:170] = 20
    result = client.infer("digits", [files([pictures.png(sheet), pictures.png(DIGITS[0])])])

    assert_answers(
        result,
        np.stack([normalize_pixels(sheet, ImageSpec("ink")), DIGITS[0]]),
        engine,
        digits_model,
    )


def test_values_in_contents_are_read(
    stub: service_pb2_grpc.GRPCInferenceServiceStub,
) -> None:
    pixels = {"uint_contents": DIGITS.ravel().tolist()}
    contents = {"bytes_contents": [pictures.png(digit) for digit in DIGITS]}
    answers = [
        stub.ModelInfer(
            pb.ModelInferRequest(
                model_name="digits",
                inputs=[
                    {"name": "images", "datatype": datatype, "shape": shape, "contents": values}
                ],
                outputs=[{"name": "probabilities"}],
            )
        )
        for datatype, shape, values in (("UINT8", [5, 28, 28], pixels), ("BYTES", [5], contents))
    ]

    assert answers[0].raw_output_contents == answers[1].raw_output_contents
    assert len(answers[0].raw_output_contents) == 1


def test_requested_outputs_are_sent_in_their_order(
    client: triton.InferenceServerClient,
) -> None:
    outputs = [
        triton.InferRequestedOutput("index"),
        triton.InferRequestedOutput("probabilities", class_count=2),
    ]
    result = client.infer("digits", [tensor(DIGITS)], outputs=outputs, request_id="seven")

    assert [output.name for output in result.get_response().outputs] == ["index", "probabilities"]
    assert result.get_response().id == "seven"
    first = [text.split(":") for text in texts(result.as_numpy("probabilities")[:, 0])]
    assert [int(index) for _, index, _ in first] == result.as_numpy("index").tolist()


def test_default_model_answers_if_none_is_named(client: triton.InferenceServerClient) -> None:
    for version in ("", "latest"):
        assert (
            client.infer("", [tensor(DIGITS)], model_version=version).get_response().model_name
            == "digits"
        )


def test_versions_and_labels_select_their_models_and_follow_a_promotion(
    store: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    for version in ("better", "newest"):
        copied(digits_model, store, f"digits:{version}")
    promote("digits:better")
    settings = {"LOUPE_MODELS": "digits:production,digits:latest", "LOUPE_FOLLOW_SECONDS": "0.05"}
    with (
        serving_both(tmp_path / "log", BENTOML_HOME=store, **settings) as both,
        triton.InferenceServerClient(both.address) as client,
    ):

        def answering(version: str) -> str:
            return str(
                client.infer("digits", [tensor(DIGITS)], model_version=version)
                .get_response()
                .model_version
            )

        asked = ["production", "better", "latest", "newest"]
        assert [answering(version) for version in asked] == ["better", "better", "newest", "newest"]
        assert sorted(client.get_model_metadata("digits", "production").versions) == [
            "better",
            "newest",
        ]
        promote("digits:newest", force=True)
        until(lambda: answering("production") == "newest")


# Both protocols


def test_grpc_and_http_share_one_queue(
    both: BothProtocols, engine: Engine, digits_model: StoredModel
) -> None:
    requests = [pictures.digits(1 + place % 7, seed=200 + place) for place in range(40)]

    def over_http(images: UInt8Array) -> triton_http.InferResult:
        with triton_http.InferenceServerClient(
            both.service.url.removeprefix("http://")
        ) as http_client:
            pixels = triton_http.InferInput(
                "images", list(images.shape), "UINT8"
            ).set_data_from_numpy(images)
            return http_client.infer("digits", [pixels])

    async def over_grpc() -> list[triton.InferResult]:
        async with triton_aio.InferenceServerClient(both.address) as grpc_client:
            asked = (grpc_client.infer("digits", [tensor(images)]) for images in requests)
            return list(await asyncio.gather(*asked))

    with ThreadPoolExecutor(8) as threads:
        others = threads.map(over_http, requests)
        for images, result in zip(requests, asyncio.run(over_grpc()), strict=True):
            assert_answers(result, images, engine, digits_model)
        for images, result in zip(requests, others, strict=True):
            np.testing.assert_allclose(
                result.as_numpy("probabilities"), engine.predict(images), atol=TOLERANCE
            )
    metrics = both.metrics()
    for protocol in ("grpc", "v2"):
        assert (
            f'loupe_requests_total{{key="-",model="digits",protocol="{protocol}",status="200"}}'
            in metrics
        )
    # one histogram of the model for both protocols
    assert metrics.count('loupe_batch_size_count{model="digits"') == 1


# Refusals


def refusal(
    client: triton.InferenceServerClient, *inputs: triton.InferInput, **options: object
) -> tuple[str, str]:
    """Return code and message of the error of a call."""
    with pytest.raises(InferenceServerException) as raised:
        client.infer(**{"model_name": "digits", "inputs": list(inputs), **options})
    return str(raised.value.status()).removeprefix("StatusCode."), raised.value.message()


def test_errors_reach_the_client_with_code_and_reason(client: triton.InferenceServerClient) -> None:
    good = pictures.png(DIGITS[0])
    two = [tensor(DIGITS), tensor(DIGITS)]
    many = [tensor(np.zeros((4097, 28, 28), np.uint8))]
    too_long = [tensor(np.zeros((6000, 28, 28), np.uint8))]
    for code, fact, refused in (
        ("NOT_FOUND", "birds", {"model_name": "birds"}),
        ("NOT_FOUND", "digits:9", {"model_version": "9"}),
        ("INVALID_ARGUMENT", "inputs", {"inputs": two}),
        ("INVALID_ARGUMENT", "[28, 28]", {"inputs": [tensor(DIGITS[0])]}),
        ("INVALID_ARGUMENT", "'x'", {"outputs": [triton.InferRequestedOutput("x")]}),
        ("INVALID_ARGUMENT", "4,097", {"inputs": many}),
        ("INVALID_ARGUMENT", "Image 1: ", {"inputs": [files([good, b"no image"])]}),
        ("DEADLINE_EXCEEDED", "1e-06 s", {"timeout": 1}),
        ("RESOURCE_EXHAUSTED", "larger than max", {"inputs": too_long}),
        ("UNIMPLEMENTED", "", {"compression_algorithm": "gzip"}),
    ):
        got, message = refusal(client, tensor(DIGITS), **refused)
        assert (got, fact in message) == (code, True), message
    assert client.infer("digits", [tensor(DIGITS)]).as_numpy("index").shape == (5,)


def test_shared_memory_is_refused(client: triton.InferenceServerClient) -> None:
    shared = triton.InferInput("images", [1, 28, 28], "UINT8").set_shared_memory("region", 784)

    code, message = refusal(client, shared)
    assert (code, "Shared memory" in message) == ("INVALID_ARGUMENT", True)


PIXELS = {"name": "images", "datatype": "UINT8", "shape": [1, 28, 28]}
RAW = bytes(784)


def with_contents(**contents: object) -> dict[str, object]:
    return {"inputs": [{**PIXELS, "contents": contents}]}


@pytest.mark.parametrize(
    ("message", "fact"),
    [
        ({"inputs": [PIXELS]}, "784 values, got 0"),
        ({"inputs": [PIXELS], "raw_input_contents": [RAW[1:]]}, "784 values, got 783"),
        ({"inputs": [PIXELS], "raw_input_contents": [RAW, RAW]}, "got 2"),
        ({**with_contents(uint_contents=[0]), "raw_input_contents": [RAW]}, "uint_contents"),
        (with_contents(int_contents=[0] * 784), "int_contents"),
        (with_contents(uint_contents=[0] * 783 + [256]), "Image 0: "),
        ({"inputs": [{**PIXELS, "datatype": "FP32"}]}, "'FP32'"),
        ({"inputs": [{**PIXELS, "shape": [-1, 28, 28]}]}, "-1"),
        ({"inputs": [{**PIXELS, "shape": [2**62, 28, 28]}]}, "4,611,686,018,427,387,904"),
        ({"inputs": [PIXELS], "parameters": {"timeout": {"string_param": "1"}}}, "timeout"),
    ],
)
def test_malformed_message_is_refused_with_the_reason(
    stub: service_pb2_grpc.GRPCInferenceServiceStub, message: dict[str, object], fact: str
) -> None:
    with pytest.raises(grpc.RpcError) as raised:
        stub.ModelInfer(pb.ModelInferRequest(model_name="digits", **message))

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert fact in raised.value.details()


def test_bytes_that_are_not_a_message_are_refused_without_a_traceback(both: BothProtocols) -> None:
    with grpc.insecure_channel(both.address) as channel, pytest.raises(grpc.RpcError) as raised:
        channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")(b"\xff\xff")

    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "ModelInferRequest" in raised.value.details()
    assert "Traceback" not in both.service.log.read_text()


def test_calls_without_messages_do_not_lock_others_out(
    both: BothProtocols, client: triton.InferenceServerClient
) -> None:
    with ending() as ends, ExitStack() as stack:
        channels = [
            stack.enter_context(grpc.insecure_channel(both.address, [("number", number)]))
            for number in range(3)
        ]
        infer = [
            channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
            for channel in channels
        ]
        calls = [infer[number % 3].future(waiting(ends)) for number in range(300)]
        until(lambda: any(call.done() for call in calls))
        (refused, *_) = (call for call in calls if call.done())
        assert refused.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert client.is_server_live()
    assert client.is_model_ready("digits")


def test_call_that_ends_without_a_message_is_refused(both: BothProtocols) -> None:
    with grpc.insecure_channel(both.address) as channel, pytest.raises(grpc.RpcError) as caught:
        channel.stream_unary("/inference.GRPCInferenceService/ModelReady")(iter(()))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "path", ["/inference.GRPCInferenceService/ServerLive", "/grpc.health.v1.Health/Check"]
)
def test_open_call_without_a_message_ends_after_seconds(both: BothProtocols, path: str) -> None:
    with (
        grpc.insecure_channel(both.address) as channel,
        ending() as ends,
        pytest.raises(grpc.RpcError) as caught,
    ):
        channel.stream_unary(path)(waiting(ends))

    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


@pytest.mark.skipif(not socket.has_ipv6, reason="needs two addresses")
def test_calls_without_messages_of_one_address_do_not_delay_another(
    digits_model: StoredModel, tmp_path: Path
) -> None:
    settings = {"LOUPE_MODEL": digits_model.tag, "LOUPE_DATA_DIR": tmp_path / "data"}
    with (
        serving_both(tmp_path / "log", LOUPE_HOST="localhost", **settings) as running,
        grpc.insecure_channel(running.address) as channel,
        grpc.insecure_channel(running.address.replace("127.0.0.1", "[::1]")) as other,
        ending() as ends,
    ):
        silent = channel.stream_unary("/inference.GRPCInferenceService/ModelReady")
        calls = [silent.future(waiting(ends)) for _ in range(3 * SLOTS)]
        answer = service_pb2_grpc.GRPCInferenceServiceStub(other).ModelReady(
            pb.ModelReadyRequest(name="digits")
        )
        is_waiting = not any(call.done() for call in calls)

    assert answer.ready
    assert is_waiting


def peak_bytes(pid: int) -> int:
    """Return the most memory that a process has taken since `reset_peak`."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024


def reset_peak(pid: int) -> None:
    # Source: https://man7.org/linux/man-pages/man5/proc_pid_clear_refs.5.html
    Path(f"/proc/{pid}/clear_refs").write_text("5")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("method", "size"),
    [
        pytest.param("ModelInfer", MAX_BYTES, id="too many images"),
        pytest.param("ModelReady", MAX_BYTES, id="too long for its kind"),
        pytest.param("ServerLive", MAX_BYTES, id="without a key"),
        pytest.param("ModelInfer", 4 * MAX_BYTES, id="too long"),
    ],
)
def test_many_long_messages_take_little_memory(both: BothProtocols, method: str, size: int) -> None:
    images = size // 784 - 1
    message = pb.ModelInferRequest(
        model_name="digits",
        inputs=[{**PIXELS, "shape": [images, 28, 28]}],
        raw_input_contents=[bytes(images * 784)],
    ).SerializeToString()
    pid = both.service.process.pid
    reset_peak(pid)
    before = peak_bytes(pid)
    with ExitStack() as stack:
        calls = []
        for number in range(4):
            channel = stack.enter_context(grpc.insecure_channel(both.address, [("n", number)]))
            ask = channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
            calls += [ask.future(message) for _ in range(32)]
        codes = {call.code() for call in calls}

    assert codes <= {
        grpc.StatusCode.OK,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
    }
    assert peak_bytes(pid) - before < 30 * MAX_BYTES


def test_messages_share_the_memory_of_http_bodies(
    client: triton.InferenceServerClient, both: BothProtocols
) -> None:
    def answered() -> bool:
        with contextlib.suppress(InferenceServerException):
            return client.infer("digits", [tensor(MANY)]) is not None
        return False

    host, _, port = both.service.url.removeprefix("http://").partition(":")
    head = f"POST /predict HTTP/1.1\r\nHost: {host}\r\nContent-Length: {MAX_BYTES}\r\n\r\n"

    def refused() -> tuple[str, str] | None:
        """Send bodies without their ends, and a message that may come before they are read."""
        with ExitStack() as stack:
            for _ in range(LARGEST_BODIES_SHARE):
                connection = stack.enter_context(socket.create_connection((host, int(port))))
                connection.sendall(head.encode() + bytes(MAX_BYTES - 1))
            time.sleep(0.2)
            return None if answered() else refusal(client, tensor(MANY))

    code, message = until(refused)
    assert (code, f"{LARGEST_BODIES_SHARE * MAX_BYTES:,} " in message) == (
        "RESOURCE_EXHAUSTED",
        True,
    )
    assert 'loupe_rejected_total{code="too_many_bytes"}' in both.metrics()
    until(answered)
    assert all(answered() for _ in range(LARGEST_BODIES_SHARE + 1))


def test_late_and_cancelled_calls_are_abandoned_and_counted(
    client: triton.InferenceServerClient, both: BothProtocols
) -> None:
    patience_seconds = cycle(
        (0.02, 0.04, 0.08, 0.16)
    )  # some of it ends between the call's beginning and its answer

    def counted(status: int) -> bool:
        return (
            f'loupe_requests_total{{key="-",model="digits",protocol="grpc",status="{status}"}}'
            in both.metrics()
        )

    def waits_no_longer() -> bool:
        with contextlib.suppress(InferenceServerException):
            client.infer("digits", [tensor(MANY)], client_timeout=next(patience_seconds))
        return counted(504)

    async def hang_up() -> None:
        async with triton_aio.InferenceServerClient(both.address) as impatient:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(
                    impatient.infer("digits", [tensor(MANY)]), next(patience_seconds)
                )

    def hangs_up() -> bool:
        asyncio.run(hang_up())
        return counted(499)

    until(waits_no_longer)
    until(hangs_up)
    until(lambda: 'loupe_images_in_flight{model="digits"} 0.0' in both.metrics())


# Callers


def test_call_keeps_its_request_id_or_gets_one(
    stub: service_pb2_grpc.GRPCInferenceServiceStub,
) -> None:
    def answered(*given: tuple[str, str], message: pb.ModelInferRequest | None = None) -> str:
        ask = stub.ServerLive if message is None else stub.ModelInfer
        call = ask.future(message or pb.ServerLiveRequest(), metadata=given)
        return str(dict(call.trailing_metadata())["x-request-id"])

    assert answered(("x-request-id", "order-66:a.b_c")) == "order-66:a.b_c"
    assert answered() != answered()
    assert (
        answered(("x-request-id", "refused"), message=pb.ModelInferRequest(model_name="birds"))
        == "refused"
    )


@pytest.fixture(scope="module")
def guarded(
    digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BothProtocols]:
    """Run a service with three keys, one of them limited, and a log of every request."""
    keys = f"alice:sha256:{digest_of(KEY)},bob:{OTHER_KEY},carol:{LIMITED_KEY}"
    settings = {
        "LOUPE_API_KEYS": keys,
        "LOUPE_KEY_LIMITS": "carol:2/s+0/day",
        "LOUPE_ACCESS_LOG": "true",
        "LOUPE_DATA_DIR": (folder := tmp_path_factory.mktemp("guarded")),
    }
    with serving_both(folder / "log", LOUPE_MODEL=digits_model.tag, **settings) as running:
        yield running


@pytest.mark.parametrize(
    "header", [("authorization", f"Bearer {KEY}"), ("x-api-key", KEY)], ids=["bearer", "x-api-key"]
)
def test_caller_with_a_key_is_counted_and_logged_by_its_name(
    guarded: BothProtocols, header: tuple[str, str]
) -> None:
    with triton.InferenceServerClient(guarded.address) as client:
        client.infer(
            "digits", [tensor(DIGITS)], headers=dict([header, ("x-request-id", header[0])])
        )

    counted = 'loupe_requests_total{key="alice",model="digits",protocol="grpc",status="200"}'
    assert counted in guarded.metrics(**{"X-API-Key": KEY})
    log = guarded.service.log.read_text()
    assert "gRPC '/inference.GRPCInferenceService/ModelInfer' 200" in log
    assert re.search(rf"key alice, client \S+ \[{header[0]}\]", log)
    assert KEY not in log


def test_caller_beyond_the_limit_of_its_key_is_refused(guarded: BothProtocols) -> None:
    with (
        triton.InferenceServerClient(guarded.address) as client,
        pytest.raises(InferenceServerException) as caught,
    ):
        client.infer("digits", [tensor(DIGITS)], headers={"x-api-key": LIMITED_KEY})

    assert "RESOURCE_EXHAUSTED" in str(caught.value.status())
    assert 'code="quota_exceeded"' in guarded.metrics(**{"X-API-Key": KEY})


def test_caller_without_a_key_is_refused_before_its_message(guarded: BothProtocols) -> None:
    with grpc.insecure_channel(guarded.address) as channel, ending() as ends:
        infer = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        with pytest.raises(grpc.RpcError) as caught:
            infer(waiting(ends))

    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_calls_without_messages_of_one_key_do_not_delay_another(guarded: BothProtocols) -> None:
    with (
        grpc.insecure_channel(guarded.address) as channel,
        triton.InferenceServerClient(guarded.address) as client,
        ending() as ends,
    ):
        silent = channel.stream_unary("/inference.GRPCInferenceService/ModelReady")
        metadata = [("x-api-key", KEY)]
        calls = [silent.future(waiting(ends), metadata=metadata) for _ in range(3 * SLOTS)]
        answer = client.is_model_ready("digits", headers={"x-api-key": OTHER_KEY})
        is_waiting = not any(call.done() for call in calls)

    assert answer
    assert is_waiting


def test_caller_without_a_key_may_only_ask_for_health(guarded: BothProtocols) -> None:
    with triton.InferenceServerClient(guarded.address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        for headers in (
            {},
            {"authorization": "Bearer wrong-key-of-alice"},
            {"x-api-key": digest_of(KEY)},
        ):
            code, message = refusal(client, tensor(DIGITS), headers=headers)
            assert (code, "API key" in message) == ("UNAUTHENTICATED", True)
        with pytest.raises(InferenceServerException, match="API key"):
            client.get_model_metadata("digits")


# Beginning and end


def test_stop_signal_finishes_calls_in_flight_and_exits_with_zero(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    with (
        serving_both(tmp_path / "log", LOUPE_MODEL=digits_model.tag) as both,
        ThreadPoolExecutor(CLIENTS) as threads,
    ):
        answered: set[int] = set()

        def ask_until_refused(number: int) -> str:
            images = MANY if number == 0 else DIGITS
            with triton.InferenceServerClient(both.address) as client:
                while True:
                    try:
                        result = client.infer("digits", [tensor(images)])
                    except InferenceServerException as error:
                        return str(error.status())
                    assert result.as_numpy("index").shape == (len(images),)
                    answered.add(number)

        refused = [threads.submit(ask_until_refused, number) for number in range(CLIENTS)]
        until(lambda: len(answered) == CLIENTS)
        os.kill(both.service.process.pid, signal.SIGTERM)

        assert {each.result(30) for each in refused} == {"StatusCode.UNAVAILABLE"}
        assert both.service.process.wait(30) == 0
        assert "Traceback" not in both.service.log.read_text()


def test_missing_extra_or_used_port_stops_the_start_with_the_reason(
    tmp_path: Path, digits_model: StoredModel
) -> None:
    (tmp_path / "grpc.py").write_text("raise ModuleNotFoundError(\"No module named 'grpc'\")")
    missing = run("serve", "--port", free_port(), LOUPE_GRPC_PORT=free_port(), PYTHONPATH=tmp_path)
    port = free_port()
    taken = run("serve", "--port", port, LOUPE_GRPC_PORT=port)

    assert (missing.returncode, taken.returncode) == (1, 1)
    words = " ".join(missing.stderr.split())
    for fact in ("LOUPE_GRPC_PORT", "No module named 'grpc'", "pip install -e '.[grpc]'"):
        assert fact in words
    assert "LOUPE_GRPC_PORT" in taken.stderr
    assert "Traceback" not in missing.stderr + taken.stderr


def test_standard_health_check_is_answered(both: BothProtocols) -> None:
    with grpc.insecure_channel(both.address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "inference.GRPCInferenceService"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            stub.Check(health_pb2.HealthCheckRequest(service="another"))

    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


def test_clients_discover_the_services_by_reflection(both: BothProtocols) -> None:
    with grpc.insecure_channel(both.address) as channel:
        database = ProtoReflectionDescriptorDatabase(channel)
        assert set(database.get_services()) == {
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
            "inference.GRPCInferenceService",
        }
        pool = DescriptorPool(database)
        described = pool.FindServiceByName("inference.GRPCInferenceService")
        call = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=pb.ModelReadyResponse.FromString,
        )
        ready = GetMessageClass(described.FindMethodByName("ModelReady").input_type)(name="digits")
        assert call(ready).ready


def test_watcher_of_an_unknown_service_is_told_so(both: BothProtocols) -> None:
    with grpc.insecure_channel(both.address) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(
            health_pb2.HealthCheckRequest(service="another")
        )
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        watching.cancel()


@pytest.mark.parametrize(
    "path", ["/grpc.health.v1.Health/Watch", f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"]
)
def test_one_caller_has_a_share_of_streams(both: BothProtocols, path: str) -> None:
    with grpc.insecure_channel(both.address) as channel, ExitStack() as stack:
        open_stream = channel.stream_stream(path)
        streams = []
        for _ in range(STREAMS_SHARE + 1):
            ends = Event()
            stack.callback(ends.set)
            streams.append(open_stream(waiting(ends)))
            stack.callback(streams[-1].cancel)
        with pytest.raises(grpc.RpcError) as caught:
            next(streams[-1])
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize(
    "path", ["/grpc.health.v1.Health/Watch", f"/{reflection.SERVICE_NAME}/ServerReflectionInfo"]
)
@pytest.mark.parametrize("message", [b"\xff\xff", bytes(100_000)])
def test_message_of_a_stream_that_cannot_be_read_is_refused(
    both: BothProtocols, path: str, message: bytes
) -> None:
    with grpc.insecure_channel(both.address) as channel, pytest.raises(grpc.RpcError) as caught:
        next(channel.stream_stream(path)(iter([message])))

    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@contextlib.contextmanager
def ending() -> Iterator[Event]:
    """Return an event that is set when the block ends."""
    ends = Event()
    try:
        yield ends
    finally:
        ends.set()


def waiting(ends: Event) -> Iterator[bytes]:
    """Send no message until the end."""
    ends.wait()
    yield from ()


def test_watchers_see_that_the_service_drains_and_do_not_delay_its_end(
    digits_model: StoredModel, tmp_path: Path
) -> None:
    settings = {"LOUPE_DATA_DIR": tmp_path / "data", "LOUPE_API_KEYS": f"alice:{KEY}"}
    with (
        serving_both(
            tmp_path / "log",
            LOUPE_MODEL=digits_model.tag,
            LOUPE_DRAIN_SECONDS=1,
            LOUPE_SHUTDOWN_TIMEOUT_SECONDS=40,
            **settings,
        ) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        ends = Event()
        reflecting = channel.stream_stream(f"/{reflection.SERVICE_NAME}/ServerReflectionInfo")
        reflected = reflecting(waiting(ends))
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        running.service.process.terminate()
        assert next(watching).status == health_pb2.HealthCheckResponse.NOT_SERVING
        for stream in (watching, reflected):
            with pytest.raises(grpc.RpcError) as caught:
                next(stream)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        ends.set()
        assert running.service.process.wait(20) == 0
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_draining_service_answers_over_grpc_and_is_not_ready(
    digits_model: StoredModel, tmp_path: Path
) -> None:
    with (
        serving_both(
            tmp_path / "log",
            LOUPE_MODEL=digits_model.tag,
            LOUPE_DRAIN_SECONDS=3,
            LOUPE_DATA_DIR=tmp_path / "data",
        ) as running,
        grpc.insecure_channel(running.address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)

        def status() -> int:
            answer = stub.Check(health_pb2.HealthCheckRequest())
            return int(answer.status)

        serving_now = status()
        running.service.process.terminate()
        until(lambda: status() == health_pb2.HealthCheckResponse.NOT_SERVING)
        ready = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        answer = ready.ModelReady(pb.ModelReadyRequest(name="digits"))

    assert serving_now == health_pb2.HealthCheckResponse.SERVING
    assert answer.ready
