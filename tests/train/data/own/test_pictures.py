"""Many picture files: their order, and the reasons for unreadable ones."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from loupe.images.decode import open_picture, read_file
from loupe.images.spec import ImageSpec
from tests.support import pictures
from tests.support.files import bombs
from train.data.own.pictures import UnreadableFile, read_pictures

LIMIT = 1_000_000  # pixels


def test_pictures_come_in_the_order_of_their_paths(tmp_path: Path) -> None:
    images = pictures.digits(40)
    for index, image in enumerate(images):
        (tmp_path / f"{index}.png").write_bytes(pictures.png(image))
    order = np.random.default_rng(0).permutation(40)
    read, kept, left_out, _ = read_pictures(
        tmp_path, [f"{index}.png" for index in order], ImageSpec("ink")
    )

    np.testing.assert_array_equal(read, images[order])
    assert (kept, left_out) == (list(range(40)), [])


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_every_format_and_size_is_normalized_to_28x28(tmp_path: Path, kind: str) -> None:
    data = pictures.encoded(Image.new("RGB", (90, 40), "teal"), kind)
    (tmp_path / "picture").write_bytes(data)
    read, *_ = read_pictures(tmp_path, ["picture"], ImageSpec("object"))

    np.testing.assert_array_equal(
        read[0], open_picture(data, max_pixels=LIMIT).pixels(ImageSpec("object"))
    )


def test_unreadable_files_are_listed_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOUPE_MAX_IMAGE_PIXELS", str(LIMIT))
    good = pictures.png(pictures.digits(1)[0])
    (tmp_path / "good.png").write_bytes(good)
    (tmp_path / "text.png").write_text("not a picture")
    (tmp_path / "cut.png").write_bytes(good[:-40])
    (tmp_path / "large.png").write_bytes(pictures.png(np.zeros((1001, 1000), np.uint8)))
    os.mkfifo(tmp_path / "pipe.png")
    paths = ["text.png", "good.png", "cut.png", "large.png", "gone.png", "pipe.png"]
    read, kept, left_out, _ = read_pictures(tmp_path, paths, ImageSpec("ink"))

    assert (read.shape, kept) == ((1, 28, 28), [1])
    assert [item.path for item in left_out] == [
        "text.png",
        "cut.png",
        "large.png",
        "gone.png",
        "pipe.png",
    ]
    reasons = [item.reason for item in left_out]
    for reason, text in zip(
        reasons,
        (
            "'not a picture'",
            "PNG",
            "1,000,000",
            "No such file or directory",
            "file",
        ),
        strict=True,
    ):
        assert text in reason


def test_colours_are_found_while_the_files_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grey = np.full((40, 60, 3), 100, np.uint8)
    for number in range(4):
        picture = grey if number else grey + np.array([100, 0, 0], np.uint8)
        (tmp_path / f"{number}.png").write_bytes(pictures.png(picture))
    (tmp_path / "text.png").write_bytes(b"text")
    opened: list[Path] = []

    def read_and_note(path: Path) -> bytes:
        opened.append(path)
        return read_file(path)

    monkeypatch.setattr("train.data.own.pictures.read_file", read_and_note)
    paths = [*(f"{number}.png" for number in range(4)), "text.png"]
    grey_share = read_pictures(tmp_path, paths, ImageSpec("object")).colour_share
    colour_share = read_pictures(tmp_path, paths, ImageSpec("photo", channels=3)).colour_share

    assert (grey_share, colour_share) == (1 / 4, 0)
    assert len(opened) == 2 * len(paths)


def test_no_paths_give_no_pictures(tmp_path: Path) -> None:
    read, kept, left_out, _ = read_pictures(tmp_path, [], ImageSpec("ink"))

    assert (read.shape, kept, left_out) == ((0, 28, 28), [], [])


def test_a_path_that_is_not_utf_8_is_printable(tmp_path: Path) -> None:
    _, _, left_out, _ = read_pictures(tmp_path, [os.fsdecode(b"caf\xe9.png")], ImageSpec("ink"))

    assert left_out == [UnreadableFile("caf\\udce9.png", left_out[0].reason)]
    left_out[0].path.encode()


def test_pictures_that_are_too_costly_are_unreadable_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOUPE_DECODE_SECONDS", "0.5")
    (tmp_path / "honest.png").write_bytes(pictures.png(np.full((300, 300), 9, np.uint8)))
    (tmp_path / "scans.jpg").write_bytes(bombs.jpeg_with_scans(5000, 90))
    (tmp_path / "memory.tif").write_bytes(bombs.wide_tiff(6000))
    paths = ["scans.jpg", "memory.tif", "honest.png"]
    images, kept, left_out, _ = read_pictures(tmp_path, paths, ImageSpec("object"))

    assert (images.shape, kept) == ((1, 28, 28), [2])
    assert [item.path for item in left_out] == ["scans.jpg", "memory.tif"]
    for item, text in zip(left_out, ("0.5", "memory"), strict=True):
        assert text in item.reason
