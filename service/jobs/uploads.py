"""Uploads: bodies that are written to a file as they arrive, whole or not at all."""

import asyncio
import os
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from starlette.requests import ClientDisconnect, Request

from loupe.errors import (
    BodyTooSlow,
    ContentTooLarge,
    InsufficientStorage,
    InvalidRequest,
    LoupeError,
)
from loupe.settings import Settings
from service.http.context import context_of
from service.prediction.caller import caller_gone

if TYPE_CHECKING:
    from worker.queue.jobs import Jobs

WINDOW_SECONDS = 25.0  # in which at least this number of bytes of a body arrives:
MIN_WINDOW_BYTES = 256 * 1024
ABANDONED_SECONDS = 600.0  # without a write; only a service that was killed leaves such a file
CHUNK_BYTES = 2**20  # written at a time, in a thread
PART, WHOLE = "upload.part", "upload"
UNSUBMITTED = "job.part"  # marks a complete upload until its job has an id
# A local file header: its signature, the length of the name at byte 26, the name at byte 30.
# Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7
ZIP_MAGIC, NAME_LENGTH, NAME = b"PK\x03\x04", slice(26, 28), 30
MAX_NAME_BYTES = 512  # NumPy's names are those of variables


def prepare(folder: Path, jobs: "Jobs") -> None:
    """Make a folder for a job, and delete uploads that a killed service left behind.

    Only its owner can read what is in it, results included.

    Raises:
        InsufficientStorage: If the folder cannot be made.
        RedisError: If the queue does not answer.
    """
    jobs.workers()
    try:
        folder.mkdir(parents=True, mode=0o700)
    except OSError as error:
        raise InsufficientStorage(
            f"The service cannot make a folder for the job: {error.strerror or error}."
        ) from error
    for mark in folder.parent.glob("*/*.part"):
        try:
            is_abandoned = time.time() - mark.stat().st_mtime > ABANDONED_SECONDS
        except FileNotFoundError:  # finished since the listing
            continue
        if is_abandoned and jobs.find(mark.stem) is None:
            shutil.rmtree(mark.parent, ignore_errors=True)
        elif is_abandoned:  # the service died after it submitted the job
            mark.unlink(missing_ok=True)


@contextmanager
def submitting(folder: Path, job_id: str) -> Iterator[None]:
    """Mark the folder while its job is submitted, and remove it if the job is refused.

    After any other error, the job may be in the queue.

    Raises:
        InsufficientStorage: If the disk cannot take the mark.
    """
    from redis.exceptions import ResponseError

    mark = folder / f"{job_id}.part"
    try:
        mark.touch()
        (folder / UNSUBMITTED).unlink(missing_ok=True)
        yield
    except OSError as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise InsufficientStorage(
            f"The upload could not be kept: {error.strerror or error}."
        ) from error
    except (LoupeError, ResponseError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    mark.unlink()


def check_length(request: Request, limit_bytes: int) -> None:
    """Refuse an upload whose `Content-Length` is too large."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit_bytes:
        raise _too_large(limit_bytes)


async def save_upload(request: Request, folder: Path, settings: Settings) -> Path:
    """Write a body to a file in a folder.

    Workers detect the type from the first bytes. The name says only whether it is an `.npz`, so an
    upload is never taken for a manifest, which could name files of the service's machine.

    Raises:
        ContentTooLarge: If it is longer than `LOUPE_MAX_UPLOAD_BYTES`.
        BodyTooSlow: If it arrives too slowly.
        CallerGone: If the client disconnects.
        InvalidRequest: If it is empty.
        InsufficientStorage: If the disk cannot take it.
    """
    context_of(request.scope).pause()  # uploads have another limit
    size = 0
    try:
        with (folder / PART).open("wb", buffering=0) as file:
            async for chunk in _chunks(request):
                size += len(chunk)
                if size > settings.max_upload_bytes:
                    raise _too_large(settings.max_upload_bytes)
                await asyncio.to_thread(file.write, chunk)
            await asyncio.to_thread(os.fsync, file.fileno())
    except TimeoutError:
        raise BodyTooSlow(
            f"The upload sent less than {MIN_WINDOW_BYTES:,} bytes in {WINDOW_SECONDS:g} s, "
            f"after {size:,} bytes."
        ) from None
    except ClientDisconnect:
        raise caller_gone() from None
    except OSError as error:
        raise InsufficientStorage(
            f"The upload could not be saved after {size:,} bytes: {error.strerror or error}."
        ) from error
    if not size:
        raise InvalidRequest("The body is empty. Send an archive, a table or an array of images.")
    part = folder / PART
    (folder / UNSUBMITTED).touch()
    return part.rename(part.with_name(WHOLE + (".npz" if _is_npz(part) else "")))


def _too_large(limit_bytes: int) -> ContentTooLarge:
    return ContentTooLarge(
        f"The upload is too large: at most {limit_bytes:,} bytes (LOUPE_MAX_UPLOAD_BYTES)."
    )


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body in chunks that are worth a thread, if it is not too slow."""
    stream = request.stream()
    held: list[bytes] = []
    size = window_start = 0
    window_end = time.monotonic() + WINDOW_SECONDS
    while True:
        chunk = await asyncio.wait_for(anext(stream, None), window_end - time.monotonic())
        if chunk is None:
            break
        held.append(chunk)
        size += len(chunk)
        if size - window_start >= MIN_WINDOW_BYTES:
            window_start, window_end = size, time.monotonic() + WINDOW_SECONDS
        if size >= CHUNK_BYTES:
            yield b"".join(held)
            held, size, window_start = [], 0, 0
            window_end = time.monotonic() + WINDOW_SECONDS  # writing may have taken long
    if held:
        yield b"".join(held)


def _is_npz(path: Path) -> bool:
    """Return whether a file is a zip archive that begins with a NumPy array."""
    with path.open("rb") as file:
        head = file.read(NAME + MAX_NAME_BYTES)
    length = int.from_bytes(head[NAME_LENGTH], "little")
    return head.startswith(ZIP_MAGIC) and head[NAME : NAME + length].endswith(b".npy")
