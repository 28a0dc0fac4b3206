"""Forms in `multipart/form-data` whose bodies are in memory.

Source: https://www.rfc-editor.org/rfc/rfc7578. Starlette's parser reads streams; it writes large
files to disk, and its time is quadratic in the length of a part's headers.
"""

import binascii
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

from python_multipart.multipart import parse_options_header

from loupe.errors import ContentTooLarge, InvalidImage, InvalidRequest
from loupe.images.formats import File
from loupe.images.header import kind_of
from service.http.shares import turn
from service.http.validation import shown
from service.prediction.encodings import from_base64

MAX_OTHER_PARTS = 100  # of a form, besides images
MAX_PART_HEADER_BYTES = 16 * 1024
STEP_BYTES = 8 * 2**20  # of a body that are searched without a pause
MAX_TEXT_BYTES = 1000  # of a value that is not a file; a message shows less
BASE64, QUOTED = b"base64", b"quoted-printable"
MAX_ENCODED_BYTES = 16 * 2**20  # of all files in these encodings, as of JSON
CONTINUED_LINE = re.compile(rb"\r\n[ \t]+")  # mail libraries fold long headers


@dataclass(frozen=True, slots=True)
class FormField:
    """One value of a form.

    Attributes:
        headers: Headers of the part, by name in lower case.
        content: The value, a part of the body.
    """

    headers: dict[bytes, bytes]
    content: memoryview

    @property
    def is_file(self) -> bool:
        """Return whether it has a file name, a type that is not text, or a picture's first bytes.

        .NET and others send files without a name, and even without a type.
        """
        kind = self.headers.get(b"content-type", b"text/").lower()
        is_named = b"filename" in self.headers[b"content-disposition"].lower()
        return is_named or not kind.startswith(b"text/") or kind_of(self.content) is not None

    @property
    def encoding(self) -> bytes:
        """Return the encoding of the content, in lower case."""
        return self.headers.get(b"content-transfer-encoding", b"").lower()

    def file(self) -> File:
        """Return the file, which is not copied unless it is encoded; never fetch a URL.

        Raises:
            InvalidImage: If it is a text, or wrong base64.
        """
        if self.encoding == BASE64:
            return from_base64(str(self.content, "ascii", "replace"))
        if self.encoding == QUOTED:
            return binascii.a2b_qp(self.content)
        if self.is_file:
            return self.content
        text = str(self.content[:MAX_TEXT_BYTES], errors="replace")
        raise InvalidImage(
            f"A field of the form is the text {shown(text)}, not a file. "
            "Send the bytes (with curl: -F image=@FILE)."
        )


async def read_form(content_type: str, body: bytes, field: str, max_images: int) -> list[FormField]:
    """Return the values of one field.

    Args:
        content_type: The header `Content-Type`, with the boundary.
        body: The form.
        field: Name of the field.
        max_images: Maximum number of images; some other parts may come with them.

    Raises:
        ContentTooLarge: If it has more parts, or encoded files are too long.
        InvalidRequest: If the form is damaged.
    """
    boundary = parse_options_header(content_type)[1].get(b"boundary")
    if not boundary:
        raise InvalidRequest("The Content-Type of the form has no boundary.")
    values: list[FormField] = []
    async for headers, content in _parts(body, boundary, max_images + MAX_OTHER_PARTS):
        options = parse_options_header(headers.get(b"content-disposition"))[1]
        if options.get(b"name") == field.encode():
            values.append(FormField(headers, content))
    encoded = (len(value.content) for value in values if value.encoding in (BASE64, QUOTED))
    if sum(encoded) > MAX_ENCODED_BYTES:
        raise ContentTooLarge(f"The encoded files exceed {MAX_ENCODED_BYTES:,} bytes together.")
    return values


async def _parts(
    body: bytes, boundary: bytes, max_parts: int
) -> AsyncIterator[tuple[dict[bytes, bytes], memoryview]]:
    """Yield the headers, by name in lower case, and the content of each part."""
    delimiter = b"\r\n--" + boundary
    first = await _find(body, delimiter[2:], 0)
    if first < 0:
        raise _damaged("The boundary is not in the body.")
    start = paused = first + len(delimiter) - 2
    for _ in range(max_parts):
        if body.startswith(b"--", start):
            return
        head_end = body.find(b"\r\n\r\n", start, start + MAX_PART_HEADER_BYTES)
        if head_end < 0:
            raise _damaged("A part has no end of its headers, or too many.")
        end = await _find(body, delimiter, head_end + 4)
        if end < 0:
            raise _damaged("A part has no boundary after it.")
        yield _headers(body[start:head_end]), memoryview(body)[head_end + 4 : end]
        start = end + len(delimiter)
        if start - paused > STEP_BYTES:  # short parts add up
            await turn()
            paused = start
    raise ContentTooLarge(
        f"The form has more than {max_parts:,} parts; "
        f"at most {max_parts - MAX_OTHER_PARTS:,} images are allowed "
        "(LOUPE_MAX_IMAGES_PER_REQUEST, LOUPE_MAX_QUEUED_IMAGES).",
        code="too_many_images",
    )


def _headers(head: bytes) -> dict[bytes, bytes]:
    """Return the headers of a part, whose head begins after the boundary."""
    rest, *lines = CONTINUED_LINE.sub(b" ", head).split(b"\r\n")
    if rest.strip(b" \t"):
        raise _damaged("A boundary does not end its line.")
    pairs = (line.partition(b":") for line in lines)
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


async def _find(body: bytes, text: bytes, start: int) -> int:
    """Return the position of a text, or -1; other requests run while a long body is searched."""
    while True:
        found = body.find(text, start, start + STEP_BYTES + len(text) - 1)
        start += STEP_BYTES
        if found >= 0 or start >= len(body):
            return found
        await turn()


def _damaged(problem: str) -> InvalidRequest:
    return InvalidRequest(f"The form is damaged: {problem}")
