"""A folder such as the test images of Pillow: all formats, odd names, links, and much else."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from loupe.images.selection import SkippedFiles
from tests.support import pictures

READABLE = {  # name → format
    "a.png": "PNG",
    "b.jfif": "JPEG",
    "b.jpe": "JPEG",
    "photo": "JPEG",
    "no-suffix.": "TIFF",
    "named-like-text.txt": "PNG",
    "wrong.gif": "BMP",
    "named-like-a-photo.raw": "PNG",
    "exported.NEF": "JPEG",
    "copy.png~": "PNG",
    "UPPER.JPG": "JPEG",
    "new\nline.gif": "GIF",
    "two words, ü.webp": "WEBP",
    "sub/deep.er/g.tif": "TIFF",
    "sub/deep.er/h.dib": "BMP",
}
DAMAGED = {
    "text.png": b"no image",
    "empty.jpg": b"",
    "page.tif": b"%PDF-1.7\n",
    "cut": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "damaged.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
    "damaged-heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic",
}
OTHERS = {
    "notes.txt": b"text",
    "README": b"text",
    "empty": b"",
    "Thumbs.db": b"\xd0\xcf\x11\xe0",
    "drawing.svg": b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    "paper.pdf": b"%PDF-1.7\n",
    "layers": b"8BPS\0\1",
    "camera.nef": b"II*\0\x08\0\0\0\0\0",
    "sensor.raw": b"\1\2\3",
    "clip.mp4": b"\0\0\0\x18ftypisom\0\0\0\0",
    ".hidden.png": b"\x89PNG\r\n\x1a\n",
    ".git/config": b"text",
    ".git/objects/x.png": b"\x89PNG\r\n\x1a\n",
    "__MACOSX/._a.png": b"text",
}
SKIPPED: SkippedFiles = {
    "hidden": {".png": 3, "none": 1},
    "not_a_picture": {".txt": 1, "none": 2, ".db": 1},
    "unsupported_format": {".svg": 1, ".pdf": 1, "none": 1, ".nef": 1, ".raw": 1, ".mp4": 1},
}


@dataclass(frozen=True)
class Expected:
    """The fate of each file of a folder."""

    read: set[str]
    failed: set[str]
    skipped: SkippedFiles


def write(folder: Path, *, links: bool = True, beside: Path | None = None) -> Expected:
    """Write the files, and links, loops and pipes among them.

    Args:
        folder: Where to write.
        links: Whether to write more than files and folders.
        beside: Another folder, to which a link leads; by default one in the same folder.
    """
    picture = Image.fromarray(np.pad(np.full((20, 6), 255, np.uint8), ((4, 4), (11, 11))))
    files = {name: pictures.encoded(picture, kind) for name, kind in READABLE.items()}
    for name, data in {**files, **DAMAGED, **OTHERS}.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    if not links:
        return Expected(set(READABLE), set(DAMAGED), {**SKIPPED})
    outside = beside or folder.parent / f"beside-{folder.name}"
    (outside / "below").mkdir(parents=True)
    (outside / "below" / "o.png").write_bytes(files["a.png"])
    for name, target in {
        "link.png": "a.png",
        "link": "b.jpe",
        "linked": str(outside),
        "0-again": "sub",
        "sub/up": "..",
        "sub/top": str(folder.parent),
        "loop.png": "loop.png",
        "broken": "nowhere",
        "broken.png": "nowhere",
    }.items():
        (folder / name).symlink_to(target)
    (outside / "back").symlink_to(folder)
    os.mkfifo(folder / "pipe.png")
    os.mkfifo(folder / "pipe")
    return Expected(
        {*READABLE, "link.png", "link", "linked/below/o.png"},
        set(DAMAGED),
        {
            **SKIPPED,
            "link_loop": {"none": 4},
            "broken_link": {".png": 2, "none": 1},
            "not_a_file": {".png": 1, "none": 1},
        },
    )
