"""Uploads of what is to be scored: from the body of a request into a file, whole or not at all, and never in memory."""

import asyncio
import os
import shutil
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.requests import ClientDisconnect, Request

from loupe.old_errors.service import (
    BodyTooLarge,
    BodyTooSlow,
    CallerGone,
    InvalidRequest,
    UploadNotSaved,
)
from loupe.settings import Settings

SILENT_SECONDS = 25.0  # that a caller may let pass between two pieces
ABANDONED_SECONDS = (
    600.0  # of a file that nothing was added to; only a service that was killed leaves one behind
)
PIECE_BYTES = 2**20  # written at a time
PART, WHOLE = "upload.part", "upload"
# A local file header: its signature; 26 bytes on, the length of the name; 30 bytes on, the name.
# Source: https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT, 4.3.7
ZIP_MAGIC, NAME_LENGTH, NAME = b"PK\x03\x04", slice(26, 28), 30
LONGEST_NAME = 512  # bytes; NumPy's are names of variables


def new_folder(settings: Settings) -> Path:
    """Where a job submitted over HTTP has its files. It is not made yet."""
    return _jobs_folder(settings) / uuid.uuid4().hex


def check_length(request: Request, limit_bytes: int) -> None:
    """Refuse an upload that says by itself that it is too long.

    Raises:
        BodyTooLarge: If it is.
    """
    declared = request.headers.get("content-length", "0")
    if not declared.isdecimal() or int(declared) > limit_bytes:
        raise BodyTooLarge(limit_bytes, "LOUPE_MAX_UPLOAD_BYTES")


async def save_upload(request: Request, folder: Path, settings: Settings) -> Path:
    """Write a body into a file, in a new folder.

    What is in it, its first bytes say, as everywhere; its name says only whether it is an `.npz`. So it is never taken for a manifest,
    which could name files of the service's machine.

    Raises:
        BodyTooLarge: If it is longer than an upload may be.
        BodyTooSlow: If nothing comes for a while.
        CallerGone: If the caller goes before its end.
        InvalidRequest: If it is empty.
        UploadNotSaved: If the disk does not take it.
    """
    await asyncio.to_thread(_begin, folder)
    size = 0
    try:
        with (folder / PART).open("wb", buffering=0) as file:
            async for piece in _pieces(request):
                size += len(piece)
                if size > settings.max_upload_bytes:
                    raise BodyTooLarge(settings.max_upload_bytes, "LOUPE_MAX_UPLOAD_BYTES")
                await asyncio.to_thread(file.write, piece)
            await asyncio.to_thread(os.fsync, file.fileno())
    except asyncio.TimeoutError:
        raise BodyTooSlow(SILENT_SECONDS, size, "more of the body") from None
    except ClientDisconnect:
        raise CallerGone from None
    except OSError as error:
        raise UploadNotSaved(size, error.strerror or str(error)) from error
    if not size:
        raise InvalidRequest(
            "an archive, a table or an array of images in the body", "an empty body"
        )
    return _finished(folder / PART)


async def _pieces(request: Request) -> AsyncIterator[bytes]:
    """The body, in pieces that are worth a thread."""
    stream = request.stream()
    held, size = [], 0
    while (chunk := await asyncio.wait_for(anext(stream, None), SILENT_SECONDS)) is not None:
        held.append(chunk)
        size += len(chunk)
        if size >= PIECE_BYTES:
            yield b"".join(held)
            held, size = [], 0
    if held:
        yield b"".join(held)


def _jobs_folder(settings: Settings) -> Path:
    return settings.home / "jobs"


def _begin(folder: Path) -> None:
    """Make the folder, and remove what earlier uploads have left that can never be finished."""
    folder.mkdir(parents=True, mode=0o700)
    for part in folder.parent.glob(f"*/{PART}"):
        try:
            is_abandoned = time.time() - part.stat().st_mtime > ABANDONED_SECONDS
        except FileNotFoundError:  # finished meanwhile
            continue
        if is_abandoned:
            shutil.rmtree(part.parent, ignore_errors=True)


def _finished(part: Path) -> Path:
    return part.rename(part.with_name(WHOLE + (".npz" if _is_npz(part) else "")))


def _is_npz(path: Path) -> bool:
    """Whether it is a zip archive that begins with an array of NumPy's."""
    with path.open("rb") as file:
        head = file.read(NAME + LONGEST_NAME)
    length = int.from_bytes(head[NAME_LENGTH], "little")
    return head.startswith(ZIP_MAGIC) and head[NAME : NAME + length].endswith(b".npy")
