"""Decoding of pictures in background threads."""

import asyncio
import threading
import weakref

import numpy as np
import pytest
from PIL import Image

from loupe.errors import CallerGone, DeadlineExceeded
from loupe.images.decode import Picture, open_picture
from loupe.images.spec import UInt8Array
from loupe.settings import Settings
from service.prediction import decoding
from service.prediction.caller import Caller
from service.prediction.decoding import Preparation, decode, decode_all
from tests.support import pictures
from tests.support.garbage import uncollected
from tests.support.programs import until

SETTINGS = Settings()


def same(value: bytes) -> bytes:
    return value


@pytest.mark.parametrize("others_wait", [False, True])
def test_decoding_a_photo_yields_to_waiting_requests(
    monkeypatch: pytest.MonkeyPatch, others_wait: bool
) -> None:
    pauses: list[str] = []
    monkeypatch.setattr(
        decoding, "_yield_core", lambda: pauses.append(threading.current_thread().name)
    )
    sheet = pictures.encoded(Image.fromarray(np.tile(pictures.digits(1)[0], (4, 4))), "JPEG")
    preparation = Preparation("ink", "auto", Caller.within(10), lambda: others_wait)

    asyncio.run(decode(sheet, SETTINGS, preparation))
    assert bool(pauses) is others_wait
    assert all(name.startswith("decode") for name in pauses)


def test_pictures_of_a_disconnected_client_are_not_decoded() -> None:
    large = [pictures.png(np.full((100, 100), 255, np.uint8))] * 3
    looks = iter([False, True])  # disconnects during the first picture
    gone = Caller.within(10, lambda: next(looks))

    with pytest.raises(CallerGone):
        asyncio.run(decode_all(large, same, SETTINGS, Preparation("ink", "auto", gone)))
    assert list(looks) == []


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[Picture]]:
    """Weak references to the pictures that are opened from now on."""
    noted: list[weakref.ref[Picture]] = []

    def open_and_note(data: bytes, *, max_pixels: int) -> Picture:
        picture = open_picture(data, max_pixels=max_pixels)
        noted.append(weakref.ref(picture))
        return picture

    monkeypatch.setattr(decoding, "open_picture", open_and_note)
    return noted


def test_picture_that_waits_past_its_deadline_is_refused_and_never_decoded(
    opened: list[weakref.ref[Picture]],
) -> None:
    large = pictures.png(np.full((100, 100), 255, np.uint8))
    begun, go_on = threading.Semaphore(0), threading.Event()
    taken_up: list[str] = []

    def hold() -> bool:
        begun.release()
        return not go_on.wait(30)

    def take_up() -> bool:
        taken_up.append("late")
        return False

    async def read(caller: Caller) -> UInt8Array:
        return await decode(large, SETTINGS, Preparation("ink", "auto", caller))

    async def story() -> None:
        early = [
            asyncio.create_task(read(Caller.within(30, hold))) for _ in range(2)
        ]  # one for each decoder
        for _ in early:
            await asyncio.to_thread(begun.acquire)
        with pytest.raises(DeadlineExceeded):
            await read(Caller.within(0.05, take_up))
        assert opened[-1]() is None  # although both threads are busy
        go_on.set()
        assert [image.shape for image in await asyncio.gather(*early)] == [(28, 28)] * 2
        assert (await read(Caller.within(30))).shape == (28, 28)  # it would queue behind a leftover

    with uncollected():
        asyncio.run(story())
        until(lambda: all(picture() is None for picture in opened))
    assert taken_up == []


def test_picture_whose_decoding_fails_is_freed(
    opened: list[weakref.ref[Picture]],
) -> None:
    def fail() -> bool:
        raise MemoryError

    async def story() -> None:
        failing = Preparation("ink", "auto", Caller.within(10, fail))
        try:
            await decode(large, SETTINGS, failing)
        except MemoryError:
            pass
        else:
            raise AssertionError("it should have failed")

    large = pictures.png(np.full((100, 100), 255, np.uint8))
    with uncollected():
        asyncio.run(story())
        until(lambda: opened[0]() is None)  # the thread frees it a moment later
