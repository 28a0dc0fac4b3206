"""Decoding of pictures in background processes."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import suppress

import numpy as np
import pytest

from loupe.errors import (
    CallerGone,
    ContentTooLarge,
    DeadlineExceeded,
    InvalidImage,
    TooManyRequests,
)
from loupe.images.spec import ImageSpec, UInt8Array
from loupe.settings import Settings
from service.prediction.caller import Caller
from service.prediction.decoding import (
    DECODERS,
    LARGEST_REQUESTS_SHARE,
    MAX_IMAGE_BYTES,
    Decoders,
    Preparation,
    decode,
    decode_all,
    max_images,
)
from tests.support import pictures
from tests.support.files import bombs
from tests.support.garbage import uncollected
from tests.support.programs import until

SETTINGS = Settings(decode_seconds=2)
LARGE = pictures.png(np.full((100, 100), 255, np.uint8))
SLOW = bombs.jpeg_with_scans(4000, 90)
COSTLY = bombs.jpeg_with_scans(7000, 90)


@pytest.fixture
def decoders() -> Iterator[Decoders]:
    decoders = Decoders(SETTINGS)
    yield decoders
    decoders.close()


def same(value: bytes) -> bytes:
    return value


def preparation(decoders: Decoders, caller: Caller | None = None) -> Preparation:
    return Preparation(ImageSpec("ink"), "auto", caller or Caller.within(30), decoders)


def test_pictures_of_a_disconnected_client_are_not_decoded(decoders: Decoders) -> None:
    looks = iter([False, False, True])  # disconnects after the first picture
    gone = Caller.within(10, lambda: next(looks))

    with pytest.raises(CallerGone):
        asyncio.run(decode_all([LARGE] * 3, same, SETTINGS, preparation(decoders, gone)))
    assert list(looks) == []


def test_neighbours_of_a_costly_picture_are_decoded(decoders: Decoders) -> None:
    settings = Settings(decode_seconds=0.2)
    brief = Decoders(settings)
    values = [LARGE, COSTLY, pictures.png(pictures.digits(1)[0]), b"no picture", LARGE]
    try:
        decoded = asyncio.run(decode_all(values, same, settings, preparation(brief)))
    finally:
        brief.close()

    assert len(decoded.images) == 3
    codes = {index: error.code for index, error in decoded.errors.items()}
    assert codes == {1: "image_too_costly", 3: "invalid_image"}


def test_quick_pictures_go_before_costly_ones(decoders: Decoders) -> None:
    ended: list[str] = []

    async def read(name: str, data: bytes) -> None:
        with suppress(InvalidImage):
            await decode(data, SETTINGS, preparation(decoders))
        ended.append(name)

    async def story() -> None:
        costly = [asyncio.create_task(read("costly", SLOW)) for _ in range(3 * DECODERS)]
        await asyncio.sleep(0.2)
        await read("quick", LARGE)
        for task in costly:
            task.cancel()

    asyncio.run(story())
    assert len(ended) <= 1 + DECODERS


def test_pictures_with_much_metadata_do_not_keep_others_waiting(decoders: Decoders) -> None:
    flood = bombs.png_with_chunks(600_000)

    async def story() -> None:
        costly = [
            asyncio.create_task(decode(flood, SETTINGS, preparation(decoders))) for _ in range(5)
        ]
        await asyncio.sleep(0.2)
        await decode(LARGE, SETTINGS, preparation(decoders))
        assert not any(task.done() for task in costly)
        for task in costly:
            task.cancel()

    asyncio.run(story())


def test_large_pictures_do_not_keep_others_waiting(decoders: Decoders) -> None:
    async def story() -> None:
        costly = [
            asyncio.create_task(decode(COSTLY, SETTINGS, preparation(decoders))) for _ in range(5)
        ]
        await asyncio.sleep(0.5)
        await decode(LARGE, SETTINGS, preparation(decoders))
        assert not any(task.done() for task in costly)
        for task in costly:
            task.cancel()

    asyncio.run(story())


def test_caller_with_many_pictures_does_not_keep_another_waiting(decoders: Decoders) -> None:
    ended: list[str] = []

    async def read(name: str) -> None:
        with suppress(InvalidImage):
            await decode(SLOW, SETTINGS, preparation(decoders, Caller.within(30, name=name)))
        ended.append(name)

    async def story() -> None:
        many = [asyncio.create_task(read("many")) for _ in range(6 * DECODERS)]
        await asyncio.sleep(0.2)
        await read("one")
        for task in many:
            task.cancel()

    asyncio.run(story())
    assert len(ended) <= 1 + 2 * DECODERS


def test_stream_of_cheap_pictures_does_not_keep_another_waiting(
    decoders: Decoders, monkeypatch: pytest.MonkeyPatch
) -> None:
    permits = threading.Semaphore(0)
    image = np.zeros((28, 28), np.uint8)

    def decode_when_permitted(*_: object, **__: object) -> UInt8Array:
        permits.acquire()
        return image

    monkeypatch.setattr(decoders._pool, "decode", decode_when_permitted)

    async def stream() -> None:
        while True:
            await decode(LARGE, SETTINGS, preparation(decoders, Caller.within(30, name="many")))

    async def story() -> None:
        tasks = [asyncio.create_task(stream()) for _ in range(3 * DECODERS)]
        await asyncio.sleep(0.1)
        costlier = pictures.png(np.full((300, 300), 255, np.uint8))  # nine times
        other = preparation(decoders, Caller.within(30, name="one"))
        waiting = asyncio.create_task(decode(costlier, SETTINGS, other))
        for _ in range(100):
            permits.release()
            await asyncio.sleep(0.01)
        assert waiting.done()
        for task in tasks:
            task.cancel()

    asyncio.run(story())
    permits.release(2 * DECODERS)


class Weighed(bytes):
    """A file that counts how many of them exist."""

    alive = 0

    def __init__(self, data: bytes) -> None:
        Weighed.alive += 1

    def __del__(self) -> None:
        Weighed.alive -= 1


def test_picture_that_waits_past_its_deadline_is_refused_and_freed(decoders: Decoders) -> None:
    async def read(data: bytes, caller: Caller) -> UInt8Array:
        return await decode(data, SETTINGS, preparation(decoders, caller))

    async def story() -> None:
        early = [asyncio.create_task(read(SLOW, Caller.within(30))) for _ in range(DECODERS)]
        await asyncio.sleep(0.5)
        with pytest.raises(DeadlineExceeded):
            await read(Weighed(LARGE), Caller.within(0.05))
        assert Weighed.alive == 0  # although all decoders are busy
        for task in early:
            task.cancel()
        assert (await read(LARGE, Caller.within(30))).shape == (28, 28)

    with uncollected():
        asyncio.run(story())


def test_decoder_is_free_soon_after_the_deadline(decoders: Decoders) -> None:
    unlimited = Decoders(Settings(decode_seconds=60))

    async def story() -> None:
        prepared = preparation(unlimited, Caller.within(1))
        late = [asyncio.create_task(decode(SLOW, SETTINGS, prepared)) for _ in range(DECODERS)]
        for task in late:
            with pytest.raises(DeadlineExceeded):
                await task
        await decode(LARGE, SETTINGS, preparation(unlimited, Caller.within(5)))

    try:
        asyncio.run(story())
    finally:
        unlimited.close()


def test_picture_whose_decoding_fails_is_freed(decoders: Decoders) -> None:
    async def story() -> None:
        try:
            await decode(Weighed(LARGE[:-30]), SETTINGS, preparation(decoders))
        except InvalidImage:
            pass
        else:
            raise AssertionError("it should have failed")

    with uncollected():
        asyncio.run(story())
        until(lambda: Weighed.alive == 0)  # the thread frees it a moment later


def test_a_request_may_have_fewer_images_of_a_larger_model(decoders: Decoders) -> None:
    spec = ImageSpec("photo", 128, 128, 3)
    most = max_images(Settings(), spec)

    assert most * spec.nbytes <= MAX_IMAGE_BYTES
    assert max_images(Settings(), ImageSpec("ink")) == Settings().max_images
    large = Preparation(spec, "auto", Caller.within(30), decoders)
    with pytest.raises(ContentTooLarge, match=f"{most:,} of 128 × 128 × 3") as raised:
        asyncio.run(decode_all([b""] * (most + 1), same, Settings(), large))
    assert raised.value.code == "too_many_images"


def test_images_in_decoding_count_as_memory_of_their_caller(decoders: Decoders) -> None:
    mine, yours = (Caller.within(30, name=name) for name in ("mine", "yours"))
    values = [pictures.png(pictures.digits(1)[0])]
    with decoders.holding("mine", LARGEST_REQUESTS_SHARE * MAX_IMAGE_BYTES):
        with pytest.raises(TooManyRequests) as raised:
            asyncio.run(decode_all(values, same, SETTINGS, preparation(decoders, mine)))
        assert raised.value.code == "too_many_bytes"
        asyncio.run(decode_all(values, same, SETTINGS, preparation(decoders, yours)))
    asyncio.run(decode_all(values, same, SETTINGS, preparation(decoders, mine)))
