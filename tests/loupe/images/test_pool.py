"""Decoding in processes that may be killed."""

import gc
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from loupe.errors import InvalidImage, ShuttingDown
from loupe.images.decode import open_picture
from loupe.images.pool import DecoderPool
from loupe.images.spec import ImageSpec, Look, Normalize
from tests.support.files import bombs
from tests.support.pictures import digit_sheet, digits, encoded, png
from tests.support.programs import until

MAX_PIXELS = 50_000_000
SHEET = png(digit_sheet())
COSTLY = bombs.jpeg_with_scans(7000, 90)  # within all limits but that of time


@contextmanager
def opened(
    size: int = 1, seconds: float = 30, losses: Counter[str] | None = None
) -> Iterator[DecoderPool]:
    counted = Counter[str]() if losses is None else losses
    pool = DecoderPool(size, seconds, on_loss=lambda loss: counted.update([loss]))
    try:
        yield pool
    finally:
        pool.close()


@pytest.fixture(scope="module")
def pool() -> Iterator[DecoderPool]:
    with opened() as pool:
        yield pool


def decoders() -> list[psutil.Process]:
    """Return the running decoders of this process."""
    return [
        child
        for child in psutil.Process().children()
        if any("loupe.images.decoder" in word for word in child.cmdline())
    ]


def is_dead(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def cost_of(pool: DecoderPool, data: bytes) -> str:
    """Return the code of the error, after checking that the next picture is decoded."""
    with pytest.raises(InvalidImage) as raised:
        pool.decode(data, ImageSpec("ink"), MAX_PIXELS)
    assert pool.decode(SHEET, ImageSpec("ink"), MAX_PIXELS).any()
    return raised.value.code


@pytest.mark.parametrize(
    "kind", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM"]
)
@pytest.mark.parametrize("look", ["ink", "object"])
def test_processes_decode_as_this_process_does(pool: DecoderPool, kind: str, look: Look) -> None:
    data = encoded(Image.fromarray(digit_sheet()), kind)
    here = open_picture(data, max_pixels=MAX_PIXELS).pixels(ImageSpec(look))

    np.testing.assert_array_equal(pool.decode(data, ImageSpec(look), MAX_PIXELS), here)


def test_picture_that_is_not_normalized_is_unchanged(pool: DecoderPool) -> None:
    (image,) = 255 - digits(1)

    decoded = pool.decode(png(image), ImageSpec("ink"), MAX_PIXELS, normalize="off")
    np.testing.assert_array_equal(decoded, image)


@pytest.mark.parametrize(
    ("data", "normalize", "code"),
    [
        pytest.param(SHEET[:-60], "auto", "invalid_image", id="truncated"),
        pytest.param(SHEET, "off", "invalid_pixels", id="of another size"),
        pytest.param(bombs.flat_png(8000, "L"), "auto", "image_too_large", id="too large"),
        pytest.param(bombs.jpeg_with_scans(100, 20_000), "auto", "image_too_costly", id="scans"),
    ],
)
def test_refusals_of_decoders_arrive(
    pool: DecoderPool, data: bytes, normalize: Normalize, code: str
) -> None:
    with pytest.raises(InvalidImage) as raised:
        pool.decode(data, ImageSpec("ink"), MAX_PIXELS, normalize=normalize)
    assert raised.value.code == code


def test_picture_that_takes_too_long_costs_its_decoder_only() -> None:
    losses: Counter[str] = Counter()
    with opened(seconds=0.2, losses=losses) as pool:
        assert cost_of(pool, COSTLY) == "image_too_costly"
    assert losses == {"time": 1}


def test_small_picture_gets_a_share_of_the_time() -> None:
    losses: Counter[str] = Counter()
    flood = bombs.png_with_chunks(600_000)  # takes more than a second
    with opened(seconds=2, losses=losses) as pool:
        assert cost_of(pool, flood) == "image_too_costly"
    assert losses == {"time": 1}


def test_picture_that_takes_too_much_memory_is_an_error() -> None:
    with opened() as pool:
        assert cost_of(pool, bombs.wide_tiff(5500)) == "image_too_costly"


def test_codec_that_crashes_costs_one_picture() -> None:
    losses: Counter[str] = Counter()
    with opened(losses=losses) as pool, ThreadPoolExecutor(1) as threads:
        pool.decode(SHEET, ImageSpec("ink"), MAX_PIXELS)
        (decoder,) = decoders()[-1:]
        costly = threads.submit(cost_of, pool, COSTLY)
        until(lambda: decoder.cpu_times().user > 0.5)
        decoder.send_signal(signal.SIGSEGV)
        assert costly.result() == "image_too_costly"
    assert losses == {"crash": 1}


def test_decoder_that_was_killed_while_it_was_idle_is_replaced() -> None:
    losses: Counter[str] = Counter()
    with opened(losses=losses) as pool:
        pool.decode(SHEET, ImageSpec("ink"), MAX_PIXELS)
        decoder = decoders()[-1]
        decoder.kill()
        until(lambda: is_dead(decoder))
        time.sleep(0.2)  # until its last thread has ended, too
        assert pool.decode(SHEET, ImageSpec("ink"), MAX_PIXELS).any()
    assert not losses


def test_neighbours_are_decoded_while_a_decoder_is_killed() -> None:
    with opened(2, seconds=0.5) as pool, ThreadPoolExecutor(2) as threads:
        costly = threads.submit(cost_of, pool, COSTLY)
        while not costly.done():
            assert pool.decode(SHEET, ImageSpec("ink"), MAX_PIXELS).any()
        assert costly.result() == "image_too_costly"


def test_decoder_of_a_picture_that_nobody_waits_for_is_killed() -> None:
    losses: Counter[str] = Counter()
    given_up = threading.Event()

    def check() -> None:
        if given_up.is_set():
            raise KeyError("given up")

    with opened(losses=losses) as pool, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.decode, COSTLY, ImageSpec("ink"), MAX_PIXELS, check)
        until(lambda: bool(decoders()))
        given_up.set()
        with pytest.raises(KeyError):
            waiting.result(10)
        assert pool.decode(SHEET, ImageSpec("ink"), MAX_PIXELS).any()
    assert losses == {"abandoned": 1}


@pytest.mark.parametrize("seconds", [0.03, 1.0], ids=["starting", "decoding"])
def test_closing_ends_calls_in_progress(seconds: float) -> None:
    with opened() as pool, ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(pool.decode, COSTLY, ImageSpec("ink"), MAX_PIXELS)
        time.sleep(seconds)
        pool.close()
        with pytest.raises(ShuttingDown):
            waiting.result(10)
        with pytest.raises(ShuttingDown):
            pool.decode(SHEET, ImageSpec("ink"), MAX_PIXELS)


@pytest.mark.parametrize("mode", ["L", "RGBA", "I;16"])
def test_decoding_takes_at_most_eight_bytes_per_pixel(mode: str) -> None:
    side = 5000
    with opened() as pool:
        pool.decode(SHEET, ImageSpec("ink"), MAX_PIXELS)
        decoder = decoders()[-1]
        before = peak_bytes(decoder)
        pool.decode(bombs.flat_png(side, mode), ImageSpec("ink"), MAX_PIXELS)
        assert decoder.is_running()
        assert peak_bytes(decoder) - before < 8 * side * side


@pytest.mark.parametrize(
    ("kind", "factor"), [("AVIF", 2), ("HEIF", 2), ("JPEG2000", 4)], ids=["AVIF", "HEIC", "JP2"]
)
def test_formats_that_take_more_memory_stay_within_their_estimate(kind: str, factor: int) -> None:
    side = 2500
    picture = Image.new("RGBA", (side, side), (20, 90, 160, 200))
    options = {"speed": 10} if kind == "AVIF" else {}
    with opened() as pool:
        pool.decode(encoded(Image.new("RGBA", (70, 70)), kind), ImageSpec("ink"), MAX_PIXELS)
        decoder = decoders()[-1]
        before = peak_bytes(decoder)
        pool.decode(encoded(picture, kind, **options), ImageSpec("ink"), MAX_PIXELS)
        assert decoder.is_running()
        assert peak_bytes(decoder) - before < factor * 8 * side * side


@pytest.mark.parametrize("kind", ["AVIF", "HEIF"])
def test_picture_larger_than_its_header_says_is_decoded_within_limits(
    pool: DecoderPool, kind: str
) -> None:
    data = bytearray(encoded(Image.new("RGB", (900, 900), (9, 9, 9)), kind))
    for claim in re.finditer(b"ispe", bytes(data)):
        data[claim.end() + 4 : claim.end() + 12] = struct.pack(">II", 64, 64)
    with suppress(InvalidImage):  # libheif refuses it
        assert pool.decode(bytes(data), ImageSpec("object"), MAX_PIXELS).shape == (28, 28)
    assert pool.decode(SHEET, ImageSpec("ink"), MAX_PIXELS).any()


def peak_bytes(process: psutil.Process) -> int:
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    (peak,) = (line for line in lines if line.startswith("VmHWM"))
    return 1024 * int(peak.split()[1])


def test_decoders_hold_no_sockets_secrets_or_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOUPE_API_KEYS", "alice:secret")
    with socket.create_server(("127.0.0.1", 0)) as server, opened() as pool:
        os.set_inheritable(server.fileno(), True)
        pool.decode(SHEET, ImageSpec("ink"), MAX_PIXELS)
        decoder = decoders()[-1]
        listening = Path(f"/proc/self/fd/{server.fileno()}").readlink()
        folder = Path(f"/proc/{decoder.pid}")
        assert listening not in [link.readlink() for link in (folder / "fd").iterdir()]
        assert b"secret" not in (folder / "environ").read_bytes()
        assert "onnxruntime" not in (folder / "maps").read_text()
        assert decoder.memory_info().rss < 60e6


PARENT = """
import sys, threading
from loupe.images.pool import DecoderPool
from loupe.images.spec import ImageSpec
pool = DecoderPool(1, 50)
arguments = (sys.stdin.buffer.read(), ImageSpec("ink"), 50_000_000)
threading.Thread(target=pool.decode, args=arguments).start()
"""


def test_decoder_dies_with_a_killed_parent_while_it_decodes() -> None:
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdin=subprocess.PIPE)
    assert parent.stdin is not None
    with parent.stdin:
        parent.stdin.write(bombs.jpeg_with_scans(7000, 90))
    until(lambda: bool(psutil.Process(parent.pid).children()))
    (decoder,) = psutil.Process(parent.pid).children()
    until(lambda: decoder.cpu_times().user > 0.5)
    parent.kill()
    parent.wait()

    started = time.monotonic()
    until(lambda: is_dead(decoder))
    assert time.monotonic() - started < 2


def test_processes_of_a_forgotten_pool_end() -> None:
    before = decoders()
    pool = DecoderPool(1, 30)
    pool.decode(SHEET, ImageSpec("ink"), MAX_PIXELS)
    (decoder,) = (each for each in decoders() if each not in before)

    del pool
    gc.collect()
    assert is_dead(decoder)
