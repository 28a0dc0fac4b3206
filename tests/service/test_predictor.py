"""What every protocol does alike, without a server."""

import asyncio
from contextlib import suppress

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from loupe.settings import Settings
from loupe.store import StoredModel
from service.bodies import MOST_OF_THE_LONGEST
from service.predictor import Call, Predictor


def test_a_request_that_is_cancelled_takes_no_room_from_the_bodies_of_others(digits_model: StoredModel) -> None:
    async def receive() -> Message:
        return {"type": "http.request", "body": bytes(100)}

    def request() -> Request:
        scope = {"type": "http", "method": "POST", "path": "/", "query_string": b"", "headers": [], "state": {}}
        return Request(scope, receive)

    async def read(call: Call) -> Response:
        return Response(await call.bodies.read(call.request))

    async def read_and_wait(call: Call) -> Response:
        await read(call)
        await asyncio.sleep(30)
        raise AssertionError("nobody should have waited so long")

    async def story() -> int:
        predictor = Predictor(Settings(model=digits_model.tag, max_body_bytes=100))
        for _ in range(MOST_OF_THE_LONGEST):
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(predictor.respond("loupe", request(), read_and_wait), 0.01)
        return (await predictor.respond("loupe", request(), read)).status_code

    assert asyncio.run(story()) == 200
