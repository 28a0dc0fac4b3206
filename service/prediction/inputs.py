"""From the body of a request to images. Every refusal is a `LoupeError` with its own status."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from starlette.datastructures import FormData, Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from loupe.errors import InvalidImage, LoupeError
from loupe.images.decode import Picture, open_picture
from loupe.images.spec import SIDE, Look, UInt8Array
from loupe.old_errors.service import (
    CallerGone,
    DeadlineExceeded,
    InvalidRequest,
    TooManyImages,
    UnsupportedMediaType,
)
from loupe.settings import Settings
from service.http.options import Normalize
from service.prediction.caller import Caller
from service.prediction.items import (
    MANY_IMAGES,
    NPY_MAGIC,
    ONE_IMAGE,
    Item,
    json_image,
    json_images,
    parse_json,
    parse_npy,
)

DECODER_NICENESS = 10
INLINE_PIXELS = 64 * 64  # a picture this small is decoded faster than a thread is woken


def _step_back() -> None:
    """Let the event loop and the engine go first: a photo is the work of many small requests.

    To Linux a core that runs nothing but such threads is free for others: that keeps small requests out of the queue behind a photo.
    """
    if sys.platform == "linux":  # elsewhere the whole process would step back
        try:
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
        except OSError:  # some sandboxes know no such thing
            os.nice(DECODER_NICENESS)


def _let_others_go() -> None:
    """Between two parts of a photo: who waits for this thread's core gets it now.

    Linux may leave a waiting thread there until the next tick, which is four milliseconds away, and decoding makes no system call.
    """
    if sys.platform == "linux":
        os.sched_yield()


def _nobody() -> bool:
    return False


# Two threads bound the memory of large pictures.
_decoders = ThreadPoolExecutor(max_workers=2, thread_name_prefix="decode", initializer=_step_back)


@dataclass(frozen=True)
class Preparation:
    """What is done to pictures before a model sees them.

    Attributes:
        look: How the model's training images look.
        normalize: `auto`: they are made to look so; `off`: they are taken as they are.
        caller: Who waits for them.
        others_wait: Tells whether somebody's images wait for an answer; the decoder that begins with a photo then lets them go first.
    """

    look: Look
    normalize: Normalize
    caller: Caller
    others_wait: Callable[[], bool] = _nobody

    def pixels(self, picture: Picture) -> UInt8Array:
        """uint8, shape `(28, 28)`, as the model takes it.

        Raises:
            LoupeError: See `Caller.check`, `Picture.pixels` and `Picture.unchanged`.
        """
        self.caller.check()
        return picture.pixels(self.look) if self.normalize == "auto" else picture.unchanged()


@dataclass(frozen=True)
class Batch:
    """The images of one request.

    Attributes:
        images: uint8, shape `(n, 28, 28)`: those that could be read, in the order they came.
        errors: What was wrong with the others, by their place in the request.
    """

    images: UInt8Array
    errors: dict[int, LoupeError]

    def __len__(self) -> int:
        return len(self.images) + len(self.errors)


async def read_image(
    body: bytes, headers: Headers, settings: Settings, preparation: Preparation
) -> UInt8Array:
    """The one image of a request: uint8, shape `(28, 28)`.

    Raises:
        LoupeError: If the request holds anything else.
    """
    sent_as = media_type(headers)
    if sent_as.startswith("image/") or sent_as == "application/octet-stream":
        item: Item = body
    elif sent_as == "application/json":
        item = json_image(parse_json(body), ONE_IMAGE)
    elif sent_as == "multipart/form-data":
        uploads = await _read_uploads(headers, body, "image", ONE_IMAGE, settings)
        if len(uploads) > 1:
            raise InvalidRequest(
                "one field 'image'; send many to /predict_batch", f"{len(uploads)} of them"
            )
        item = uploads[0]
    else:
        raise UnsupportedMediaType(ONE_IMAGE, f"Content-Type {sent_as!r}")
    return await _to_pixels(item, settings, preparation)


async def read_batch(
    body: bytes, headers: Headers, settings: Settings, preparation: Preparation
) -> Batch:
    """The images of a batch request; what is wrong with one of them stays with it.

    Raises:
        LoupeError: If the request as a whole is wrong.
    """
    sent_as = media_type(headers)
    items: Sequence[Item]
    if body.startswith(NPY_MAGIC):
        images = parse_npy(body)
        check_count(len(images), settings)
        return Batch(images, {})
    if sent_as == "application/json":
        items = json_images(parse_json(body))
    elif sent_as == "multipart/form-data":
        items = await _read_uploads(headers, body, "images", MANY_IMAGES, settings)
    else:
        raise UnsupportedMediaType(
            MANY_IMAGES, f"Content-Type {sent_as!r} with a body that is no .npy file"
        )
    check_count(len(items), settings)
    return await decode_all(items, settings, preparation)


async def decode_all(items: Iterable[Item], settings: Settings, preparation: Preparation) -> Batch:
    """The images of a request's items; what is wrong with one of them stays with it.

    Raises:
        CallerGone: If nobody waits for them any more; no more of them are decoded then.
        DeadlineExceeded: If the caller's time is over, likewise.
    """
    images: list[UInt8Array] = []
    errors: dict[int, LoupeError] = {}
    for place, item in enumerate(items):
        try:
            images.append(await _to_pixels(item, settings, preparation))
        except (CallerGone, DeadlineExceeded):
            raise
        except LoupeError as error:
            errors[place] = error.with_traceback(None)  # as in `Predictor.outcome`
        if place % 16 == 15:
            await asyncio.sleep(0)  # others' requests come in between
    return Batch(np.stack(images) if images else np.empty((0, SIDE, SIDE), np.uint8), errors)


async def _to_pixels(item: Item, settings: Settings, preparation: Preparation) -> UInt8Array:
    if isinstance(item, LoupeError):
        raise item
    if isinstance(item, np.ndarray):
        return item
    picture = open_picture(item, max_pixels=settings.max_image_pixels)
    if picture.pixel_count <= INLINE_PIXELS:
        return preparation.pixels(picture)
    if preparation.others_wait():
        picture.pause_with(_let_others_go)
    waiting = [picture]
    del picture
    decoding = asyncio.get_running_loop().run_in_executor(_decoders, _decode, waiting, preparation)
    try:
        await asyncio.wait({decoding}, timeout=preparation.caller.seconds_left)
        if decoding.done():
            return decoding.result()
        raise DeadlineExceeded(preparation.caller.timeout_seconds)
    finally:
        decoding.cancel()  # what no thread has begun with never is,
        waiting.clear()  # and is not kept until one comes to it
        del decoding  # an error has this frame, and would wait with it for the garbage collector


def _decode(waiting: list[Picture], preparation: Preparation) -> UInt8Array:
    """The picture that waits; nobody sees the error if it has been taken away."""
    return preparation.pixels(waiting.pop())


def media_type(headers: Headers) -> str:
    """What a body is said to be, in small letters and without parameters."""
    return headers.get("content-type", "application/octet-stream").partition(";")[0].strip().lower()


def check_count(count: int, settings: Settings) -> None:
    """Refuse a request without images, or with more than one request may hold.

    Raises:
        InvalidRequest: If there are none.
        TooManyImages: If there are too many.
    """
    if count == 0:
        raise InvalidRequest("at least one image", "an empty batch")
    if count > settings.most_images:
        raise TooManyImages(settings.most_images, count)


async def _read_uploads(
    headers: Headers, body: bytes, field: str, expected: str, settings: Settings
) -> list[Item]:
    """The files of one multipart field. A text in its place is an error of its own item: it is never taken for a URL."""
    limit = settings.most_images

    async def stream() -> AsyncIterator[bytes]:
        yield body

    parser = MultiPartParser(headers, stream(), max_files=limit + 1, max_fields=limit + 1)  # type: ignore[arg-type]
    try:
        form: FormData = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            raise TooManyImages(limit, limit + 1) from error
        raise InvalidRequest(expected, f"a damaged form ({error.message})") from error
    except KeyError as error:
        raise InvalidRequest(expected, "multipart/form-data without a boundary") from error
    except (
        UnicodeError
    ) as error:  # of an alphabet like punycode; other names of none are passed over
        raise InvalidRequest(
            expected, f"a form in an alphabet that does not fit ({error})"
        ) from error
    try:
        items: list[Item] = [
            await value.read()
            if isinstance(value, UploadFile)
            else InvalidImage(
                f"Field '{field}' holds the text {value[:40]!r} instead of a file. "
                f"Loupe fetches nothing: send the bytes (with curl: -F {field}=@FILE)."
            )
            for value in form.getlist(field)
        ]
    finally:
        await form.close()
    if not items:
        raise InvalidRequest(expected, f"a form with the fields {sorted(form.keys())}")
    return items
