"""Valid requests of every kind. The service must answer them as the model does."""

import io
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any
from urllib.parse import urlencode

import numpy as np
import orjson

from bench.inputs import JSON, JSON_LENGTH, NPY, PNG, encode_npy
from bench.service.open_loop import Reply
from loupe.drawing import encode_png
from loupe.images.spec import Float32Array
from tests.stress.fuzz.requests import (
    FORM,
    Factory,
    Reference,
    Request,
    encode_base64,
    encode_form,
    post,
)

MAX_IMAGES = 12  # per request
TOLERANCE = 1e-5  # of probabilities: batches of different sizes give slightly different results
FAMILIARITY_TOLERANCE = 1e-3  # a small difference in distance can pass many validation images
NOT_AN_IMAGE = b"not an image"

# Loupe's native protocol


def predict(random: Random, reference: Reference) -> Request:
    """Send one image in any encoding, with any options."""
    number = random.randrange(len(reference.images))
    png = reference.pngs[number]
    content_type, body = random.choice(
        [
            (PNG, png),
            ("application/octet-stream", png),
            (JSON, orjson.dumps({"image": encode_base64(png)})),
            (JSON, orjson.dumps({"image": "data:image/png;base64," + encode_base64(png)})),
            (JSON, orjson.dumps({"pixels": reference.images[number].tolist()})),
            (FORM, encode_form("image", [png])),
        ]
    )
    options = _options(random, reference)
    check = partial(_check_predict, reference, number, options)
    return post("/predict" + _query(options), content_type, body, check)


def split(random: Random, reference: Reference) -> Request:
    """Send a picture of one or two symbols; models of other looks cannot split it."""
    numbers = [random.randrange(len(reference.images)) for _ in range(random.randint(1, 2))]
    picture = np.concatenate([reference.images[number] for number in numbers], axis=1)
    options = _options(random, reference) | {"split": "true"}
    options.pop("normalize", None)  # `off` leaves a picture whole
    check = partial(_check_split, reference, options)
    return post("/predict" + _query(options), PNG, encode_png(picture), check)


def predict_batch(random: Random, reference: Reference) -> Request:
    """Send many images as files or JSON; some batches contain an unreadable one."""
    numbers: list[int | None] = [*_numbers(random, reference)]
    if random.random() < 0.3:
        numbers[random.randrange(len(numbers))] = None
    files = [NOT_AN_IMAGE if number is None else reference.pngs[number] for number in numbers]
    content_type, body = random.choice(
        [(FORM, encode_form("images", files)), (JSON, _json_batch(random, files))]
    )
    options = _options(random, reference)
    check = partial(_check_batch, reference, numbers, options)
    return post("/predict_batch" + _query(options), content_type, body, check)


def npy_to_json(random: Random, reference: Reference) -> Request:
    """Send many images as an array."""
    numbers, options = _numbers(random, reference), _options(random, reference)
    check = partial(_check_batch, reference, numbers, options)
    body = encode_npy(reference.images[numbers])
    return post("/predict_batch" + _query(options), NPY, body, check)


def npy_to_npy(random: Random, reference: Reference) -> Request:
    """Send many images as an array, and accept an array."""
    numbers = _numbers(random, reference)
    headers = (("Content-Type", NPY), ("Accept", NPY))
    check = partial(_check_npy, reference.probabilities[numbers])
    return Request("POST", "/predict_batch", headers, encode_npy(reference.images[numbers]), check)


def _json_batch(random: Random, files: Sequence[bytes]) -> bytes:
    texts = map(encode_base64, files)
    return orjson.dumps({"images": [random.choice([text, {"image": text}]) for text in texts]})


def _numbers(random: Random, reference: Reference) -> list[int]:
    """Choose images by their indices."""
    count = random.randint(1, MAX_IMAGES)
    return [random.randrange(len(reference.images)) for _ in range(count)]


def _options(random: Random, reference: Reference) -> dict[str, str]:
    """Choose query options; none in half of the requests."""
    if random.random() < 0.5:
        return {}
    options = {
        "model": random.choice([reference.model.tag, reference.model.name]),
        "top_k": str(random.randint(1, 12)),
        "threshold": f"{random.random():.3f}",
        "normalize": random.choice(["auto", "off"]),
        "lang": random.choice(["en", *reference.card.translations]),
    }
    if reference.outputs.known:
        options["min_familiarity"] = f"{random.random():.3f}"
    if reference.card.conformal:
        options["alpha"] = f"{random.uniform(0.001, 0.999):.3f}"
    return dict(random.sample(list(options.items()), random.randint(1, len(options))))


def _query(options: dict[str, str]) -> str:
    return "?" + urlencode(options) if options else ""


def _check_predict(
    reference: Reference, number: int, options: dict[str, str], reply: Reply
) -> str | None:
    if fault := _check_status(reply):
        return fault
    return _compare_answer(reference, number, options, orjson.loads(reply.body))


def _check_split(reference: Reference, options: dict[str, str], reply: Reply) -> str | None:
    """Check what is true of any symbol: which one is where depends on how ink is cut out."""
    if not reference.card.input.single:
        return None if reply.status == 400 else f"a split by a model of whole pictures: {reply}"
    if fault := _check_status(reply):
        return fault
    body = orjson.loads(reply.body)
    names = set(reference.card.names(options.get("lang", "en")))
    for answer in body["predictions"]:
        left, top, right, bottom = answer["box"]
        shares = answer["probabilities"]
        if not (0 <= left < right <= 1 and 0 <= top < bottom <= 1):
            return f"a box outside the picture: {answer['box']}"
        if not (
            set(shares) <= names and abs(max(shares.values()) - answer["confidence"]) < TOLERANCE
        ):
            return "probabilities of other classes, or another confidence"
        if ("prediction_set" in answer) != ("alpha" in options):
            return "a prediction set without alpha, or none with it"
    return None if body["model"] == reference.model.tag else "another model"


def _check_batch(
    reference: Reference, numbers: Sequence[int | None], options: dict[str, str], reply: Reply
) -> str | None:
    if fault := _check_status(reply):
        return fault
    body = orjson.loads(reply.body)
    answers = body["predictions"]
    if len(answers) != len(numbers):
        return f"{len(answers)} answers to {len(numbers)} images"
    faults = (
        _compare_answer(reference, number, options, {"model": body["model"]} | answer)
        for number, answer in zip(numbers, answers, strict=True)
    )
    return next(filter(None, faults), None)


def _check_npy(expected: Float32Array, reply: Reply) -> str | None:
    return _check_status(reply) or _compare_rows(np.load(io.BytesIO(reply.body)), expected)


def _compare_answer(
    reference: Reference, number: int | None, options: dict[str, str], answer: dict[str, Any]
) -> str | None:
    """Check a native answer to an image, or to `NOT_AN_IMAGE` if `number` is `None`."""
    if number is None:
        return None if answer.get("code") == "invalid_image" else "an answer to an unreadable image"
    names = reference.card.names(options.get("lang", "en"))
    row = reference.probabilities[number]
    index, confidence = int(row.argmax()), float(row.max())
    familiarity = float(reference.outputs.familiarity[number])
    threshold, lowest = (float(options.get(each, 0)) for each in ("threshold", "min_familiarity"))
    is_sure, is_familiar = confidence >= threshold, not familiarity < lowest
    # Then either answer is right.
    is_close = abs(confidence - threshold) <= TOLERANCE or (
        "min_familiarity" in options and abs(familiarity - lowest) <= FAMILIARITY_TOLERANCE
    )
    abstains = not (is_sure and is_familiar) and not is_close
    is_blank = reference.is_blank(number)
    best = (None, None) if abstains or is_blank else (names[index], index)
    actual = answer["probabilities"]
    expected = [row[names.index(name)] for name in actual]
    highest = np.sort(row)[::-1][: int(options["top_k"])] if "top_k" in options else row
    faults = {
        "model": answer["model"] != reference.model.tag,
        "label": (is_blank or not is_close) and (answer["label"], answer["index"]) != best,
        "reason": answer.get("reason") != ("blank" if is_blank else None),
        "familiarity": bool(_compare_familiarity(reference, [number], [answer["familiarity"]])),
        "unfamiliar": _is_wrong_level(reference, familiarity, answer["unfamiliar"]),
        "prediction set": _is_wrong_set(reference, row, options, answer.get("prediction_set")),
        "abstained": not is_close and answer.get("abstained", False) != abstains,
        "confidence": abs(answer["confidence"] - confidence) > TOLERANCE,
        "classes": bool(_compare_rows(np.array(list(actual.values())), highest)),
        "probabilities": bool(_compare_rows(np.array(list(actual.values())), np.array(expected))),
    }
    return ", ".join(f"wrong {what}" for what, is_wrong in faults.items() if is_wrong) or None


def _is_wrong_level(reference: Reference, familiarity: float, unfamiliar: bool) -> bool:
    known = reference.card.familiarity
    if known is None:
        return unfamiliar
    is_close = abs(familiarity - known.level) <= FAMILIARITY_TOLERANCE
    return not is_close and unfamiliar != (familiarity < known.level)


def _is_wrong_set(
    reference: Reference, row: Float32Array, options: dict[str, str], found: list[str] | None
) -> bool:
    """Return whether a set lacks a class, or has one more; those at the limit may be in it."""
    if "alpha" not in options:
        return found is not None
    assert reference.card.conformal is not None
    lowest = reference.card.conformal.lowest(float(options["alpha"]))
    names = reference.card.names(options.get("lang", "en"))
    certain = {name for name, share in zip(names, row, strict=True) if share > lowest + TOLERANCE}
    allowed = {name for name, share in zip(names, row, strict=True) if share >= lowest - TOLERANCE}
    return found is None or not certain <= set(found) <= allowed


def _compare_rows(rows: Any, expected: Any) -> str | None:
    if np.shape(rows) != np.shape(expected):
        return f"probabilities of shape {np.shape(rows)}, not {np.shape(expected)}"
    is_equal = np.allclose(rows, expected, rtol=0, atol=TOLERANCE)
    return None if is_equal else "wrong probabilities"


def _compare_familiarity(reference: Reference, numbers: Sequence[int], actual: Any) -> str | None:
    """Check the familiarity of images; `None` and NaN say that the model does not know it."""
    expected, actual = reference.outputs.familiarity[numbers], np.array(actual, np.float32)
    is_equal = np.allclose(actual, expected, rtol=0, atol=FAMILIARITY_TOLERANCE, equal_nan=True)
    return None if is_equal else "wrong familiarity"


def _check_status(reply: Reply) -> str | None:
    if reply.status == 200:
        return None
    return f"a valid request got {reply.status}: {reply.body[:200]!r}"


# The Open Inference Protocol


def infer(random: Random, reference: Reference) -> Request:
    """Send pixels or picture files, in JSON or after it, and ask for outputs in either form."""
    numbers = _numbers(random, reference)
    encode = random.choice([_pixels, _raw_pixels, _files, _raw_files])
    raw, tensor = encode(reference, numbers)
    known = ["probabilities", "label", "index", *["familiarity"] * reference.outputs.known]
    outputs: list[dict[str, object]] = [
        {"name": name, "parameters": {"binary_data": random.random() < 0.5}}
        for name in random.sample(known, random.randint(0, len(known)))
    ]
    message = {
        "id": "fuzz",
        "inputs": [{"name": "images", **tensor}],
        "outputs": outputs,
        "parameters": {"binary_data_output": random.random() < 0.5},
    }
    head = orjson.dumps(message)
    headers = ((JSON_LENGTH, str(len(head))),) if raw else ()
    version = random.choice(["", f"/versions/{reference.model.version}"])
    target = f"/v2/models/{reference.model.name}{version}/infer"
    check = partial(_check_infer, reference, numbers)
    return Request("POST", target, headers, head + raw, check)


def _pixels(reference: Reference, numbers: Sequence[int]) -> tuple[bytes, dict[str, object]]:
    images = reference.images[numbers]
    return b"", {"datatype": "UINT8", "shape": images.shape, "data": images.tolist()}


def _raw_pixels(reference: Reference, numbers: Sequence[int]) -> tuple[bytes, dict[str, object]]:
    images = reference.images[numbers]
    return images.tobytes(), {
        "datatype": "UINT8",
        "shape": images.shape if images.ndim == 4 else (*images.shape, 1),
        "parameters": {"binary_data_size": images.nbytes},
    }


def _files(reference: Reference, numbers: Sequence[int]) -> tuple[bytes, dict[str, object]]:
    data = [encode_base64(reference.pngs[number]) for number in numbers]
    return b"", {"datatype": "BYTES", "shape": [len(numbers)], "data": data}


def _raw_files(reference: Reference, numbers: Sequence[int]) -> tuple[bytes, dict[str, object]]:
    raw = _length_prefixed([reference.pngs[number] for number in numbers])
    return raw, {
        "datatype": "BYTES",
        "shape": [len(numbers), 1],
        "parameters": {"binary_data_size": len(raw)},
    }


def _length_prefixed(texts: Sequence[bytes]) -> bytes:
    return b"".join(len(text).to_bytes(4, "little") + text for text in texts)


def _check_infer(reference: Reference, numbers: Sequence[int], reply: Reply) -> str | None:
    if fault := _check_status(reply):
        return fault
    end = int(reply.headers.get(JSON_LENGTH.lower().encode(), len(reply.body)))
    answer, raw = orjson.loads(reply.body[:end]), reply.body[end:]
    if (answer["id"], answer["model_version"]) != ("fuzz", reference.model.version):
        return "the answer to another request"
    for output in answer["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size", 0)
        values = output["data"] if "data" in output else raw[:size]
        if fault := _compare_output(reference, numbers, output["name"], values):
            return fault
        raw = raw[size:]
    return "bytes after the last output" if raw else None


def _compare_output(
    reference: Reference, numbers: Sequence[int], name: str, values: bytes | list[Any]
) -> str | None:
    """Check one output, which is a list from JSON or raw bytes."""
    rows = reference.probabilities[numbers]
    blank = [reference.is_blank(number) for number in numbers]
    best = np.where(blank, -1, rows.argmax(axis=1))
    is_raw = isinstance(values, bytes)
    if name == "probabilities":
        actual = np.frombuffer(values, "<f4") if isinstance(values, bytes) else np.array(values)
        return _compare_rows(actual.reshape(rows.shape), rows)
    if name == "familiarity":
        actual = np.frombuffer(values, "<f4") if isinstance(values, bytes) else np.array(values)
        return _compare_familiarity(reference, numbers, actual)
    if name == "index":
        actual = np.frombuffer(values, "<i8") if isinstance(values, bytes) else np.array(values)
        return None if np.array_equal(actual, best) else "wrong index"
    if name != "label":
        return f"an output {name!r} that is not known"
    names = ["" if index < 0 else reference.card.class_names[index] for index in best]
    expected = _length_prefixed([text.encode() for text in names]) if is_raw else names
    return None if values == expected else "wrong label"


# TensorFlow Serving


def instances(random: Random, reference: Reference) -> Request:
    """Send pixels and picture files, by row or by column."""
    numbers = _numbers(random, reference)
    images = [_instance(random, reference, number) for number in numbers]
    body, answer = random.choice(
        [
            ({"instances": images}, "predictions"),
            ({"inputs": images}, "outputs"),
            ({"inputs": {"images": images}}, "outputs"),
        ]
    )
    version = random.choice(["", f"/versions/{reference.model.version}"])
    target = f"/v1/models/{reference.model.name}{version}:predict"
    check = partial(_check_rows, reference.probabilities[numbers], answer)
    return Request("POST", target, (), orjson.dumps(body), check)


def _instance(random: Random, reference: Reference, number: int) -> object:
    pixels = reference.images[number].tolist()
    file = {"b64": encode_base64(reference.pngs[number])}
    return random.choice([pixels, file, {"images": pixels}])


def _check_rows(expected: Float32Array, name: str, reply: Reply) -> str | None:
    return _check_status(reply) or _compare_rows(orjson.loads(reply.body)[name], expected)


# All other routes


def page(random: Random, reference: Reference) -> Request:
    """Send a GET request; the response must contain a word."""
    name, version = reference.model.name, reference.model.version
    v1, v2 = f"/v1/models/{name}", f"/v2/models/{name}"
    pages = {"/models": version, "/metrics": "loupe_requests_total", "/v2": "loupe", "/": "<html"}
    pages |= {"/docs": "<html"}
    healths = ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready")
    pages |= dict.fromkeys(healths, "")
    ends = ("", "/ready", f"/versions/{version}", f"/versions/{version}/ready")
    pages |= {v2 + end: name for end in ends}
    ends = ("", f"/versions/{version}", f"/versions/{version}/metadata", "/labels/latest")
    pages |= {v1 + end: version for end in ends}
    pages |= dict.fromkeys(("/openapi.json", "/docs.json", "/schema.json"), "/predict_batch")
    pages |= {"/static/main.js": ""}
    path, word = random.choice(list(pages.items()))
    return Request("GET", path, (), b"", partial(_check_page, word))


def _check_page(word: str, reply: Reply) -> str | None:
    if fault := _check_status(reply):
        return fault
    return None if word.encode() in reply.body else f"no {word!r} in the response"


VALID: Sequence[Factory] = (
    predict,
    split,
    predict_batch,
    npy_to_json,
    npy_to_npy,
    infer,
    instances,
    page,
)
