"""Requests in valid HTTP with damaged, hostile or inconsistent bodies."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import numpy as np
import orjson

from bench.inputs import JSON, JSON_LENGTH, NPY, encode_npy
from bench.service.open_loop import Reply
from tests.stress.fuzz.requests import (
    BOUNDARY,
    FORM,
    Factory,
    Reference,
    Request,
    post,
)
from tests.stress.fuzz.valid import VALID

MAX_HUGE_BYTES = 2 * 2**20
MAX_REFUSAL_BYTES = 1000
REFUSALS = (429, 503, 504)  # any request may get these
CODECS = ["utf-8", "utf-7", "utf-16", "ascii", "idna", "punycode", "undefined", "hex", "rot13"]
CODECS += ["unicode_escape", "none", ""]
NUMBERS = ["0", "-1", "1", "5", "1.5", "nan", "inf", "-inf", "1e400", "1_0", "٣", "²", "0x1", "x"]
NUMBERS += [" 1 ", "9" * 19, "9" * 400, ""]
NAMES = ["", "x", "latest", "a:b:c", ":", "::", "*", "..", "é"]
NAMES += ["%", "%zz", "%00", "%0a", "%2f", "%ff", "%ed%a0%80", "x" * 3000]
JSON_VALUES = ["null", "true", "-1", "255", "256", "0.5", "1e30", "1e400", "NaN", "Infinity"]
JSON_VALUES += ["[]", "[[]]", "{}", "9" * 30, '""', '"AAAA"', '"' + "A" * 5000 + '"', '"\\ud800"']
JSON_VALUES += ['{"image": "http://127.0.0.1/"}', '{"pixels": [[0]]}', '{"images": []}']
JSON_VALUES += ['{"b64": 1}', '"data:,"']
SHAPES = ["(1, 28, 28)", "(28, 28)", "()", "(0, 28, 28)", "(-1, 28, 28)", "(1.5,)", "'x'"]
SHAPES += [f"({10**9}, 28, 28)", f"({2**63}, 0, 28)"]
DTYPES = ["'|u1'", "'<f4'", "'|O'", "'<U9'", "'|V0'", "'<M8[ns]'", "[('a', '|u1')]", "'x'", "1"]
DTYPES += ["__import__('os')", "'|S0'"]


def check_refusal(reply: Reply) -> str | None:
    """Check the response to a request that the service may accept or refuse."""
    is_json = reply.headers.get(b"content-type", b"").startswith(b"application/json")
    try:
        body = orjson.loads(reply.body) if is_json and reply.body else None
    except orjson.JSONDecodeError:
        return f"malformed JSON: {reply.body[:200]!r}"
    if 200 <= reply.status < 300:
        return None
    is_refusal = 400 <= reply.status < 500 or reply.status in REFUSALS
    if is_refusal and isinstance(body, dict) and body.keys() == {"error", "code"}:
        is_text = all(isinstance(value, str) for value in body.values())
        return None if is_text else "an error or code that is not a string"
    return f"{reply.status} without an error in JSON: {reply.body[:200]!r}"


def damage(random: Random, data: bytes) -> bytes:
    """Flip, remove, insert or move some of the bytes."""
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


def damaged_body(random: Random, reference: Reference) -> Request:
    """Damage the body of a valid request."""
    request = random.choice(VALID)(random, reference)
    return replace(request, body=damage(random, request.body), check=check_refusal)


def huge_count(random: Random, reference: Reference) -> Request:
    """Send many or long values where one or few are expected."""
    name = reference.model.name
    infer, predict = f"/v2/models/{name}/infer", f"/v1/models/{name}:predict"
    target = random.choice(["/predict", "/predict_batch", infer, predict, "/jobs"])
    item = random.choice(["0", "[]", "{}", '"a"', "null", '"' + "a" * 500 + '"'])
    items = ",".join([item] * random.choice([5_000, 50_000, 200_000]))[:MAX_HUGE_BYTES]
    items = items.rpartition(",")[0]
    keys = ",".join(f'"{number}":0' for number in range(random.choice([101, 30_000])))
    long = "x" * random.choice([1_000, 1_000_000])
    key = random.choice(["image", "images", "pixels", "instances", "inputs", "source", "id"])
    body = random.choice(
        [
            f"[{items}]",
            f'{{"{key}":[{items}]}}',
            f'{{"{key}":[[{items}],[{items}]]}}',
            f'{{"inputs":[{{"name":"images","datatype":"UINT8","shape":[{items}]}}]}}',
            f'{{"inputs":[{{"name":"{long}","shape":[1,28,28],"data":[{items}]}}]}}',
            f"{{{keys}}}",
            f'{{"{key}":{{{keys}}}}}',
            f'{{"{key}":[{{{keys}}}]}}',
            f'{{"{long}":1}}',
            f'{{"{key}":"{long}"}}',
        ]
    )
    return post(target, JSON, body.encode(), check_short_refusal)


def many_parts(random: Random, reference: Reference) -> Request:
    """Send a form with many parts, or parts with many or long headers."""
    disposition = 'Content-Disposition: form-data; name="images"; filename="a"'
    header = random.choice(
        [disposition, "", "A: " + "a" * 20_000, "A: b\r\n" * 5_000 + disposition]
    )
    parts = f"--{BOUNDARY}\r\n{header}\r\n\r\na\r\n" * random.choice([1, 5_000])
    body = parts[:MAX_HUGE_BYTES] + f"--{BOUNDARY}--\r\n"
    target = random.choice(["/predict", "/predict_batch"])
    return post(target, FORM, body.encode(), check_refusal)


def check_short_refusal(reply: Reply) -> str | None:
    """Check a refusal that must not repeat what was sent."""
    if reply.status >= 400 and len(reply.body) > MAX_REFUSAL_BYTES:
        return f"{reply.status} with {len(reply.body):,} bytes"
    return check_refusal(reply)


def hostile_json(random: Random, reference: Reference) -> Request:
    """Send JSON of the wrong structure to any route that takes JSON."""
    name = reference.model.name
    infer, predict = f"/v2/models/{name}/infer", f"/v1/models/{name}:predict"
    target = random.choice(["/predict", "/predict_batch", infer, predict])
    keys = ["image", "images", "pixels", "instances", "inputs", "signature_name"]
    key = random.choice([*keys, "x" * 100])
    depth = random.choice([1, 10, 900, 1100, 100_000])
    height, *row_shape = reference.card.input.shape
    row = random.choice(JSON_VALUES)
    for side in reversed(row_shape):
        row = "[" + ",".join([row] * side) + "]"
    rows = random.choice([0, 1, height - 1, height, height + 1])
    image = "[" + ",".join([row] * rows) + "]"
    body = random.choice(
        [
            random.choice(JSON_VALUES),
            f'{{"{key}": {random.choice(JSON_VALUES)}}}',
            f'{{"{key}": [{random.choice(JSON_VALUES)}, {random.choice(JSON_VALUES)}]}}',
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
    return post(target, JSON, body.encode(), check_refusal)


def hostile_npy(random: Random, reference: Reference) -> Request:
    """Send an `.npy` file with a false or dangerous header."""
    order = random.choice(["True", "False", "2"])
    header = f"{{'descr': {random.choice(DTYPES)}, 'fortran_order': {order}, "
    end = random.choice(["", ", }", "}", "}" * 40, "(" * 300])
    header += f"'shape': {random.choice(SHAPES)}{end}"
    version = random.choice([b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x09", b""])
    size = random.choice([len(header), len(header) + 1, 0, 2**16 - 1])
    length = size.to_bytes(random.choice([2, 4]), "little")
    data = bytes(random.choice([0, 1, 784, 3136]))
    body = b"\x93NUMPY" + version + length + header.encode() + data
    return post("/predict_batch", NPY, body, check_refusal)


def wrong_array(random: Random, reference: Reference) -> Request:
    """Send an array of an unsupported type or shape."""
    shape = reference.card.input.shape
    counts = [(), (1,), (2,), (0,), (5000,)]
    shapes = [(*random.choice(counts), *random.choice([shape, (*shape, 1), (28, 29)])), ()]
    array = np.zeros(random.choice(shapes), random.choice("BbfdeFqU?"))
    target = random.choice(["/predict", "/predict_batch"])
    return post(target, NPY, encode_npy(array), check_refusal)


def wrong_tensor(random: Random, reference: Reference) -> Request:
    """Send an Open Inference request whose fields contradict each other."""
    tensor, raw = _wrong_tensor(random, reference)
    label = {"name": "label"}
    classification = {**label, "parameters": {"classification": 1}}
    timeout = random.choice([0, 1, -1, 2**64 - 1, 1.5, "x"])
    message = {
        "id": random.choice(["a", 1, None]),
        "inputs": random.choice([[tensor], [tensor] * 2, [], {}]),
        "outputs": random.choice(
            [None, [], [{"name": "x"}], [label] * 2, 1, [1], [classification]]
        ),
        "parameters": random.choice([{}, {"timeout": timeout}, {"binary_data_output": 1}, []]),
    }
    head = orjson.dumps(message)
    right = str(len(head))
    length = random.choice([right, right, str(len(head) + 1), "-1", *NUMBERS])
    headers = ((JSON_LENGTH, as_header(length)),)
    target = f"/v2/models/{reference.model.name}/infer"
    return Request("POST", target, headers, head + raw, check_refusal)


def _wrong_tensor(random: Random, reference: Reference) -> tuple[dict[str, object], bytes]:
    """Return the JSON part and the binary part of a tensor."""
    images = reference.images[:2].tobytes()
    raw = random.choice([images, b"", random.randbytes(50), b"\xff\xff\xff\xff", bytes(4)])
    size = random.choice([len(raw), len(raw) - 1, 0, -1, 2**63, "1", None, True])
    count = random.choice([1, 2, 3, 0, -1, 10**6, 2**62])
    shape = reference.card.input.shape
    shapes: list[object] = [[count, *shape], [count, *shape, 1], [count], [count, 1]]
    shapes += [[], shape, "x", [count, 2.0]]
    contents: list[dict[str, object]] = [
        {"parameters": {"binary_data_size": size}},
        {"data": [0] * reference.card.input.nbytes},
        {"data": ["x", None]},
        {"data": [[[]]]},
        {},
    ]
    tensor: dict[str, object] = {
        "name": random.choice(["images", "images", "x", None]),
        "datatype": random.choice(["UINT8", "BYTES", "FP32", 1]),
        "shape": random.choice(shapes),
        **random.choice(contents),
    }
    if random.random() < 1 / 3:
        tensor["parameters"] = {"shared_memory_region": "x"}
    return tensor, raw


def wrong_form(random: Random, reference: Reference) -> Request:
    """Send a form with faulty parts, charsets or boundaries."""
    name = random.choice(["image", "images", "x", "", 'a"b', "\u00e9"])
    field = f'form-data; name="{name}"'
    filename = f'{field}; filename="{random.choice(NAMES[:10])}"'
    disposition = random.choice([filename, field, "form-data", "", "attachment"])
    header = random.choice(["Content-Disposition", "content-disposition", "X", ""])
    values = [reference.pngs[0], b"", b"xn--a-ecp.ru", b"+2AA-", b"\xff\xfe", b"\r\n" * 20]
    value = random.choice([*values, random.randbytes(30)])
    part = f"--{BOUNDARY}\r\n{header}: {disposition}\r\n\r\n".encode() + value + b"\r\n"
    end = random.choice([f"--{BOUNDARY}--\r\n".encode(), b"", b"--"])
    body = part * random.choice([0, 1, 2, 30]) + end
    content_type = FORM + random.choice(["", "x", f"; charset={random.choice(CODECS)}"])
    target = random.choice(["/predict", "/predict_batch"])
    return post(target, content_type, body, check_refusal)


def as_header(text: str) -> str:
    """Return text that becomes UTF-8 when headers are encoded as Latin-1."""
    return text.encode("utf-8").decode("latin-1")


INVALID_BODIES: Sequence[Factory] = (
    damaged_body,
    huge_count,
    many_parts,
    hostile_json,
    hostile_npy,
    wrong_array,
    wrong_tensor,
    wrong_form,
)
