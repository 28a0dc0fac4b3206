"""Decoding of images: tiny ones in the event loop, others in background processes."""

import asyncio
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from queue import PriorityQueue
from time import monotonic
from typing import Any, NamedTuple, TypeAlias, TypeVar

import numpy as np

from loupe.errors import (
    CallerGone,
    ContentTooLarge,
    DeadlineExceeded,
    InvalidRequest,
    LoupeError,
    ProgramFailed,
    ShuttingDown,
    TooManyRequests,
)
from loupe.images.decode import open_quick
from loupe.images.formats import File
from loupe.images.header import check_header, estimated_cost
from loupe.images.looks.ink import Box, Symbols
from loupe.images.normalize import WHOLE
from loupe.images.pool import LARGE_BYTES, DecoderPool, Loss
from loupe.images.spec import ImageSpec, Normalize, UInt8Array
from loupe.images.steps import Step
from loupe.settings import Settings
from service.http.shares import Shares, long_steps, part, turn
from service.prediction.caller import Caller

DECODERS = 2  # of pictures that are not large; one more decodes large ones
YIELD_SECONDS = 0.005  # of decoding, before other requests get the event loop
MAX_IMAGE_BYTES = 64 * 2**20  # of the images of one request, decoded; 4,096 of 64 × 64 × 3 fit
MAX_LARGEST_REQUESTS = 4  # of that size, whose images are decoded at a time
LARGEST_REQUESTS_SHARE = 2  # of these, of one caller

Value = TypeVar("Value")

# A file with one picture, or pixels that need no preparation.
EncodedImage: TypeAlias = "File | UInt8Array"


class _Waiting(NamedTuple):
    """A picture in a queue; the one with the lowest rank is next."""

    rank: int
    number: int
    read: Callable[[], object]
    result: "Future[Any]"


class _Queue(PriorityQueue[_Waiting]):
    """Pictures that wait for a decoder.

    Attributes:
        reached: The highest rank that has been decoded. Later pictures rank behind it, so that each
            has its turn.
    """

    reached = 0


class Decoders:
    """Background processes that decode, and the queues in front of them.

    One decoder is for large pictures only. The others take cheap pictures first, and those of
    callers that have few here. So neither costly pictures nor a caller with many delay the rest.

    Args:
        settings: Limits.
        on_loss: See `DecoderPool`.
    """

    def __init__(
        self, settings: Settings, on_loss: Callable[[Loss], object] = lambda _: None
    ) -> None:
        self._max_pixels = settings.max_image_pixels
        self._decoders = part(DECODERS, settings.processes)
        self._pool = DecoderPool(
            self._decoders + 1, settings.decode_seconds, in_background=True, on_loss=on_loss
        )
        self._queue, self._large = _Queue(), _Queue()
        self._numbers = count()
        self._of_callers: Counter[str] = Counter()  # pictures that wait or are decoded
        self._threads: list[threading.Thread] = []
        self._memory = Shares(
            part(MAX_LARGEST_REQUESTS, settings.processes) * MAX_IMAGE_BYTES,
            part(LARGEST_REQUESTS_SHARE, settings.processes) * MAX_IMAGE_BYTES,
        )

    @contextmanager
    def holding(self, caller: str, size: int) -> Iterator[None]:
        """Count the bytes of the images that a request decodes during the block.

        Raises:
            TooManyRequests: If those of all requests, or of this caller, would take too much.
        """
        if not self._memory.take(caller, size):
            raise TooManyRequests(
                f"The images of all requests together exceed {self._memory.total:,} bytes decoded, "
                f"or yours {self._memory.share:,}. Try again in a second.",
                code="too_many_bytes",
            )
        try:
            yield
        finally:
            self._memory.give_back(caller, size)

    async def decode(self, data: File, preparation: "Preparation") -> UInt8Array:
        """Decode a picture; see `DecoderPool.decode`.

        Raises:
            CallerGone: If the client disconnected.
            DeadlineExceeded: If the request ran out of time.
        """

        def decode(file: File) -> UInt8Array:
            return self._pool.decode(
                file,
                preparation.spec,
                self._max_pixels,
                preparation.caller.check,
                normalize=preparation.normalize,
                steps=preparation.steps,
            )

        return await self._in_turn(data, decode, preparation.caller)

    async def symbols(self, data: File, preparation: "Preparation") -> Symbols:
        """Decode a picture and return its symbols; raise as `decode` does."""
        spec, caller = preparation.spec, preparation.caller

        def decode(file: File) -> Symbols:
            return self._pool.symbols(file, spec, self._max_pixels, caller.check)

        return await self._in_turn(data, decode, caller)

    async def _in_turn(self, data: File, read: Callable[[File], Value], caller: Caller) -> Value:
        """Read a picture in a background process, when the cheaper ones before it are read."""
        if not self._threads:
            self._threads = [
                threading.Thread(target=_work, args=(queue,), name="decode", daemon=True)
                for queue in (*[self._queue] * self._decoders, self._large)
            ]
            for thread in self._threads:
                thread.start()
        waiting = [data]
        result: Future[Value] = Future()
        cost = estimated_cost(data, self._max_pixels)
        queue = self._large if cost > LARGE_BYTES else self._queue
        self._of_callers[caller.name] += 1
        rank = queue.reached + cost * self._of_callers[caller.name]
        queue.put(_Waiting(rank, next(self._numbers), lambda: read(waiting.pop()), result))
        del data
        decoding = asyncio.wrap_future(result)
        try:
            await asyncio.wait({decoding}, timeout=caller.seconds_left)
            if decoding.done():
                return decoding.result()
            raise caller.too_late()
        finally:
            decoding.cancel()
            self._of_callers -= Counter((caller.name,))  # drops those without any
            waiting.clear()  # the queue keeps nothing of abandoned requests
            del decoding, result  # an error keeps this frame, and through it the image

    def close(self) -> None:
        """Kill the processes."""
        self._pool.close()


def _work(queue: _Queue) -> None:
    while True:
        waiting = queue.get()
        queue.reached = max(queue.reached, waiting.rank)
        _run(waiting)
        del waiting


def _run(waiting: _Waiting) -> None:
    """Decode a picture, unless its request has ended."""
    if waiting.result.set_running_or_notify_cancel():
        try:
            waiting.result.set_result(waiting.read())
        except BaseException as error:  # noqa: BLE001 - the request reports it
            waiting.result.set_exception(error)
            del waiting  # the error keeps this frame, and would keep itself and the image alive


@dataclass(frozen=True)
class Preparation:
    """Settings for preparing pictures for a model.

    Attributes:
        spec: Images of the model.
        normalize: `auto` makes pictures look like them, `off` takes pictures unchanged.
        caller: Client that waits for the images.
        decoders: Decode pictures that are not tiny.
        steps: Gets the steps of the normalizing, of one picture.
        split: Whether to make an image of each symbol in a picture.
    """

    spec: ImageSpec
    normalize: Normalize
    caller: Caller
    decoders: Decoders
    steps: list[Step] | None = None
    split: bool = False


@dataclass(frozen=True)
class DecodedImages:
    """The images of one request.

    Attributes:
        images: uint8 `(n, *spec.shape)`: those that could be read, in the order of the request.
        errors: Errors of the others, by index in the request.
        boxes: Boxes of the symbols that the images show, by index in the request; `None` if each
            picture is one image.
    """

    images: UInt8Array
    errors: dict[int, LoupeError]
    boxes: dict[int, list[Box]] | None = None

    def __len__(self) -> int:
        read = self.images if self.boxes is None else self.boxes
        return len(read) + len(self.errors)


def max_images(settings: Settings, spec: ImageSpec) -> int:
    """Return how many images one request may have."""
    return min(settings.max_images, MAX_IMAGE_BYTES // spec.nbytes)


def check_count(count: int, settings: Settings, spec: ImageSpec) -> None:
    """Refuse a request without images, or with more than one request may hold."""
    if count == 0:
        raise InvalidRequest("The request has no images.")
    most = max_images(settings, spec)
    if count > most:
        raise ContentTooLarge(
            f"The request has {count:,} images; at most {most:,} of {spec} pixels are allowed "
            "(LOUPE_MAX_IMAGES_PER_REQUEST, LOUPE_MAX_QUEUED_IMAGES, and "
            f"{MAX_IMAGE_BYTES // 2**20} MiB). Send several requests, or score the set as a job.",
            code="too_many_images",
        )


async def decode_all(
    values: Sequence[Value],
    read: Callable[[Value], EncodedImage],
    settings: Settings,
    preparation: Preparation,
) -> DecodedImages:
    """Decode many images; an image that fails does not fail the others.

    Args:
        values: Values of the request, one for each image. They take much more memory than the
            images: the caller keeps no reference to them.
        read: Returns the encoded image in a value, or raises a `LoupeError`.
        settings: Limits.
        preparation: Settings for preparing the pictures.

    Raises:
        CallerGone: If the client disconnected; the rest is not decoded.
        ContentTooLarge: If there are too many images.
        DeadlineExceeded: If the request ran out of time; the rest is not decoded.
        InvalidRequest: If there are no images.
        TooManyRequests: If the images of all requests would take too much memory.
    """
    spec, caller = preparation.spec, preparation.caller
    check_count(len(values), settings, spec)
    most = max_images(settings, spec) if preparation.split else len(values)
    with preparation.decoders.holding(caller.name, most * spec.nbytes):
        decoding = _decode_all(values, read, settings, preparation)
        del values  # before a picture waits for a decoder
        return await decoding


async def _decode_all(
    values: Sequence[Value],
    read: Callable[[Value], EncodedImage],
    settings: Settings,
    preparation: Preparation,
) -> DecodedImages:
    images: list[UInt8Array] = []
    boxes: dict[int, list[Box]] = {}
    errors: dict[int, LoupeError] = {}
    encoded = await _read_all(values, read, errors)
    del values  # before a picture waits for a decoder
    started = monotonic()
    for index, image in encoded.items():
        try:
            if preparation.split:
                symbols = await decode_symbols(image, settings, preparation)
                images += [shown for shown, _ in symbols]
                boxes[index] = [box for _, box in symbols]
                check_count(max(1, len(images)), settings, preparation.spec)
            else:
                images.append(await decode(image, settings, preparation))
        except (CallerGone, ContentTooLarge, DeadlineExceeded, ProgramFailed, ShuttingDown):
            raise
        except LoupeError as error:
            errors[index] = _bare(error)
        if monotonic() - started > YIELD_SECONDS:
            await turn()
            started = monotonic()
    stacked = preparation.spec.stack(images)
    return DecodedImages(stacked, errors, boxes if preparation.split else None)


async def _read_all(
    values: Sequence[Value], read: Callable[[Value], EncodedImage], errors: dict[int, LoupeError]
) -> dict[int, EncodedImage]:
    """Return the encoded images by index, and put the errors of the others into `errors`.

    From the first pause on, this holds the lock of long steps, so that requests free their values
    one after the other.
    """
    encoded: dict[int, EncodedImage] = {}
    started = monotonic()
    lock, is_held = long_steps(), False
    try:
        for index, value in enumerate(values):
            try:
                encoded[index] = read(value)
            except LoupeError as error:
                errors[index] = _bare(error)
            if monotonic() - started > YIELD_SECONDS:
                is_held = is_held or await lock.acquire()
                await asyncio.sleep(0)
                started = monotonic()
    finally:
        if is_held:
            lock.release()
    return encoded


def _bare(error: LoupeError) -> LoupeError:
    """Return an error without its frames and those of its causes, which would keep the request."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)


async def decode(image: EncodedImage, settings: Settings, preparation: Preparation) -> UInt8Array:
    """Decode one image to uint8 of the model's shape, unless the request ends first."""
    if isinstance(image, np.ndarray):
        return image
    preparation.caller.check()
    picture = open_quick(image, max_pixels=settings.max_image_pixels)
    if picture is not None:
        return picture.pixels(preparation.spec, preparation.normalize, preparation.steps)
    check_header(image, settings.max_image_pixels)
    return await preparation.decoders.decode(image, preparation)


async def decode_symbols(
    image: EncodedImage, settings: Settings, preparation: Preparation
) -> Symbols:
    """Decode one picture to the images and boxes of its symbols, unless the request ends first.

    Pixels that need no preparation are one symbol, or none.
    """
    if isinstance(image, np.ndarray):
        return [(image, WHOLE)] if image.any() else []
    preparation.caller.check()
    picture = open_quick(image, max_pixels=settings.max_image_pixels)
    if picture is not None:
        return picture.symbols(preparation.spec)
    check_header(image, settings.max_image_pixels)
    return await preparation.decoders.symbols(image, preparation)
