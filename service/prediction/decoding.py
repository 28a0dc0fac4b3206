"""Decoding of images: small ones in the event loop, large ones in two background threads."""

import asyncio
import os
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias, TypeVar

import numpy as np

from loupe.errors import (
    CallerGone,
    ContentTooLarge,
    DeadlineExceeded,
    InvalidRequest,
    LoupeError,
)
from loupe.images.decode import Picture, open_picture
from loupe.images.spec import SIDE, Look, Normalize, UInt8Array
from loupe.settings import Settings
from service.prediction.caller import Caller

DECODER_THREADS = 2  # they bound the memory that large pictures take
DECODER_NICENESS = 10
INLINE_PIXELS = 64 * 64  # a picture this small is decoded faster than a thread is woken
YIELD_IMAGES = 16  # decoded before other requests get the event loop

Value = TypeVar("Value")

# A file with one picture, or pixels that need no preparation.
EncodedImage: TypeAlias = "bytes | UInt8Array"


@dataclass(frozen=True)
class Preparation:
    """Settings for preparing pictures for a model.

    Attributes:
        look: How the model's training images look.
        normalize: `auto` makes pictures look like them, `off` takes pictures unchanged.
        caller: Client that waits for the images.
        others_wait: Returns whether other requests wait; decoding a photo then yields to them.
    """

    look: Look
    normalize: Normalize
    caller: Caller
    others_wait: Callable[[], bool] = lambda: False

    def pixels(self, picture: Picture) -> UInt8Array:
        """Return uint8 `(28, 28)`, as the model takes it, unless the request has ended."""
        self.caller.check()
        return picture.pixels(self.look) if self.normalize == "auto" else picture.unchanged()


@dataclass(frozen=True)
class DecodedImages:
    """The images of one request.

    Attributes:
        images: uint8 `(n, 28, 28)`: those that could be read, in the order of the request.
        errors: Errors of the others, by index in the request.
    """

    images: UInt8Array
    errors: dict[int, LoupeError]

    def __len__(self) -> int:
        return len(self.images) + len(self.errors)


def check_count(count: int, settings: Settings) -> None:
    """Refuse a request without images, or with more than one request may hold."""
    if count == 0:
        raise InvalidRequest("The request has no images.")
    if count > settings.max_images:
        raise ContentTooLarge(
            f"The request has {count:,} images; at most {settings.max_images:,} are allowed "
            "(LOUPE_MAX_IMAGES_PER_REQUEST, LOUPE_MAX_QUEUED_IMAGES). "
            "Send several requests, or score the set as a job.",
            code="too_many_images",
        )


async def decode_all(
    values: Iterable[Value],
    read: Callable[[Value], EncodedImage],
    settings: Settings,
    preparation: Preparation,
) -> DecodedImages:
    """Decode many images; an image that fails does not fail the others.

    Args:
        values: Values of the request, one for each image.
        read: Returns the encoded image in a value, or raises a `LoupeError`.
        settings: Limits.
        preparation: Settings for preparing the pictures.

    Raises:
        CallerGone: If the client disconnected; the rest is not decoded.
        DeadlineExceeded: If the request ran out of time; the rest is not decoded.
    """
    images: list[UInt8Array] = []
    errors: dict[int, LoupeError] = {}
    for index, value in enumerate(values):
        try:
            images.append(await decode(read(value), settings, preparation))
        except (CallerGone, DeadlineExceeded):
            raise
        except LoupeError as error:
            errors[index] = error.with_traceback(None)  # its frames would keep the request
        if index % YIELD_IMAGES == YIELD_IMAGES - 1:
            await asyncio.sleep(0)
    return DecodedImages(
        np.stack(images) if images else np.empty((0, SIDE, SIDE), np.uint8), errors
    )


async def decode(image: EncodedImage, settings: Settings, preparation: Preparation) -> UInt8Array:
    """Decode one image to uint8 `(28, 28)`, unless the request ends first."""
    if isinstance(image, np.ndarray):
        return image
    picture = open_picture(image, max_pixels=settings.max_image_pixels)
    if picture.pixel_count <= INLINE_PIXELS:
        return preparation.pixels(picture)
    if preparation.others_wait():
        picture.pause_with(_yield_core)
    waiting = [picture]
    del picture
    loop = asyncio.get_running_loop()
    decoding = loop.run_in_executor(_decoders(), _decode_waiting, waiting, preparation)
    try:
        await asyncio.wait({decoding}, timeout=preparation.caller.seconds_left)
        if decoding.done():
            return decoding.result()
        raise preparation.caller.too_late()
    finally:
        decoding.cancel()
        waiting.clear()  # a thread that reaches it later finds nothing to keep
        del decoding  # an error keeps this frame, and through it the image


def _decode_waiting(waiting: list[Picture], preparation: Preparation) -> UInt8Array:
    """Decode the picture. If the request has ended, the list is empty: nobody sees the error."""
    return preparation.pixels(waiting.pop())


@cache
def _decoders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(DECODER_THREADS, "decode", _lower_priority)


def _lower_priority() -> None:
    """Run the thread after event loop and engine, because a photo costs as much as many requests.

    Linux treats a core that runs only SCHED_IDLE threads as free, so small requests do not queue
    behind a photo.
    """
    if sys.platform == "linux":  # elsewhere the whole process would get the priority
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:  # some sandboxes do not allow it
            os.nice(DECODER_NICENESS)


def _yield_core() -> None:
    """Give this thread's core to a waiting thread.

    Decoding makes no system call, so Linux would switch at the next tick, up to 4 ms later.
    """
    if sys.platform == "linux":
        os.sched_yield()
