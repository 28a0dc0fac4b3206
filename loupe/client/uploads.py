"""From what a caller has, a path, bytes, an array or a PIL image, to the body of a request. Nothing here talks to a service."""

import io
import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from loupe.errors import InvalidImage, InvalidPixels, LoupeError
from loupe.images.decode import DECODING_ERRORS, read_file
from loupe.images.normalize import has_light_ground
from loupe.images.spec import SIDE, UInt8Array

Normalize = Literal["auto", "off"]
"""`auto` makes a picture look like the training data, `off` takes it as it is."""

Source: TypeAlias = str | os.PathLike[str] | bytes | NDArray[np.generic] | Image.Image
"""A picture as a caller has it: the path or the bytes of a file; uint8 `(height, width)`, `(…, 3)` or `(…, 4)`; or of Pillow."""

Upload: TypeAlias = bytes | UInt8Array
"""A picture as it is sent: the bytes of a file, or uint8 `(28, 28)` that the service would not change."""

BATCH_IMAGES = (
    256  # of one request: enough that asking costs little, and few enough that answers come soon
)
BATCH_BYTES = 8 * 2**20  # of one request; photos reach it before there are many of them
OCTETS = "application/octet-stream"
PNG_MODES = frozenset({"1", "L", "LA", "P", "RGB", "RGBA", "I;16"})
TIFF_MODES = frozenset({"I", "F"})  # numbers that no PNG holds
QUICK = 1  # PNG compression level; a higher one takes longer than sending the rest


@dataclass(frozen=True)
class Body:
    """What is sent in a request, and as what."""

    content: bytes
    media_type: str


@dataclass(frozen=True)
class Batch:
    """Pictures that share a request.

    Attributes:
        items: In the caller's order: what is to be sent, or what is known to be wrong with it already.
    """

    items: Sequence[Upload | LoupeError]

    @property
    def uploads(self) -> list[Upload]:
        """What is to be sent."""
        return [item for item in self.items if not isinstance(item, LoupeError)]

    def halves(self) -> "tuple[Batch, Batch]":
        """The first half and the second; there must be at least two pictures."""
        middle = len(self.items) // 2
        return Batch(self.items[:middle]), Batch(self.items[middle:])

    def body(self) -> Body:
        """An `.npy` file where all are uint8 `(28, 28)`, and otherwise a form with a file for each."""
        arrays = [upload for upload in self.uploads if isinstance(upload, np.ndarray)]
        if len(arrays) == len(self.uploads):
            return Body(_npy(np.stack(arrays)), OCTETS)
        return form("images", [as_file(upload) for upload in self.uploads])


class Packer:
    """Collects pictures until they fill a request, so that no more than that is held.

    Args:
        most_images: Of one batch.
        most_bytes: Beyond which a batch takes no further picture.
    """

    def __init__(self, most_images: int = BATCH_IMAGES, most_bytes: int = BATCH_BYTES) -> None:
        self._most_images = most_images
        self._most_bytes = most_bytes
        self._items: list[Upload | LoupeError] = []
        self._bytes = 0

    def add(self, item: Upload | LoupeError) -> Batch | None:
        """The batch that this picture fills, if it does."""
        self._items.append(item)
        if not isinstance(item, LoupeError):
            self._bytes += len(item) if isinstance(item, bytes) else item.nbytes
        full = len(self._items) >= self._most_images or self._bytes >= self._most_bytes
        return self.rest() if full else None

    def rest(self) -> Batch | None:
        """The pictures that have filled no batch, if there are any."""
        batch = Batch(self._items) if self._items else None
        self._items, self._bytes = [], 0
        return batch


def prepare(picture: Source, normalize: Normalize) -> Upload:
    """What is sent for a picture. The same picture gets the same answer as a file, as an array and as an image of Pillow.

    Raises:
        InvalidImage: If the file cannot be read, or the image not be decoded.
        InvalidPixels: If an array is no picture, or it is none of the kinds there are.
    """
    if isinstance(picture, bytes):
        return picture
    if isinstance(picture, np.ndarray):
        return _from_array(picture, normalize)
    if isinstance(picture, Image.Image):
        return _from_image(picture)
    if isinstance(picture, (str, os.PathLike)):
        return _from_path(picture)
    raise InvalidPixels(
        f"A picture must be a path, bytes, a NumPy array or a PIL image, not {type(picture).__name__}."
    )


def prepare_or_tell(picture: Source, normalize: Normalize) -> Upload | LoupeError:
    """The same with its errors as values, for pictures that share a request with others."""
    try:
        return prepare(picture, normalize)
    except LoupeError as error:
        return error


def as_file(upload: Upload) -> bytes:
    """The bytes of a picture file; an array becomes a PNG."""
    return upload if isinstance(upload, bytes) else _encoded(Image.fromarray(upload))


def form(field: str, files: Sequence[bytes]) -> Body:
    """`multipart/form-data` with the files, in their order, in one field."""
    boundary = secrets.token_hex(16)  # no picture holds it by chance
    parts = [
        b'--%b\r\nContent-Disposition: form-data; name="%b"; filename="%d"\r\n\r\n%b\r\n'
        % (boundary.encode(), field.encode(), number, file)
        for number, file in enumerate(files)
    ]
    return Body(
        b"".join([*parts, b"--%b--\r\n" % boundary.encode()]),
        f"multipart/form-data; boundary={boundary}",
    )


def _from_array(array: NDArray[np.generic], normalize: Normalize) -> Upload:
    picture = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    coloured = picture.ndim == 3 and picture.shape[2] in (3, 4)
    if picture.dtype != np.uint8 or not picture.size or not (picture.ndim == 2 or coloured):
        raise InvalidPixels(
            "A picture must be uint8 of shape (height, width) or (height, width, 3), 0 = black, "
            f"255 = white, not {array.dtype}, shape {array.shape}."
        )
    pixels = picture.astype(
        np.uint8
    )  # a copy: whoever fills the same array again for the next picture may do so
    if pixels.shape == (SIDE, SIDE) and (normalize == "off" or not has_light_ground(pixels)):
        return pixels
    return _encoded(Image.fromarray(pixels))


def _from_image(image: Image.Image) -> bytes:
    try:
        return _encoded(ImageOps.exif_transpose(image))
    except DECODING_ERRORS as error:
        raise InvalidImage(f"The image cannot be decoded: {error}.") from error


def _from_path(path: str | os.PathLike[str]) -> bytes:
    try:
        return read_file(os.fspath(path))
    except OSError as error:
        raise InvalidImage(f"The file cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise InvalidImage(f"The path is invalid: {error}.") from error


def _encoded(image: Image.Image) -> bytes:
    """A PNG, or a TIFF."""
    file = io.BytesIO()
    if image.mode in TIFF_MODES:
        image.save(file, "TIFF")
    else:
        (image if image.mode in PNG_MODES else image.convert("RGB")).save(
            file, "PNG", compress_level=QUICK
        )
    return file.getvalue()


def _npy(images: UInt8Array) -> bytes:
    file = io.BytesIO()
    np.save(file, images, allow_pickle=False)
    return file.getvalue()
