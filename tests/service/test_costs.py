"""Requests that are made to be expensive: none keeps the event loop from other requests."""

import asyncio
import base64
import gzip
import json
import time
import tracemalloc
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from types import MappingProxyType

import psutil
import pytest
from PIL import Image
from starlette.applications import Starlette
from starlette.types import Message
from tritonclient.grpc import service_pb2 as pb

from loupe.errors import ContentTooLarge, InvalidRequest
from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.app import create_app
from service.http.shares import turn
from service.http.validation import SHORT_REQUEST_TURNS, parse_json
from service.protocols.native.forms import STEP_BYTES, read_form
from service.protocols.open_inference.messages import check_message
from service.protocols.open_inference.requests import JSON_LENGTH
from tests.support import pictures
from tests.support.files import bombs

MAX_SECONDS = 0.5  # CPU time of one step of the event loop, on a slow machine
MAX_ANSWER_BYTES = 1000
TRIES = 3  # other programs on the machine slow memory down
CHUNK_BYTES = 64 * 1024
MIB = 2**20
JSON, FORM, NPY = "application/json", "multipart/form-data; boundary=x", "application/x-npy"
BATCH, ONE, JOBS = "/predict_batch", "/predict", "/jobs"
INFER, SERVING = "/v2/models/digits/infer", "/v1/models/digits:predict"


@pytest.fixture(scope="module")
def app(digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory) -> Starlette:
    settings = Settings(
        model=digits_model.tag,
        data_dir=tmp_path_factory.mktemp("data"),
        request_timeout_seconds=25,
    )
    app = create_app(settings)
    app.state.predictor.models.load()
    return app


async def ask(
    app: Starlette,
    path: str,
    media_type: str = JSON,
    body: bytes = b"",
    method: str = "POST",
    headers: Mapping[str, str] = MappingProxyType({}),
) -> tuple[int, bytes]:
    """Send a request to the app in pieces, as a server would; return status and body."""
    status, answer = 0, b""
    path, _, query = path.partition("?")
    scope = {
        "type": "http",
        "http_version": "1.0",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [
            (name.lower().encode(), value.encode())
            for name, value in {"content-type": media_type, **headers}.items()
        ],
        "client": ("127.0.0.1", 1),
    }
    start = 0

    async def receive() -> Message:
        nonlocal start
        await asyncio.sleep(0)
        chunk = body[start : start + CHUNK_BYTES]
        start += CHUNK_BYTES
        return {"type": "http.request", "body": chunk, "more_body": start < len(body)}

    async def send(message: Message) -> None:
        nonlocal status, answer
        status = message.get("status", status)
        answer += message.get("body", b"")

    await app(scope, receive, send)
    return status, answer


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Measure the CPU seconds of each step of the event loop."""
    seconds: list[float] = []
    run = asyncio.Handle._run

    def measured(handle: asyncio.Handle) -> None:
        begun = time.thread_time()
        run(handle)
        seconds.append(time.thread_time() - begun)

    monkeypatch.setattr(asyncio.Handle, "_run", measured)
    return seconds


def listed(start: str, item: str, end: str, size: int = 16 * MIB) -> bytes:
    """Return JSON of a size, with as many items as fit."""
    count = (size - len(start) - len(end)) // (len(item) + 1)
    return (start + ",".join([item] * count) + end).encode()


def filled(start: str, text: str, end: str) -> bytes:
    """Return JSON of the maximum size, with a text repeated in it."""
    return (start + text * ((16 * MIB - len(start) - len(end)) // len(text)) + end).encode()


def numbered_keys(count: int) -> bytes:
    return json.dumps(dict.fromkeys(map(str, range(count)), 0)).encode()


def form(*parts: bytes) -> bytes:
    return b"".join(b"--x\r\n" + part + b"\r\n" for part in parts) + b"--x--"


def encoded_part(encoding: str, size: int) -> bytes:
    head = f'Content-Disposition: form-data; name="image"\r\nContent-Transfer-Encoding: {encoding}'
    return form(head.encode() + b"\r\n\r\n" + b"=\r\nA" * (size * MIB // 4))


def npy_of(header: bytes) -> bytes:
    return b"\x93NUMPY\x02\x00" + len(header).to_bytes(4, "little") + header


ROW = f"[{','.join(['0.5'] * 28)}]"
ITEMS = ["0", "[]", "{}", '""', '"a"', "[[]]", '{"image":""}', "1.5", "null", '{"b64":"AAAA"}']
TENSOR = '{"inputs":[{"name":"images","datatype":"UINT8","shape":[4096,28,28],"data":['
FILE_PART = b'Content-Disposition: form-data; name="images"; filename="a"\r\n\r\n'

CASES: dict[str, tuple[str, str, Callable[[], bytes]]] = {
    **{
        f"{path} {start} {item}": (path, JSON, partial(listed, start, item, end))
        for path, start, end in (
            (BATCH, '{"images":[', "]}"),
            (ONE, '{"pixels":[[', "]]}"),
            (INFER, TENSOR, "]}]}"),
            (SERVING, '{"instances":[', "]}"),
        )
        for item in (*ITEMS, ROW)
    },
    **{
        f"{path} keys": (path, JSON, lambda: listed("{", '"aaaaaaaa":0', "}"))
        for path in (BATCH, ONE, INFER, SERVING, JOBS)
    },
    **{
        f"{path} {count} different keys": (path, JSON, partial(numbered_keys, count))
        for path, count in (
            *((path, 100_000) for path in (BATCH, ONE, INFER, SERVING, JOBS)),
            (BATCH, 1_000_000),
        )
    },
    **{
        f"{path} {name}": (path, JSON, body)
        for path in (BATCH, ONE, INFER, SERVING, JOBS)
        for name, body in (
            ("long key", lambda: b'{"' + b"a" * (16 * MIB - 10) + b'":0}'),
            ("deep", lambda: b"[" * (16 * MIB)),
            ("deep and closed", lambda: b"[" * 200_000 + b"]" * 200_000),
            ("spaces", lambda: b" " * (16 * MIB)),
            ("digits", lambda: b"9" * (16 * MIB)),
            ("fraction", lambda: b"0." + b"9" * (16 * MIB - 2)),
            ("escapes", lambda: b'"' + b"\\n" * (8 * MIB - 1) + b'"'),
            ("wide characters", lambda: ('"😀' + "a" * (16 * MIB - 10) + '"').encode()),
            ("over the limit", lambda: listed("[", "0", "]", 60 * MIB)),
        )
    },
    "one long image": (ONE, JSON, lambda: b'{"image":"' + b"A" * (16 * MIB - 12) + b'"}'),
    "one long wrong image": (ONE, JSON, lambda: b'{"image":"' + b"A" * 15 * MIB + b'!"}'),
    "one long escaped image": (
        ONE,
        JSON,
        lambda: b'{"image":"data:,' + b"%2B%3d" * (5 * MIB // 2) + b'!"}',
    ),
    "one long foreign image": (
        ONE,
        JSON,
        lambda: '{{"image":"{}é"}}'.format("A" * 15 * MIB).encode(),
    ),
    "long id": (
        INFER,
        JSON,
        lambda: filled(
            '{"id":"', "a", '","inputs":[{"name":"images","datatype":"UINT8","shape":[1,28,28]}]}'
        ),
    ),
    "long shape": (INFER, JSON, lambda: listed('{"inputs":[{"shape":[', "1", "]}]}")),
    "many inputs": (INFER, JSON, lambda: listed('{"inputs":[', '{"name":1}', "]}")),
    "many outputs": (INFER, JSON, lambda: listed('{"outputs":[', "0", "]}")),
    "many parameters": (
        INFER,
        JSON,
        lambda: b'{"parameters":' + numbered_keys(200_000) + b"}",
    ),
    "long signature": (SERVING, JSON, lambda: filled('{"signature_name":"', "a", '"}')),
    "long source": (JOBS, JSON, lambda: filled('{"source":"', "a", '"}')),
    "wrong options": (JOBS, JSON, lambda: listed('{"source":"a","top_k":[', "0", "]}")),
    "many parts": (BATCH, FORM, lambda: form(*[b"\r\n"] * 1_000_000)),
    "many files": (BATCH, FORM, lambda: form(*[FILE_PART + b"a"] * 500_000)),
    "long header": (BATCH, FORM, lambda: form(b"A: " + b"a" * 60 * MIB + b"\r\n\r\n")),
    **{
        f"{encoding} part of {size} MiB": (
            ONE,
            FORM,
            partial(encoded_part, encoding, size),
        )
        for encoding in ("base64", "quoted-printable")
        for size in (15, 60)
    },
    "many headers": (BATCH, FORM, lambda: form(b"A: b\r\n" * 8 * MIB + b"\r\n")),
    "long text": (
        ONE,
        FORM,
        lambda: form(b"Content-Disposition: form-data; name=image\r\n\r\n" + b"a" * 60 * MIB),
    ),
    "almost boundaries": (
        ONE,
        FORM,
        lambda: form(FILE_PART.replace(b"images", b"image") + b"\r\n--" * 15 * MIB),
    ),
    "wrong boundaries": (BATCH, FORM, lambda: form(FILE_PART + b"\r\n--xy" * 10 * MIB)),
    "no boundary": (BATCH, FORM, lambda: b"a" * 60 * MIB),
    "boundary of hyphens": (
        BATCH,
        f"multipart/form-data; boundary={'-' * 69}a",
        lambda: b"-" * 60 * MIB,
    ),
    "long npy header": (BATCH, NPY, lambda: npy_of(b"(" * 60 * MIB)),
    "deep npy header": (BATCH, NPY, lambda: npy_of(b"(" * 9000)),
    "endless npy shape": (
        BATCH,
        NPY,
        lambda: npy_of(
            b"{'descr':'|u1','fortran_order':False,'shape':(%b,%b)}" % ((b"9" * 4000,) * 2)
        ),
    ),
    "many npy dimensions": (
        BATCH,
        NPY,
        lambda: npy_of(b"{'descr':'|u1','fortran_order':False,'shape':(" + b"9," * 4500 + b")}"),
    ),
    "many npy fields": (
        BATCH,
        NPY,
        lambda: npy_of(
            b"{'descr':[" + b"('a','|u1')," * 700 + b"],'fortran_order':False,'shape':()}"
        ),
    ),
    "long language": (ONE + "?lang=" + "a" * 30_000, "image/png", lambda: b"x"),
    "long model": (ONE + "?model=" + "a" * 30_000, "image/png", lambda: b"x"),
    "long path": ("/v1/models/" + "a" * 30_000 + ":predict", JSON, lambda: b"{}"),
    "long version": ("/v2/models/digits/versions/" + "a" * 30_000 + "/infer", JSON, lambda: b"{}"),
    "long route": ("/" + "a/" * 15_000, JSON, lambda: b"{}"),
    "deep source": (JOBS, JSON, lambda: filled('{"source":"', "/a", '"}')),
    "many query parameters": (ONE + "?" + "a&" * 15_000, "image/png", lambda: b"x"),
    "long query parameter": (ONE + "?top_k=" + "9" * 30_000, "image/png", lambda: b"x"),
}


@pytest.mark.parametrize("name", CASES)
def test_expensive_request_is_refused_cheaply(
    name: str, app: Starlette, steps: list[float]
) -> None:
    path, media_type, make = CASES[name]
    sent = make()
    for _ in range(TRIES):
        steps.clear()
        status, body = asyncio.run(ask(app, path, media_type, sent))
        if max(steps) < MAX_SECONDS:
            break

    assert 400 <= status < 500, body[:MAX_ANSWER_BYTES]
    assert len(body) < MAX_ANSWER_BYTES
    assert max(steps) < MAX_SECONDS


GRPC_CASES: dict[str, Callable[[], bytes]] = {
    "empty outputs": lambda: b"\x32\x00" * 30 * MIB,
    "empty inputs": lambda: b"\x2a\x00" * 30 * MIB,
    "empty parameters": lambda: b"\x22\x00" * 30 * MIB,
    "empty raw contents": lambda: b"\x3a\x00" * 30 * MIB,
    "empty files": lambda: field(5, field(5, b"\x42\x00" * 30 * MIB)),
    "empty parameters of an input": lambda: field(5, b"\x22\x00" * 30 * MIB),
    "empty parameters of many outputs": lambda: field(6, b"\x12\x00" * 20_000) * 1_500,
    "packed numbers": lambda: field(5, field(5, field(4, bytes(60 * MIB)))),
    "packed numbers in pieces": lambda: field(5, field(5, field(3, bytes(MIB)) * 60)),
    "numbers that are not packed": lambda: field(5, field(5, b"\x20\x01" * 30 * MIB)),
    "long shape": lambda: field(5, field(3, bytes(60 * MIB))),
    "long name": lambda: field(1, b"a" * 60 * MIB),
    "unknown fields": lambda: b"\x78\x00" * 30 * MIB,
    "groups": lambda: b"\x7b\x7c" * 30 * MIB,
    "cut": lambda: field(5, bytes(100_000))[:-1],
    "endless number": lambda: b"\xff" * 100_000,
}


def field(number: int, content: bytes) -> bytes:
    """Return a field of a protobuf message that has a length."""
    length, size = b"", len(content)
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + content


@pytest.mark.parametrize("name", GRPC_CASES)
def test_expensive_message_is_refused_before_it_is_parsed(name: str) -> None:
    message = GRPC_CASES[name]()
    begun = time.thread_time()
    with pytest.raises((InvalidRequest, ContentTooLarge)):
        check_message(message, Settings())
    assert time.thread_time() - begun < MAX_SECONDS


def test_full_messages_are_parsed() -> None:
    settings = Settings()
    files = [bytes(1000)] * settings.max_images
    pixels = bytes([200]) * (settings.max_images * 784)
    for tensor in (
        {"contents": {"bytes_contents": files}},
        {"contents": {"uint_contents": pixels}},
    ):
        check_message(pb.ModelInferRequest(inputs=[tensor]).SerializeToString(), settings)
    check_message(
        pb.ModelInferRequest(raw_input_contents=[bytes(60 * MIB)]).SerializeToString(), settings
    )


def test_many_scrapes_do_not_keep_others_waiting(app: Starlette) -> None:
    async def story() -> int:
        scrapes = [asyncio.create_task(ask(app, "/metrics", method="GET")) for _ in range(50)]
        other = asyncio.create_task(ask(app, "/models", method="GET"))
        assert (await other)[0] == 200
        pending = sum(not scrape.done() for scrape in scrapes)
        assert {status for status, _ in await asyncio.gather(*scrapes)} == {200}
        return pending

    assert asyncio.run(story()) > 0


@pytest.mark.parametrize("path", [ONE, BATCH, INFER, SERVING, JOBS])
@pytest.mark.parametrize("content", ["0," * 32 * MIB, f"[{' ' * 60 * MIB}", "0123456789" * MIB])
def test_compressed_request_that_unpacks_to_much_is_refused_cheaply(
    path: str, content: str, app: Starlette, steps: list[float]
) -> None:
    body = gzip.compress(content.encode(), 1)
    for _ in range(TRIES):
        steps.clear()
        status, _ = asyncio.run(ask(app, path, JSON, body, headers={"content-encoding": "gzip"}))
        if max(steps) < MAX_SECONDS:
            break

    assert 400 <= status < 500
    assert max(steps) < MAX_SECONDS


LONG_STEPS: dict[str, Callable[[], Awaitable[object]]] = {
    "turns": turn,
    "JSON": lambda: parse_json(listed("[", "0", "]", MIB), Settings()),
    "form": lambda: read_form(FORM, form(b"\r\n\r\n" + bytes(STEP_BYTES + 100)), "image", 1),
    "form of short parts": lambda: read_form(
        FORM, form(*[b"\r\n\r\n" + bytes(STEP_BYTES // 4)] * 5), "image", 5
    ),
}


@pytest.mark.parametrize("name", LONG_STEPS)
def test_long_steps_run_in_different_turns_of_the_event_loop(name: str) -> None:
    turns = 0
    ended_in: list[int] = []

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def measured() -> None:
        await LONG_STEPS[name]()
        ended_in.append(turns)

    async def story() -> None:
        counting = asyncio.create_task(count())
        await asyncio.gather(*(measured() for _ in range(5)))
        counting.cancel()

    asyncio.run(story())

    assert len(set(ended_in)) == 5


def test_short_request_ends_between_two_long_texts_of_json() -> None:
    text = listed("[", "1" * 10, "]", 2 * SHORT_REQUEST_TURNS * MIB)
    ended_between: list[int] = []
    parsed = 0

    async def parse() -> None:
        nonlocal parsed
        await parse_json(text, Settings())
        parsed += 1

    async def short_request() -> None:
        while parsed < 3:
            before = parsed
            for _ in range(SHORT_REQUEST_TURNS):
                await asyncio.sleep(0)
            ended_between.append(parsed - before)

    async def story() -> None:
        await asyncio.gather(short_request(), *(parse() for _ in range(4)))

    asyncio.run(story())

    assert max(ended_between) <= 1


def raw_files(count: int, size: int) -> bytes:
    return (size.to_bytes(4, "little") + bytes(size)) * count


def binary_request(files: bytes, count: int) -> tuple[bytes, int]:
    """Return an inference request with raw files after its JSON, and the length of the JSON."""
    tensor = {
        "name": "images",
        "datatype": "BYTES",
        "shape": [count],
        "parameters": {"binary_data_size": len(files)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + files, len(head)


def test_parts_of_bodies_are_not_copied_all_at_once(app: Starlette) -> None:
    part = b'Content-Disposition: form-data; name="images"; filename="a"\r\n\r\n' + bytes(MIB)
    raw, json_length = binary_request(raw_files(16, MIB), 16)
    octets, length = "application/octet-stream", {JSON_LENGTH: str(json_length)}
    for path, media_type, body, headers in (
        (BATCH, FORM, form(*[part] * 16), {}),
        (INFER, octets, raw, length),
    ):
        tracemalloc.start()
        asyncio.run(ask(app, path, media_type, body, headers=headers))
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()

        assert peak_bytes < 1.6 * len(body), path


@pytest.mark.parametrize("path", [BATCH, ONE, INFER])
def test_file_in_a_body_is_not_copied(path: str, app: Starlette) -> None:
    file = pictures.encoded(Image.new("RGB", (2300, 2300)), "BMP")  # 16 MB
    name = b"images" if path == BATCH else b"image"
    media_type, headers = FORM, {}
    body = form(FILE_PART.replace(b"images", name) + file)
    if path == INFER:
        body, length = binary_request(len(file).to_bytes(4, "little") + file, 1)
        media_type, headers = "application/octet-stream", {JSON_LENGTH: str(length)}
    tracemalloc.start()
    status, _ = asyncio.run(ask(app, path, media_type, body, headers=headers))
    peak_bytes = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert status == 200
    assert peak_bytes < 1.3 * len(body)


def test_encoded_files_of_a_form_are_limited_together(app: Starlette) -> None:
    part = FILE_PART.removesuffix(b"\r\n") + b"Content-Transfer-Encoding: base64\r\n\r\n"
    text = b"A" * 9 * MIB
    one, two = (asyncio.run(ask(app, BATCH, FORM, form(*[part + text] * n))) for n in (1, 2))

    assert (one[0], two[0]) == (200, 413)


PIXELS = [[7] * 28] * 28
COSTLY = base64.b64encode(bombs.jpeg_with_scans(7000, 90)).decode()
TEXTS = [["A" * 20_000]] * 500
REQUESTS_THAT_WAIT: dict[str, object] = {
    BATCH: {"images": [COSTLY, *[{"pixels": PIXELS}] * 1400]},
    SERVING: {"instances": [{"b64": COSTLY}, *[PIXELS] * 1400]},
    INFER: {
        "inputs": [
            {"name": "images", "datatype": "BYTES", "shape": [501, 1]}
            | {"data": [[COSTLY], *TEXTS]}
        ]
    },
}


@pytest.mark.parametrize("path", REQUESTS_THAT_WAIT)
def test_values_of_json_are_freed_before_a_picture_is_decoded(path: str, app: Starlette) -> None:
    body = json.dumps(REQUESTS_THAT_WAIT[path]).encode()

    async def held_bytes() -> int:
        tracemalloc.start()
        asking = asyncio.create_task(ask(app, path, JSON, body))
        before = {child.pid: child.cpu_times().user for child in psutil.Process().children()}
        while not asking.done() and not any(
            child.cpu_times().user > before.get(child.pid, 0) + 0.6
            for child in psutil.Process().children()
        ):
            await asyncio.sleep(0.01)
        assert not asking.done()
        held = tracemalloc.get_traced_memory()[0]
        tracemalloc.stop()
        asking.cancel()
        return held

    assert asyncio.run(held_bytes()) < len(body)


def test_values_of_few_requests_are_in_memory_at_a_time(app: Starlette) -> None:
    # Wrong pixels take no room in the queue of the model.
    body = json.dumps({"images": [{"pixels": [[7] * 27 + [300]] * 28}] * 800}).encode()

    async def peak_bytes(requests: int) -> int:
        tracemalloc.start()
        answers = await asyncio.gather(*(ask(app, BATCH, JSON, body) for _ in range(requests)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert {status for status, _ in answers} == {200}
        return peak

    async def story() -> float:
        return await peak_bytes(10) / await peak_bytes(1)

    assert asyncio.run(story()) < 2.2
