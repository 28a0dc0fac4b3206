"""Every example of an error in the OpenAPI document is provoked on its route."""

import asyncio
import base64
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest
from starlette.applications import Starlette
from starlette.types import Message

import service.jobs.api
import service.jobs.uploads
import service.protocols.native.models
import worker.queue.jobs
from loupe.images.spec import UInt8Array
from loupe.models import promotion, promotion_log
from loupe.models.store import StoredModel, model_corrupted
from loupe.results import SUCCESS, single_name
from loupe.settings import Settings
from service.app import create_app
from service.http.bodies import Bodies
from service.http.shares import Shares, shared
from service.key_limits import KeyLimit, KeyLimits
from service.prediction.predictor import Predictor
from service.web.document import document
from tests.support import pictures
from tests.support.files import bombs
from tests.support.servers.redis_servers import redis_server
from worker.queue.jobs import Jobs
from worker.queue.keys import job_key

Json: TypeAlias = Any

KEY = "the-key-of-alice-0001"
KEYS = [f"a/admin:{KEY}", f"b/jobs:{KEY}-jobs", f"c/predict:{KEY}-predict"]
MANY = 10**12
DIGITS: UInt8Array = pictures.digits(2)
TOO_MANY = 4097  # images
UNPROVOKED = {"program_failed"}  # no decoder starts


@dataclass
class Sent:
    """A request that succeeds until it is changed."""

    method: str
    path: str
    query: str = ""
    headers: dict[str, str] = field(default_factory=lambda: {"x-api-key": KEY, "host": "localhost"})
    body: bytes = b""
    is_complete: bool = True

    def send_json(self, value: Json) -> None:
        self.headers["content-type"] = "application/json"
        self.body = json.dumps(value).encode()


@dataclass
class World:
    """The app that gets the request, and what may break in it."""

    app: Starlette
    patch: pytest.MonkeyPatch

    @property
    def predictor(self) -> Predictor:
        predictor: Predictor = self.app.state.predictor
        return predictor

    def change_redis(self, sent: Sent, command: str) -> None:
        """Break Redis after the job of the request is queued; `redis_as_before` mends it."""
        upload_array(self, sent)
        self.app.state.redis.execute_command(*command.split())

    def break_engine(self) -> None:
        def fail(_: UInt8Array) -> UInt8Array:
            raise RuntimeError("the engine is broken")

        self.patch.setattr(self.predictor.models.find(None).batcher, "_run", fail)

    def break_routes(self) -> None:
        async def fail(_: object) -> None:
            raise RuntimeError("a bug")

        for route in self.app.routes:
            if hasattr(route, "endpoint"):
                self.patch.setattr(route.endpoint, "_handler", fail)


Provocation: TypeAlias = Callable[[World, Sent], object]


def image(value: Json) -> Provocation:
    """Send a picture as base64, or pixels, in place of the image of a request."""

    def provoke(_: World, sent: Sent) -> None:
        if sent.path == "/predict_batch":
            wrong_array(_, sent)
        elif sent.path == "/predict":
            sent.send_json({"image" if isinstance(value, str) else "pixels": value})
        elif sent.path.startswith("/v1"):
            sent.send_json({"instances": [DIGITS[0].tolist(), as_instance(value)]})
        else:
            sent.send_json({"inputs": [tensor([value])]})

    return provoke


def as_instance(value: Json) -> Json:
    return {"b64": value} if isinstance(value, str) else value


def tensor(values: Json) -> Json:
    is_file = isinstance(values[0], str)
    shape = [len(values)] if is_file else [len(values), 28, 28]
    kind = "BYTES" if is_file else "UINT8"
    return {"name": "images", "datatype": kind, "shape": shape, "data": values}


def base64_of(content: bytes) -> str:
    return base64.b64encode(content).decode()


def npy(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def change(**changes: Any) -> Provocation:
    """Change parts of a request."""

    def provoke(_: World, sent: Sent) -> None:
        for name, value in changes.items():
            if name == "headers":
                sent.headers |= value
            else:
                setattr(sent, name, value)

    return provoke


def json_of(value: Json) -> Provocation:
    return lambda _, sent: sent.send_json(value)


def upload_array(_: World, sent: Sent) -> None:
    if sent.method == "POST":
        sent.body = npy(DIGITS)
        sent.headers["content-type"] = "application/x-npy"


def unknown_model(world: World, sent: Sent) -> None:
    if sent.path == "/jobs":
        upload_array(world, sent)
        sent.query = "model=birds"
    elif sent.path.startswith("/predict"):
        sent.query = "model=birds"
    else:
        sent.path = sent.path.replace("digits", "birds")


def too_many_images(_: World, sent: Sent) -> None:
    if sent.path == "/predict":
        sent.headers["content-type"] = "multipart/form-data; boundary=x"
        sent.body = b"--x\r\n\r\n\r\n" * 2 * TOO_MANY + b"--x--"
    elif sent.path == "/predict_batch":
        sent.send_json({"images": ["a"] * TOO_MANY})
    elif sent.path.startswith("/v1"):
        sent.send_json({"instances": [0] * TOO_MANY})
    else:
        sent.send_json({"inputs": [tensor(["a"] * TOO_MANY)]})


def no_time(world: World, sent: Sent) -> None:
    sent.headers["x-request-timeout"] = "0.000001"


def incomplete(world: World, sent: Sent) -> None:
    sent.is_complete = False
    world.patch.setattr(Bodies.read, "__defaults__", ("an image", 0.01))


def stopping(world: World, sent: Sent) -> None:
    world.patch.setattr(world.predictor, "draining", True)
    world.patch.setattr(world.predictor.models.find(None).batcher, "_closing", True)


def full(world: World, _: Sent) -> None:
    world.patch.setattr(world.predictor.models.find(None).batcher, "_admitted", shared(0))


def busy(world: World, _: Sent) -> None:
    stack: Any = world.app.middleware_stack
    world.patch.setattr(stack.in_flight, "total", 0)


def no_requests(world: World, _: Sent) -> None:
    limits = KeyLimits({"a": KeyLimit(requests_per_second=0.01)})
    limits.take_request("a")
    world.patch.setattr(world.app.middleware_stack, "_limits", limits)


def no_images(world: World, _: Sent) -> None:
    world.patch.setattr(world.predictor, "key_limits", KeyLimits({"a": KeyLimit(None, 0)}))


def no_memory(world: World, _: Sent) -> None:
    world.patch.setattr(world.predictor.bodies._memory, "share", 10)


def no_redis(world: World, sent: Sent) -> None:
    upload_array(world, sent)
    world.patch.setattr(
        world.predictor.jobs, "_settings", Settings(redis_url="redis://127.0.0.1:1")
    )
    world.patch.setattr(world.predictor.jobs, "_opened", None)


def full_queue(world: World, sent: Sent) -> None:
    upload_array(world, sent)
    if sent.path.endswith("/retry"):  # the job itself has ended, and would make room
        opened = world.predictor.jobs._opened
        assert opened is not None
        world.patch.setattr(opened[1], "_forget", lambda keys: 0)
    world.patch.setattr(worker.queue.jobs, "MAX_JOBS", 0)


def no_slots(world: World, sent: Sent) -> None:
    upload_array(world, sent)
    finish(world, sent)
    limits = world.predictor.jobs.limits
    for limit in (limits.uploads, limits.streams, limits.pages):
        world.patch.setattr(limit, "_slots", Shares(0, 0))


def no_disk(world: World, sent: Sent) -> None:
    upload_array(world, sent)
    world.patch.setattr(service.jobs.uploads, "PART", "/dev/full")


def no_report(world: World, _: Sent) -> None:
    world.patch.setattr(service.protocols.native.models, "REPORT_FILE", "none.html")


def other_version(**changes: Any) -> Provocation:
    """Promote a version with these figures, or with none."""

    def provoke(world: World, _: Sent) -> None:
        model = world.predictor.models.find(None).stored
        figures = model.card.measured.model_copy(update=changes) if changes else None
        card = model.card.model_copy(update={"figures": figures})
        other = replace(model, tag="digits:other", card=card)
        world.patch.setattr(promotion, "find_model", lambda _: other)
        world.patch.setattr(promotion, "verify", lambda _: None)

    return provoke


def damaged_version(world: World, _: Sent) -> None:
    def fail(_: object) -> None:
        raise model_corrupted("digits:other", "model.onnx", "differs from what was saved")

    world.patch.setattr(promotion_log, "pointers", fail)


def store_of_others(world: World, _: Sent) -> None:
    world.patch.setattr(promotion, "promotions_path", lambda: Path("/dev/null/promotions"))


def other_role(_: World, sent: Sent) -> None:
    is_prediction = sent.path.startswith(("/predict", "/v"))
    sent.headers["x-api-key"] = f"{KEY}-{'jobs' if is_prediction else 'predict'}"


def range_behind_the_end(world: World, sent: Sent) -> None:
    sent.headers["range"] = "bytes=9-"
    finish(world, sent)


def finish(world: World, sent: Sent) -> None:
    """Give the job of a request a result."""
    if sent.path.endswith("/results"):
        _, job = asked(world.app, Sent("GET", sent.path.removesuffix("/results")))
        world.app.state.redis.hset(job_key(job["id"]), "state", "done")
        Path(job["output"]).mkdir()
        (Path(job["output"]) / single_name("parquet")).write_bytes(b"PAR1\n")


def wrong_array(_: World, sent: Sent) -> None:
    sent.headers["content-type"] = "application/x-npy"
    sent.body = npy(DIGITS.astype(np.float32))


def array_with_errors(_: World, sent: Sent) -> None:
    sent.headers["accept"] = "application/x-npy"
    sent.send_json({"images": ["no picture"]})


def invalid(_: World, sent: Sent) -> None:
    """Send JSON without what the route needs, or a query with a wrong value."""
    if sent.method == "GET":
        sent.query = "format=xml" if sent.path.endswith("/results") else "limit=0"
    elif sent.path.startswith("/models/"):
        sent.query = "force=perhaps"
    else:
        sent.send_json({"picture": "x"})


def no_results(world: World, sent: Sent) -> None:
    """Cancel the job of a request; for its errors, give its folder to another job."""
    ended_job(world, sent)
    if "/errors" in sent.path:
        job = Jobs(world.app.state.redis).get(sent.path.split("/")[2])
        other = job.request.model_copy(update={"source": "/other"})
        Path(job.folder).mkdir()
        (Path(job.folder) / SUCCESS).write_text(other.model_dump_json())


def ended_job(world: World, sent: Sent) -> None:
    asked(world.app, Sent("DELETE", "/".join(sent.path.split("/")[:3])))


def no_job(_: World, sent: Sent) -> None:
    action = sent.path.removeprefix("/jobs/").partition("/")[2]
    sent.path = f"/jobs/3f0c5b1d9a2e{'/' if action else ''}{action}"


def no_route(_: World, sent: Sent) -> None:
    parts = sent.path.replace("page.css", "other.js").replace("digits", "").split("/")
    if parts[1] == "jobs":
        parts[2] = ""
    sent.path = "/".join(parts)


def no_key(_: World, sent: Sent) -> None:
    del sent.headers["x-api-key"]
    sent.path = sent.path.replace("page.css", "other.js")  # the page's own files are open


def wrong_type(_: World, sent: Sent) -> None:
    name = "content-encoding" if sent.path.startswith("/v") else "content-type"
    sent.headers[name] = "text/html"


def missing_source(world: World, sent: Sent) -> None:
    sent.send_json({"source": f"{world.predictor.settings.job_roots}/none"})


PROVOCATIONS: dict[str, Provocation] = {
    "animated_image": image(base64_of(pictures.long_gif(2))),
    "body_too_large": change(headers={"content-length": str(MANY)}),
    "body_too_slow": incomplete,
    "deadline_exceeded": no_time,
    "engine_failed": lambda world, _: world.break_engine(),
    "headers_too_large": change(headers={"x-padding": "x" * 40_000}),
    "host_forbidden": change(headers={"host": "evil.example"}),
    "image_too_costly": image(base64_of(bombs.jpeg_with_scans(80, 101))),
    "image_too_large": image(base64_of(pictures.huge_png(10_000))),
    "image_too_small": image(base64_of(pictures.png(DIGITS[0][:1, :1]))),
    "internal_error": lambda world, _: world.break_routes(),
    "invalid_image": image(base64_of(b"no picture")),
    "invalid_json": change(headers={"content-type": "application/json"}, body=b'{"image": '),
    "invalid_pixels": image([[300] * 28] * 28),
    "invalid_request": invalid,
    "invalid_source": missing_source,
    "job_ended": ended_job,
    "job_not_done": change(),
    "job_not_found": no_job,
    "job_not_retried": change(),
    "model_control_forbidden": change(),
    "model_corrupted": damaged_version,
    "model_not_found": unknown_model,
    "not_acceptable": array_with_errors,
    "not_better": other_version(loss=1.0),
    "not_comparable": other_version(test_digest="other"),
    "not_measured": other_version(),
    "nothing_to_roll_back": change(),
    "origin_forbidden": change(headers={"sec-fetch-site": "cross-site", "origin": "http://evil"}),
    "overloaded": full,
    "picture_not_found": change(query="row=cat.png"),
    "queue_full": full_queue,
    "quota_exceeded": no_images,
    "range_not_satisfiable": range_behind_the_end,
    "rate_limited": no_requests,
    "redis_full": lambda world, sent: world.change_redis(sent, "CONFIG SET maxmemory 1"),
    "redis_read_only": lambda world, sent: world.change_redis(sent, "REPLICAOF 127.0.0.1 1"),
    "redis_unavailable": no_redis,
    "report_not_found": no_report,
    "results_not_found": no_results,
    "role_needed": other_role,
    "route_not_found": no_route,
    "several_objects": image(base64_of(pictures.png(pictures.strokes(2)))),
    "shutting_down": stopping,
    "store_unwritable": store_of_others,
    "source_forbidden": json_of({"source": "/etc/images"}),
    "too_many_bytes": no_memory,
    "too_many_images": too_many_images,
    "too_many_requests": busy,
    "too_many_transfers": no_slots,
    "unauthorized": no_key,
    "unknown_language": change(query="lang=xx"),
    "unsupported_media_type": wrong_type,
    "upload_not_saved": no_disk,
}


def asked(app: Starlette, sent: Sent) -> tuple[int, Json]:
    """Send a request to the app; return status and JSON."""
    answer: tuple[int, Json] = app.state.loop.run_until_complete(_asked(app, sent))
    return answer


async def _asked(app: Starlette, sent: Sent) -> tuple[int, Json]:
    status, answer = 0, b""
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": sent.method,
        "path": sent.path,
        "query_string": sent.query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in sent.headers.items()],
        "client": ("127.0.0.1", 1),
    }

    async def receive() -> Message:
        if not sent.is_complete:
            await asyncio.sleep(30)
        return {"type": "http.request", "body": sent.body}

    async def send(message: Message) -> None:
        nonlocal status, answer
        status = message.get("status", status)
        answer += message.get("body", b"")

    await app(scope, receive, send)
    return status, json.loads(answer)


@pytest.fixture(scope="module")
def apps(
    digits_model: StoredModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Starlette, Starlette]]:
    """Return the app without keys, and one that needs a key."""
    folder = tmp_path_factory.mktemp("examples")
    with redis_server(folder) as server:
        common: dict[str, Any] = {
            "model": digits_model.tag,
            "data_dir": folder / "data",
            "redis_url": server.url,
            "job_roots": str(tmp_path_factory.mktemp("images")),
            "allowed_hosts": "localhost",
        }
        made = [
            create_app(Settings(**common)),
            create_app(Settings(**common | {"api_keys": ",".join(KEYS)})),
        ]
        loop = asyncio.new_event_loop()
        for app in made:
            app.state.loop, app.state.redis = loop, server.client
            app.state.predictor.models.load()
        yield made[0], made[1]
        for app in made:
            loop.run_until_complete(app.state.predictor.close())
        loop.close()


@pytest.fixture
def redis_as_before(apps: tuple[Starlette, Starlette]) -> Iterator[None]:
    """Undo changes of the configuration of Redis after the test."""
    yield
    apps[0].state.redis.config_set("maxmemory", 0)
    apps[0].state.redis.replicaof("NO", "ONE")


def request_of(path: str, method: str, operation: Json, shared: Json, version: str) -> Sent:
    """Make a request from the examples of the document."""
    for parameter in [*shared.get("parameters", []), *operation.get("parameters", [])]:
        found = resolved(parameter)
        if found["in"] == "path":
            value = found.get("example", found["schema"].get("enum", [""])[0])
            is_serving = path.startswith("/v1") and found["name"] == "version"
            path = path.replace("{" + found["name"] + "}", version if is_serving else value)
    sent = Sent(method.upper(), path)
    content = resolved(operation.get("requestBody", {})).get("content", {}).get("application/json")
    if content:
        examples = content.get("examples") or {"only": {"value": content["example"]}}
        sent.send_json(resolved(next(iter(examples.values())))["value"])
    return sent


def resolved(value: Json) -> Json:
    """Follow a reference in the document."""
    if "$ref" not in value:
        return value
    found = DOCUMENT
    for name in value["$ref"].removeprefix("#/").split("/"):
        found = found[name]
    return found


DOCUMENT: Json = json.loads(document())
OPERATIONS = {
    f"{method.upper()} {path}": (path, method, operation, shared)
    for path, shared in DOCUMENT["paths"].items()
    for method, operation in shared.items()
    if method != "parameters"
}
EXAMPLES = [
    pytest.param(name, status, code, example["value"], id=f"{name} {status} {code}")
    for name, (_, _, operation, _) in OPERATIONS.items()
    for status, response in operation["responses"].items()
    if status >= "400"
    for code, example in resolved(response)["content"]["application/json"]
    .get("examples", {})
    .items()
    if code not in UNPROVOKED
]


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_code_of_an_operation_has_an_example(name: str) -> None:
    for status, response in OPERATIONS[name][2]["responses"].items():
        if status >= "400":
            content = response["content"]["application/json"]
            codes = content["schema"]["properties"]["code"]["enum"]
            assert codes == [*content["examples"]] != [], status


@pytest.mark.parametrize(("name", "status", "code", "example"), EXAMPLES)
def test_example_of_an_error_can_be_provoked(
    name: str,
    status: str,
    code: str,
    example: Json,
    apps: tuple[Starlette, Starlette],
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
    redis_as_before: None,
) -> None:
    needs_key = code in ("quota_exceeded", "rate_limited", "role_needed", "unauthorized")
    if name.startswith("POST /models/"):  # without keys, nobody may promote
        needs_key = code != "origin_forbidden"
    app = apps[1 if needs_key else 0]
    sent = request_of(*OPERATIONS[name], digits_model.version)
    if "/jobs/" in sent.path:
        upload = Sent("POST", "/jobs", body=npy(DIGITS))
        upload.headers["content-type"] = "application/x-npy"
        _, job = asked(apps[0], upload)
        sent.path = sent.path.replace("3f0c5b1d9a2e", job["id"])
        if sent.path.endswith("/retry") and code != "job_not_retried":
            app.state.redis.hset(job_key(job["id"]), "state", "failed")
    PROVOCATIONS[code](World(app, monkeypatch), sent)

    answer = asked(app, sent)

    assert (answer[0], answer[1]["code"]) == (int(status), code), answer
    assert example.keys() == {"error", "code"}
    assert example["code"] == code


BEFORE_ROUTES = (
    "headers_too_large",
    "host_forbidden",
    "origin_forbidden",
    "rate_limited",
    "too_many_requests",
    "unauthorized",
)


@pytest.mark.parametrize("code", BEFORE_ROUTES)
def test_operations_list_each_error_that_comes_before_their_routes(
    code: str,
    apps: tuple[Starlette, Starlette],
    digits_model: StoredModel,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    app, unlisted = apps[code in ("rate_limited", "unauthorized")], []
    for name, operation in OPERATIONS.items():
        sent = request_of(*operation, digits_model.version)
        with monkeypatch.context() as patch:
            PROVOCATIONS[code](World(app, patch), sent)
            try:
                status, answer = asked(app, sent)
            except json.JSONDecodeError:  # a page, so the request was not refused
                continue
        listed = operation[2]["responses"].get(str(status), {}).get("content", {})
        if answer.get("code") == code and code not in str(listed):
            unlisted.append(name)

    assert unlisted == []
