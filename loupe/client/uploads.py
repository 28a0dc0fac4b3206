"""Convert a caller's pictures (paths, bytes, arrays, Pillow images) to request bodies."""

import io
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, ImageOps

from loupe.errors import InvalidImage, InvalidPixels, InvalidSource, LoupeError
from loupe.images import folder as folders
from loupe.images.decode import MAX_FILE_BYTES, read_file
from loupe.images.formats import collection_of
from loupe.images.header import kind_of
from loupe.images.looks.strokes import is_centred
from loupe.images.normalize import has_light_ground
from loupe.images.pixels.opening import DECODING_ERRORS
from loupe.images.selection import Skipped, describe
from loupe.images.spec import MAX_SIDE, MIN_SIDE, Normalize, UInt8Array
from loupe.jobs import score_command

logger = logging.getLogger(__name__)

PictureInput: TypeAlias = str | os.PathLike[str] | bytes | NDArray[np.generic] | Image.Image
"""A path, the bytes of a file, uint8 `(height, width[, 3 or 4])`, or a Pillow image."""

PictureSet: TypeAlias = Iterable[PictureInput] | str | os.PathLike[str]
"""Pictures, or the path of a folder of them."""

Upload: TypeAlias = bytes | UInt8Array
"""The bytes of a picture file, or uint8 pixels that a model of their size takes unchanged."""

BATCH_IMAGES = 256  # per request: little overhead for each, and answers still come early
BATCH_BYTES = 8 * 2**20  # per request; reached first by photos
OCTETS = "application/octet-stream"
PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
TIFF_MODES = frozenset({"I", "F", "CMYK", "LAB"})  # PNG cannot store these
ALPHA_MODES = {"La": "LA", "PA": "RGBA", "RGBa": "RGBA"}  # other ones, and what they become
PNG_COMPRESSION = 1  # a higher level takes longer than sending the extra bytes


@dataclass(frozen=True)
class UploadBatch:
    """The pictures of one request, in the caller's order; errors are those found before sending."""

    items: Sequence[Upload | LoupeError]

    @property
    def uploads(self) -> list[Upload]:
        """The pictures to send."""
        return [item for item in self.items if not isinstance(item, LoupeError)]

    @property
    def shape(self) -> tuple[int, ...] | None:
        """The shape of each picture if all are arrays of one shape."""
        shapes = {each.shape if isinstance(each, np.ndarray) else None for each in self.uploads}
        return shapes.pop() if len(shapes) == 1 else None

    def content(self, *, as_files: bool = False) -> dict[str, Any]:
        """Return httpx's arguments: an `.npy` body for arrays of one shape, else a form with files.

        Args:
            as_files: Whether to send a form in any case, because the model has another size.
        """
        if as_files or self.shape is None:
            files = enumerate(map(as_file, self.uploads))
            return {"files": [("images", (str(number), file, OCTETS)) for number, file in files]}
        body = io.BytesIO()
        np.save(body, np.stack(self.uploads), allow_pickle=False)
        return {"content": body.getvalue(), "headers": {"Content-Type": OCTETS}}


class Packer:
    """Collects pictures until a batch is full.

    Args:
        max_images: Pictures in one batch.
        max_bytes: A batch that has reached this size takes no more pictures.
    """

    def __init__(self, max_images: int = BATCH_IMAGES, max_bytes: int = BATCH_BYTES) -> None:
        self._max_images = max_images
        self._max_bytes = max_bytes
        self._items: list[Upload | LoupeError] = []
        self._bytes = 0

    def pack(self, items: Iterable[Upload | LoupeError]) -> Iterator[UploadBatch]:
        """Yield all items in batches."""
        for item in items:
            if batch := self.add(item):
                yield batch
        if batch := self.flush():
            yield batch

    def add(self, item: Upload | LoupeError) -> UploadBatch | None:
        """Add a picture; return the batch if it is full now."""
        self._items.append(item)
        if not isinstance(item, LoupeError):
            self._bytes += len(item) if isinstance(item, bytes) else item.nbytes
        full = len(self._items) >= self._max_images or self._bytes >= self._max_bytes
        return self.flush() if full else None

    def flush(self) -> UploadBatch | None:
        """Return the pictures of an incomplete batch, if there are any."""
        batch = UploadBatch(self._items) if self._items else None
        self._items, self._bytes = [], 0
        return batch


def each_picture(pictures: PictureSet) -> Iterable[PictureInput]:
    """Return the pictures, or the paths of those in a folder; see `pictures_at`."""
    return pictures_at(pictures) if isinstance(pictures, str | os.PathLike) else pictures


def pictures_at(path: str | os.PathLike[str], at_most: int | None = None) -> list[Path]:
    """Return the paths of the pictures below a folder, in the order of `loupe score`.

    A warning in the log counts the other files. The path of a file is returned as it is.

    Args:
        path: The folder.
        at_most: Maximum number of pictures.

    Raises:
        InvalidSource: If the folder has none, more (`too_many_images`), or cannot be read.
    """
    skipped, folder = Skipped(), Path(path)
    if not os.path.isdir(folder):  # noqa: PTH112 - pathlib raises some errors
        return [folder]
    try:
        found = list(islice(folders.pictures(folder, skipped), at_most and at_most + 1))
    except OSError as error:
        raise InvalidSource(f"'{folder}' cannot be read ({error.strerror}).") from error
    if at_most is not None and len(found) > at_most:
        raise InvalidSource(
            f"The folder '{folder}' has more than {at_most:,} pictures. Score them: "
            + score_command(os.fspath(folder)),
            code="too_many_images",
        )
    counted = describe(skipped.files)
    if not found:
        raise InvalidSource(
            f"The folder '{folder}' contains no pictures."
            + (f" Skipped: {counted}." if counted else "")
        )
    if counted:
        logger.warning("Skipped in %s: %s", folder, counted)
    return [folder / file.name for file in found]


def prepare(picture: PictureInput, normalize: Normalize) -> Upload:
    """Convert a picture for sending. A file, an array and an image get the same answer.

    Raises:
        InvalidImage: If the file cannot be read or the image cannot be decoded.
        InvalidPixels: If an array is not a picture, or the object is of another type.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, np.ndarray):
        return _from_array(picture, normalize)
    if isinstance(picture, Image.Image):
        return _from_image(picture)
    if isinstance(picture, str | os.PathLike):
        return _from_path(picture)
    kind = type(picture).__name__
    raise InvalidPixels(f"A picture is a path, bytes, a NumPy array or a PIL image, not {kind}.")


def prepare_or_error(picture: PictureInput, normalize: Normalize) -> Upload | LoupeError:
    """Convert a picture for sending, or return the error."""
    try:
        return prepare(picture, normalize)
    except LoupeError as error:
        return error


def as_file(upload: Upload) -> bytes:
    """Return the bytes of a picture file; an array becomes a PNG."""
    return upload if isinstance(upload, bytes) else _encode(Image.fromarray(upload))


def _from_array(array: NDArray[np.generic], normalize: Normalize) -> Upload:
    picture = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    colour = picture.ndim == 3 and picture.shape[2] in (3, 4)
    if picture.dtype != np.uint8 or not picture.size or not (picture.ndim == 2 or colour):
        raise InvalidPixels(
            "A picture is uint8 of shape (height, width) or (height, width, 3), "
            f"0 = black, 255 = white; got {array.dtype}, shape {array.shape}."
        )
    pixels = picture.astype(np.uint8)  # copies, so that the caller can refill its array
    return pixels if _may_stay(pixels, normalize) else _encode(Image.fromarray(pixels))


def _may_stay(pixels: UInt8Array, normalize: Normalize) -> bool:
    """Return whether a model of this size, if that is the one that is asked, takes the pixels."""
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in pixels.shape[:2]):
        return False
    if pixels.ndim == 3:
        return bool(pixels.shape[2] == 3)
    # A model of single symbols would centre other pixels.
    return normalize == "off" or (not has_light_ground(pixels) and is_centred(pixels))


def _from_image(image: Image.Image) -> bytes:
    try:
        file = _unread_file(image)
        if file is not None:
            return file
        return _encode(ImageOps.exif_transpose(image))
    except DECODING_ERRORS as error:
        raise InvalidImage(f"The image cannot be decoded ({error}).") from error


def _unread_file(image: Image.Image) -> bytes | None:
    """Return the file of an image that Pillow has opened and not decoded, so not changed either.

    Encoded again, it could get a slightly different answer: the service scales photos down while it
    decodes them.
    """
    if not isinstance(image, ImageFile.ImageFile) or image.fp is None:
        return None
    if getattr(image, "_im", image) is not None or getattr(image, "is_animated", False):
        return None
    position = image.fp.tell()
    image.fp.seek(0)
    file = image.fp.read(MAX_FILE_BYTES + 1)
    image.fp.seek(position)
    return file if kind_of(file) is not None and len(file) <= MAX_FILE_BYTES else None


def _from_path(path: str | os.PathLike[str]) -> bytes:
    try:
        data = read_file(os.fspath(path))
    except InvalidImage as error:  # a folder, or a file as large as an archive
        message = error.message.replace("loupe score", score_command(os.fspath(path)))
        many = message.replace("To score", "Pass it to `predict_many`, or score")
        raise InvalidImage(many if Path(path).is_dir() else message) from error
    except OSError as error:
        raise InvalidImage(f"'{os.fspath(path)}' cannot be read ({error.strerror}).") from error
    except ValueError as error:
        raise InvalidImage(f"{os.fspath(path)!r} is not a path ({error}).") from error
    if kind_of(data) is None and (kind := collection_of(data)):
        message = f"'{os.fspath(path)}' is {kind}, not a picture. Score what it holds: "
        raise InvalidImage(message + score_command(os.fspath(path)))
    return data


def _encode(image: Image.Image) -> bytes:
    """Encode as PNG, or as TIFF where PNG cannot store the mode."""
    file = io.BytesIO()
    if image.mode in TIFF_MODES:
        image.save(file, "TIFF")
    else:
        if image.mode.startswith("I;16"):  # in any order of bytes
            image = Image.fromarray(np.asarray(image).astype(np.uint16))
        elif image.mode not in PNG_MODES:
            image = image.convert(ALPHA_MODES.get(image.mode, "RGB"))
        image.save(file, "PNG", compress_level=PNG_COMPRESSION)
    return file.getvalue()
