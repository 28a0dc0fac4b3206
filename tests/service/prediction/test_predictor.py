"""What every protocol does alike, without a server."""

import asyncio
import json
import tracemalloc
from contextlib import suppress
from functools import partial

import numpy as np
import pytest
from pydantic import JsonValue
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from loupe.errors import InvalidImage
from loupe.images.spec import ImageSpec
from loupe.models.store import StoredModel
from loupe.settings import Settings
from service.http.bodies import LARGEST_BODIES_SHARE
from service.metrics import exposed
from service.prediction.caller import Caller
from service.prediction.decoding import Decoders, Preparation, decode_all
from service.prediction.predictor import Call, Predictor, respond
from service.protocols.native.requests import read_element
from tests.support.garbage import uncollected


def request(predictor: Predictor) -> Request:
    """One with a body of a hundred bytes."""

    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(100)}

    app = Starlette()
    app.state.predictor = predictor
    scope = {
        "type": "http",
        "app": app,
        "method": "POST",
        "path": "/",
        "query_string": b"",
        "headers": [],
        "state": {},
    }
    return Request(scope, receive)


async def wait(call: Call) -> Response:
    await asyncio.sleep(30)
    raise AssertionError("the request should have ended earlier")


def test_cancelled_request_frees_its_body(
    digits_model: StoredModel,
) -> None:
    async def read(call: Call) -> Response:
        return Response(await call.bodies.read(call.request))

    async def read_and_wait(call: Call) -> Response:
        await read(call)
        await asyncio.sleep(30)
        raise AssertionError("the request should have ended earlier")

    async def story() -> int:
        predictor = Predictor(Settings(model=digits_model.tag, max_body_bytes=100))
        for _ in range(LARGEST_BODIES_SHARE):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(respond("loupe", request(predictor), read_and_wait), 0.01)
        return (await respond("loupe", request(predictor), read)).status_code

    assert asyncio.run(story()) == 200


@pytest.mark.parametrize(
    ("fails", "phases"),
    [
        pytest.param(True, {"decode": 1, "compute": 0, "encode": 0}, id="refused"),
        pytest.param(False, {"decode": 1, "compute": 1, "encode": 1}, id="answered"),
    ],
)
def test_phases_of_a_request_are_counted_as_far_as_it_gets(
    digits_model: StoredModel, fails: bool, phases: dict[str, int]
) -> None:
    async def predict(call: Call) -> Response:
        with call.model(None) as served:
            with call.decoding():
                if fails:
                    raise InvalidImage("No picture.")
                images = np.zeros((1, *served.stored.card.input.shape), np.uint8)
            await call.predict(images, served, call.caller())
            with call.encoding():
                return Response()

    async def story() -> None:
        predictor = Predictor(Settings(model=digits_model.tag))
        predictor.models.load()
        await respond("loupe", request(predictor), predict)
        lines = exposed(predictor.metrics.collected({}, [])).decode().splitlines()
        for phase, count in phases.items():
            assert f'loupe_seconds_count{{phase="{phase}"}} {float(count)}' in lines
        await predictor.close()

    asyncio.run(story())


@pytest.mark.parametrize("stopping", [False, True])
def test_request_cancelled_by_shutdown_gets_503(digits_model: StoredModel, stopping: bool) -> None:
    async def story() -> Response:
        predictor = Predictor(Settings(model=digits_model.tag))
        waiting = asyncio.create_task(respond("loupe", request(predictor), wait))
        await asyncio.sleep(0)
        predictor.stopping = stopping
        waiting.cancel()
        return await waiting

    if stopping:
        answer = asyncio.run(story())
        assert (answer.status_code, json.loads(bytes(answer.body))["code"]) == (
            503,
            "shutting_down",
        )
        assert answer.headers["retry-after"] == "1"
    else:
        with pytest.raises(asyncio.CancelledError):
            asyncio.run(story())


def test_client_that_does_not_read_the_503_is_not_awaited(
    digits_model: StoredModel,
) -> None:
    async def story() -> None:
        predictor = Predictor(Settings(model=digits_model.tag))

        async def answer() -> None:
            await respond("loupe", request(predictor), wait)
            await asyncio.sleep(30)  # as long as the connection takes nothing

        answering = asyncio.create_task(answer())
        await asyncio.sleep(0)
        predictor.stopping = True
        answering.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asyncio.wait_for(answering, 20)

    asyncio.run(story())


def test_refused_request_is_freed(digits_model: StoredModel) -> None:
    megabyte = 2**20

    async def refuse(call: Call) -> Response:
        body = bytes(megabyte)
        raise InvalidImage(f"{len(body)} bytes")

    async def refuse_one(call: Call) -> Response:
        preparation = Preparation(
            ImageSpec("ink"), "auto", Caller.within(10), Decoders(call.settings)
        )
        read = partial(read_element, spec=preparation.spec)
        values: list[JsonValue] = ["x" * megabyte, 1, {"pixels": [0] * megabyte}]
        decoded = await decode_all(values, read, call.settings, preparation)
        return Response(f"{len(decoded.errors)} errors")

    async def story() -> None:
        predictor = Predictor(Settings(model=digits_model.tag))
        for handler in (refuse, refuse_one):
            await respond(
                "loupe", request(predictor), handler
            )  # what is kept from the first time on stays
            tracemalloc.start()
            await respond("loupe", request(predictor), handler)
            kept, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert kept < megabyte < peak, handler

    with uncollected():
        asyncio.run(story())
