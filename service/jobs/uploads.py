"""Uploads: bodies that are written to a file as they arrive, whole or not at all."""

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from loupe.errors import (
    BodyTooSlow,
    ContentTooLarge,
    InsufficientStorage,
    InvalidRequest,
)
from loupe.settings import Settings
from service.http.context import context_of
from service.prediction.caller import caller_gone

MAX_PAUSE_SECONDS = 25.0  # between two chunks of a body
ABANDONED_SECONDS = 600.0  # without a write; only a service that was killed leaves such a file
CHUNK_BYTES = 2**20  # written at a time, in a thread
PART, WHOLE = "upload.part", "upload"
# A local file header: its signature, the length of the name at byte 26, the name at byte 30.
# Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7
ZIP_MAGIC, NAME_LENGTH, NAME = b"PK\x03\x04", slice(26, 28), 30
MAX_NAME_BYTES = 512  # NumPy's names are those of variables


def new_folder(settings: Settings) -> Path:
    """Return a folder for a job's files; it does not exist yet."""
    return settings.home / "jobs" / uuid.uuid4().hex


def check_length(request: Request, limit_bytes: int) -> None:
    """Refuse an upload whose `Content-Length` is too large."""
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit_bytes:
        raise _too_large(limit_bytes)


async def save_upload(request: Request, folder: Path, settings: Settings) -> Path:
    """Write a body to a file in a new folder.

    Workers detect the type from the first bytes. The name says only whether it is an `.npz`, so an
    upload is never taken for a manifest, which could name files of the service's machine.

    Raises:
        ContentTooLarge: If it is longer than `LOUPE_MAX_UPLOAD_BYTES`.
        BodyTooSlow: If nothing arrives for a while.
        CallerGone: If the client disconnects.
        InvalidRequest: If it is empty.
        InsufficientStorage: If the disk cannot take it.
    """
    await asyncio.to_thread(_make_folder, folder)
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
    except asyncio.TimeoutError:
        raise BodyTooSlow(
            f"The upload paused for more than {MAX_PAUSE_SECONDS:g} s after {size:,} bytes."
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
    return part.rename(part.with_name(WHOLE + (".npz" if _is_npz(part) else "")))


def _too_large(limit_bytes: int) -> ContentTooLarge:
    return ContentTooLarge(
        f"The upload is too large: at most {limit_bytes:,} bytes (LOUPE_MAX_UPLOAD_BYTES)."
    )


async def _chunks(request: Request) -> AsyncIterator[bytes]:
    """Yield the body in chunks that are worth a thread."""
    stream = request.stream()
    held, size = [], 0
    while (chunk := await asyncio.wait_for(anext(stream, None), MAX_PAUSE_SECONDS)) is not None:
        held.append(chunk)
        size += len(chunk)
        if size >= CHUNK_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _make_folder(folder: Path) -> None:
    """Make the folder, and delete uploads that a killed service left unfinished."""
    folder.mkdir(parents=True, mode=0o700)
    for part in folder.parent.glob(f"*/{PART}"):
        try:
            is_abandoned = time.time() - part.stat().st_mtime > ABANDONED_SECONDS
        except FileNotFoundError:  # finished since the listing
            continue
        if is_abandoned:
            shutil.rmtree(part.parent, ignore_errors=True)


def _is_npz(path: Path) -> bool:
    """Return whether a file is a zip archive that begins with a NumPy array."""
    with path.open("rb") as file:
        head = file.read(NAME + MAX_NAME_BYTES)
    length = int.from_bytes(head[NAME_LENGTH], "little")
    return head.startswith(ZIP_MAGIC) and head[NAME : NAME + length].endswith(b".npy")
