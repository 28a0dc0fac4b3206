"""Wrong bodies: damaged, hostile, or not what their heads say. HTTP itself is in order."""

import io
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from random import Random

import numpy as np
import orjson
from PIL import Image

from bench.connection import Reply
from bench.fuzz.known import BOUNDARY, FORM, JSON, JSON_LENGTH, NPY, PNG, Known, Maker, Request, form, npy
from bench.fuzz.right import RIGHT

REFUSALS = (429, 503, 504)  # which any request may get
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")
MODES = ("L", "RGB", "RGBA", "P", "1", "LA", "I;16", "I", "F", "CMYK")
CODECS = (
    "utf-8",
    "utf-7",
    "utf-16",
    "ascii",
    "idna",
    "punycode",
    "undefined",
    "unicode_escape",
    "hex",
    "rot13",
    "none",
    "",
)
NUMBERS = (
    "0",
    "-1",
    "1",
    "5",
    "1.5",
    "nan",
    "inf",
    "-inf",
    "1e400",
    "1_0",
    " 1 ",
    "٣",
    "²",
    "0x1",
    "9" * 19,
    "9" * 400,
    "x",
    "",
)
NAMES = (
    "",
    "x",
    "latest",
    "a:b:c",
    ":",
    "::",
    "*",
    "..",
    "%",
    "%zz",
    "%00",
    "%0a",
    "%2f",
    "%ff",
    "%ed%a0%80",
    "é",
    "x" * 3000,
)
VALUES = (
    *(
        "null",
        "true",
        "-1",
        "255",
        "256",
        "0.5",
        "1e30",
        "1e400",
        "NaN",
        "Infinity",
        "9" * 30,
        '""',
        '"AAAA"',
        '"' + "A" * 5000 + '"',
    ),
    *(
        "[]",
        "[[]]",
        "{}",
        '{"b64": 1}',
        '{"image": "http://127.0.0.1/"}',
        '{"pixels": [[0]]}',
        '"\\ud800"',
        '"data:,"',
        '{"images": []}',
    ),
)


def check(reply: Reply) -> str | None:
    """What is wrong with an answer to a request that may be refused."""
    is_json = reply.headers.get(b"content-type", b"").startswith(b"application/json")
    try:
        body = orjson.loads(reply.body) if is_json and reply.body else None
    except orjson.JSONDecodeError:
        return f"JSON that is none: {reply.body[:200]!r}"
    if 200 <= reply.status < 300:
        return None
    is_refusal = 400 <= reply.status < 500 or reply.status in REFUSALS
    if is_refusal and isinstance(body, dict) and body.keys() == {"error", "code"}:
        return None if all(isinstance(value, str) for value in body.values()) else "an error that is no text"
    return f"{reply.status} without an error in JSON: {reply.body[:200]!r}"


def damage(random: Random, data: bytes) -> bytes:
    """The same bytes, but for some."""
    start, end = sorted(random.randrange(len(data) + 1) for _ in range(2))
    noise = random.randbytes(random.randint(1, 40))
    flipped = bytearray(data)
    for _ in range(random.randint(1, 8) if data else 0):
        flipped[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return random.choice(
        [
            bytes(flipped),
            data[:start],
            data[start:],
            data[:start] + data[end:],
            data[:start] + noise + data[start:],
            data[:start] + noise + data[end:],
            data[:end] + data[start:],
            noise,
        ]
    )


def damaged_body(random: Random, known: Known) -> Request:
    """A right request whose body came to harm."""
    request = random.choice(RIGHT)(random, known)
    return replace(request, body=damage(random, request.body), check=check)


def damaged_picture(random: Random, known: Known) -> Request:
    """A file of any format, more or less whole."""
    file = _picture(random.choice(FORMATS), random.choice(MODES), random.randint(0, 3))
    for _ in range(random.randint(0, 3)):
        file = damage(random, file)
    if random.random() < 0.7:
        return Request("POST", "/predict", (("Content-Type", PNG),), file, check)
    return Request("POST", "/predict_batch", (("Content-Type", FORM),), form("images", [file, known.pngs[0]]), check)


@cache
def _picture(kind: str, mode: str, number: int) -> bytes:
    """A file as cameras and programs write them; PNG where the format cannot have the mode."""
    random = Random(number)
    size = (random.randint(2, 90), random.randint(2, 90))
    base = Image.frombytes("RGB", size, random.randbytes(size[0] * size[1] * 3))
    image = base.convert("L").convert("I").convert(mode) if mode in ("I;16", "F") else base.convert(mode)
    exif = Image.Exif()
    exif[0x0112] = random.randint(0, 9)  # how the camera was held
    file = io.BytesIO()
    try:
        image.save(file, kind, exif=exif)
    except (OSError, ValueError, KeyError):
        base.save(file, "PNG", exif=exif)
    return file.getvalue()


def hostile_json(random: Random, known: Known) -> Request:
    """JSON of all kinds to all that read it."""
    name = known.model.name
    targets = ("/predict", "/predict_batch", f"/v2/models/{name}/infer", f"/v1/models/{name}:predict")
    key = random.choice(["image", "images", "pixels", "instances", "inputs", "signature_name", "x" * 100])
    depth = random.choice([1, 10, 900, 1100, 100_000])
    row = "[" + ",".join([random.choice(VALUES)] * 28) + "]"
    image = "[" + ",".join([row] * random.choice([0, 1, 27, 28, 29])) + "]"
    body = random.choice(
        [
            random.choice(VALUES),
            f'{{"{key}": {random.choice(VALUES)}}}',
            f'{{"{key}": [{random.choice(VALUES)}, {random.choice(VALUES)}]}}',
            f'{{"{key}": {image}}}',
            f'{{"{key}": [{image}, {{"pixels": {image}}}]}}',
            f'{{"{key}": ' + "[" * depth + "]" * depth + "}",
            '{"a":' * depth + "1" + "}" * depth,
            "[" * depth,
            f'{{"{key}": 1, "{key}": [{row}], "images": {{}}}}',
            f'{{"{key}": [' + "0," * 5000 + "0]}",
            "\ufeff{}",
        ]
    )
    return Request("POST", random.choice(targets), (("Content-Type", JSON),), body.encode(), check)


def hostile_npy(random: Random, known: Known) -> Request:
    """Arrays whose headers say what is not so, or what nobody wants."""
    shapes = (
        "(1, 28, 28)",
        "(28, 28)",
        "()",
        "(0, 28, 28)",
        "(-1, 28, 28)",
        f"({10**9}, 28, 28)",
        f"({2**63}, 0, 28)",
        "(1.5,)",
        "'x'",
    )
    dtypes = (
        "'|u1'",
        "'<f4'",
        "'|O'",
        "'<U9'",
        "'|V0'",
        "'<M8[ns]'",
        "[('a', '|u1')]",
        "'x'",
        "1",
        "__import__('os')",
        "'|S0'",
    )
    header = f"{{'descr': {random.choice(dtypes)}, 'fortran_order': {random.choice(['True', 'False', '2'])}, "
    header += f"'shape': {random.choice(shapes)}{random.choice(['', ', }', '}', '}' * 40, '(' * 300])}"
    version = random.choice([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09", b""])
    length = random.choice([len(header), len(header) + 1, 0, 2**16 - 1]).to_bytes(random.choice([2, 4]), "little")
    body = b"\x93NUMPY" + version + length + header.encode() + bytes(random.choice([0, 1, 784, 3136]))
    return Request("POST", "/predict_batch", (("Content-Type", NPY),), body, check)


def wrong_array(random: Random, known: Known) -> Request:
    """An array of another type or shape."""
    array = np.zeros(
        random.choice([(28, 28), (1, 28, 29), (2, 28, 28, 1), (0, 28, 28), (5000, 28, 28), ()]),
        random.choice("BbfdeFqU?"),
    )
    return Request("POST", random.choice(["/predict", "/predict_batch"]), (("Content-Type", NPY),), npy(array), check)


def wrong_tensor(random: Random, known: Known) -> Request:
    """Tensors that do not add up."""
    count = random.choice([1, 2, 3, 0, -1, 10**6, 2**62])
    shape = random.choice([[count, 28, 28], [count, 28, 28, 1], [count], [count, 1], [], [28, 28], "x", [count, 2.0]])
    raw = random.choice([known.images[:2].tobytes(), b"", random.randbytes(50), b"\xff\xff\xff\xff", bytes(4)])
    size = random.choice([len(raw), len(raw) - 1, 0, -1, 2**63, "1", None, True])
    tensor = {
        "name": random.choice(["images", "images", "x", None]),
        "datatype": random.choice(["UINT8", "BYTES", "FP32", 1]),
        "shape": shape,
    }
    tensor |= random.choice(
        [{"parameters": {"binary_data_size": size}}, {"data": [0] * 784}, {"data": ["x", None]}, {"data": [[[]]]}, {}]
    )
    tensor |= random.choice([{}, {}, {"parameters": {"shared_memory_region": "x"}}])
    outputs = random.choice(
        [
            None,
            [],
            [{"name": "x"}],
            [{"name": "label"}] * 2,
            1,
            [1],
            [{"name": "label", "parameters": {"classification": 1}}],
        ]
    )
    parameters = random.choice(
        [{}, {"timeout": random.choice([0, 1, -1, 2**64 - 1, 1.5, "x"])}, {"binary_data_output": 1}, []]
    )
    request = {
        "id": random.choice(["a", 1, None]),
        "inputs": random.choice([[tensor], [tensor] * 2, [], {}]),
        "outputs": outputs,
        "parameters": parameters,
    }
    head = orjson.dumps(request)
    length = random.choice([str(len(head)), str(len(head)), str(len(head) + 1), "-1", *NUMBERS])
    return Request("POST", f"/v2/models/{known.model.name}/infer", ((JSON_LENGTH, latin(length)),), head + raw, check)


def wrong_form(random: Random, known: Known) -> Request:
    """Forms with strange parts, in strange alphabets, between strange boundaries."""
    name = random.choice(["image", "images", "x", "", 'a"b', "\u00e9"])
    disposition = random.choice(
        [
            f'form-data; name="{name}"; filename="{random.choice(NAMES[:10])}"',
            f'form-data; name="{name}"',
            "form-data",
            "",
            "attachment",
        ]
    )
    header = random.choice(["Content-Disposition", "content-disposition", "X", ""])
    value = random.choice(
        [known.pngs[0], b"", b"xn--a-ecp.ru", b"+2AA-", b"\xff\xfe", random.randbytes(30), b"\r\n" * 20]
    )
    part = f"--{BOUNDARY}\r\n{header}: {disposition}\r\n\r\n".encode() + value + b"\r\n"
    body = part * random.choice([0, 1, 2, 30]) + random.choice([f"--{BOUNDARY}--\r\n".encode(), b"", b"--"])
    kind = f"{FORM}{random.choice(['', 'x', f'; charset={random.choice(CODECS)}'])}"
    return Request("POST", random.choice(["/predict", "/predict_batch"]), (("Content-Type", kind),), body, check)


def latin(text: str) -> str:
    """What a header can carry of a text; never more than one line of it."""
    return text.encode("utf-8").decode("latin-1")


BODIES: Sequence[Maker] = (
    damaged_body,
    damaged_picture,
    hostile_json,
    hostile_npy,
    wrong_array,
    wrong_tensor,
    wrong_form,
)
