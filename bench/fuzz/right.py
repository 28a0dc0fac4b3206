"""Right requests of every kind, whose answers are known: what nobody may be refused, or told wrongly."""

import io
from collections.abc import Sequence
from functools import partial
from random import Random
from typing import Any
from urllib.parse import urlencode

import numpy as np
import orjson

from bench.connection import Reply
from bench.fuzz.known import FORM, JSON, JSON_LENGTH, NPY, PNG, Known, Maker, Request, b64, form, npy
from loupe.card import ModelCard
from loupe.images import Float32Array

MOST_IMAGES = 12  # of one request
TOLERANCE = 1e-5  # probabilities of one image, computed in batches of different sizes
NO_PICTURE = b"no picture"

# Loupe's own protocol


def predict(random: Random, known: Known) -> Request:
    """One image, in any form, with any options."""
    place = random.randrange(len(known.images))
    png = known.pngs[place]
    content_type, body = random.choice(
        [
            (PNG, png),
            ("application/octet-stream", png),
            (JSON, orjson.dumps({"image": b64(png)})),
            (JSON, orjson.dumps({"image": "data:image/png;base64," + b64(png)})),
            (JSON, orjson.dumps({"pixels": known.images[place].tolist()})),
            (FORM, form("image", [png])),
        ]
    )
    options = _options(random, known)
    check = partial(_check_predict, known, place, options)
    return Request("POST", "/predict" + _query(options), (("Content-Type", content_type),), body, check)


def predict_batch(random: Random, known: Known) -> Request:
    """Many images, in files or JSON; some of them cannot be read."""
    places: list[int | None] = [*_places(random, known)]
    if random.random() < 0.3:
        places[random.randrange(len(places))] = None
    files = [NO_PICTURE if place is None else known.pngs[place] for place in places]
    content_type, body = random.choice([(FORM, form("images", files)), (JSON, _json_batch(random, files))])
    options = _options(random, known)
    check = partial(_check_batch, known, places, options)
    return Request("POST", "/predict_batch" + _query(options), (("Content-Type", content_type),), body, check)


def npy_to_json(random: Random, known: Known) -> Request:
    """Many images as an array."""
    places, options = _places(random, known), _options(random, known)
    check = partial(_check_batch, known, places, options)
    headers = (("Content-Type", NPY),)
    return Request("POST", "/predict_batch" + _query(options), headers, npy(known.images[places]), check)


def npy_to_npy(random: Random, known: Known) -> Request:
    """Many images as an array, answered by an array."""
    places = _places(random, known)
    headers = (("Content-Type", NPY), ("Accept", NPY))
    return Request(
        "POST", "/predict_batch", headers, npy(known.images[places]), partial(_check_npy, known.probabilities[places])
    )


def _json_batch(random: Random, files: Sequence[bytes]) -> bytes:
    return orjson.dumps({"images": [random.choice([b64(file), {"image": b64(file)}]) for file in files]})


def _places(random: Random, known: Known) -> list[int]:
    return [random.randrange(len(known.images)) for _ in range(random.randint(1, MOST_IMAGES))]


def _options(random: Random, known: Known) -> dict[str, str]:
    """None at all in half of the requests."""
    if random.random() < 0.5:
        return {}
    options = {
        "model": random.choice([known.model.tag, known.model.name]),
        "top_k": str(random.randint(1, 12)),
        "threshold": f"{random.random():.3f}",
        "normalize": random.choice(["auto", "off"]),
        "lang": random.choice(["en", *known.card.translations]),
    }
    return dict(random.sample(list(options.items()), random.randint(1, len(options))))


def _query(options: dict[str, str]) -> str:
    return "?" + urlencode(options) if options else ""


def _check_predict(known: Known, place: int, options: dict[str, str], reply: Reply) -> str | None:
    return _not_ok(reply) or _unlike(known, place, options, orjson.loads(reply.body))


def _check_batch(known: Known, places: Sequence[int | None], options: dict[str, str], reply: Reply) -> str | None:
    if wrong := _not_ok(reply):
        return wrong
    answers = orjson.loads(reply.body)["predictions"]
    if len(answers) != len(places):
        return f"{len(answers)} answers to {len(places)} images"
    model = {"model": orjson.loads(reply.body)["model"]}
    wrongs = [_unlike(known, place, options, model | told) for place, told in zip(places, answers, strict=True)]
    return next(filter(None, wrongs), None)


def _check_npy(expected: Float32Array, reply: Reply) -> str | None:
    return _not_ok(reply) or _unlike_rows(np.load(io.BytesIO(reply.body)), expected)


def _unlike(known: Known, place: int | None, options: dict[str, str], answer: dict[str, Any]) -> str | None:
    """What is wrong with Loupe's own answer to one image, or to what is none."""
    if place is None:
        return None if answer.get("code") == "invalid_image" else "an answer to what is no picture"
    names, row = known.card.names(options.get("lang", "en")), known.probabilities[place]
    index, confidence = int(row.argmax()), float(row.max())
    threshold = float(options.get("threshold", 0))
    abstains = confidence < threshold and abs(confidence - threshold) > TOLERANCE
    best = (None, None) if abstains else (names[index], index)
    told = answer["probabilities"]
    expected = [row[names.index(name)] for name in told]
    highest = np.sort(row)[::-1][: int(options["top_k"])] if "top_k" in options else row
    wrongs = {
        "model": answer["model"] != known.model.tag,
        "label": abs(confidence - threshold) > TOLERANCE and (answer["label"], answer["index"]) != best,
        "abstained": answer.get("abstained", False) != abstains and abs(confidence - threshold) > TOLERANCE,
        "confidence": abs(answer["confidence"] - confidence) > TOLERANCE,
        "classes": bool(_unlike_rows(np.array(list(told.values())), highest)),
        "probabilities": bool(_unlike_rows(np.array(list(told.values())), np.array(expected))),
    }
    return ", ".join(f"wrong {what}" for what, wrong in wrongs.items() if wrong) or None


def _unlike_rows(rows: Any, expected: Any) -> str | None:
    if np.shape(rows) != np.shape(expected):
        return f"probabilities of shape {np.shape(rows)}, not {np.shape(expected)}"
    return None if np.allclose(rows, expected, rtol=0, atol=TOLERANCE) else "wrong probabilities"


def _not_ok(reply: Reply) -> str | None:
    return None if reply.status == 200 else f"a right request got {reply.status}: {reply.body[:200]!r}"


# The Open Inference Protocol


def infer(random: Random, known: Known) -> Request:
    """Pixels or pictures, in JSON or behind it, for some of the outputs in either form."""
    places = _places(random, known)
    raw, tensor = random.choice([_pixels, _raw_pixels, _pictures, _raw_pictures])(known, places)
    outputs: list[dict[str, object]] = [
        {"name": name, "parameters": {"binary_data": random.random() < 0.5}}
        for name in random.sample(["probabilities", "label", "index"], random.randint(0, 3))
    ]
    parameters = {"binary_data_output": random.random() < 0.5}
    head = orjson.dumps(
        {"id": "fuzz", "inputs": [{"name": "images", **tensor}], "outputs": outputs, "parameters": parameters}
    )
    headers = ((JSON_LENGTH, str(len(head))),) if raw else ()
    version = random.choice(["", f"/versions/{known.model.version}"])
    target = f"/v2/models/{known.model.name}{version}/infer"
    return Request("POST", target, headers, head + raw, partial(_check_infer, known, places))


def _pixels(known: Known, places: Sequence[int]) -> tuple[bytes, dict[str, object]]:
    images = known.images[places]
    return b"", {"datatype": "UINT8", "shape": images.shape, "data": images.tolist()}


def _raw_pixels(known: Known, places: Sequence[int]) -> tuple[bytes, dict[str, object]]:
    images = known.images[places]
    size = {"binary_data_size": images.nbytes}
    return images.tobytes(), {"datatype": "UINT8", "shape": (*images.shape, 1), "parameters": size}


def _pictures(known: Known, places: Sequence[int]) -> tuple[bytes, dict[str, object]]:
    return b"", {"datatype": "BYTES", "shape": [len(places)], "data": [b64(known.pngs[place]) for place in places]}


def _raw_pictures(known: Known, places: Sequence[int]) -> tuple[bytes, dict[str, object]]:
    raw = b"".join(len(known.pngs[place]).to_bytes(4, "little") + known.pngs[place] for place in places)
    return raw, {"datatype": "BYTES", "shape": [len(places), 1], "parameters": {"binary_data_size": len(raw)}}


def _check_infer(known: Known, places: Sequence[int], reply: Reply) -> str | None:
    if wrong := _not_ok(reply):
        return wrong
    end = int(reply.headers.get(JSON_LENGTH.lower().encode(), len(reply.body)))
    answer, raw = orjson.loads(reply.body[:end]), reply.body[end:]
    if (answer["id"], answer["model_version"]) != ("fuzz", known.model.version):
        return "another's answer"
    rows = known.probabilities[places]
    for output in answer["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size", 0)
        wrong = _unlike_output(known.card, rows, output["name"], output["data"] if "data" in output else raw[:size])
        if wrong:
            return wrong
        raw = raw[size:]
    return "bytes behind the last output" if raw else None


def _unlike_output(card: ModelCard, rows: Float32Array, name: str, values: bytes | list[Any]) -> str | None:
    """What is wrong with one output, which came as JSON has it or raw."""
    best = rows.argmax(axis=1)
    if name == "probabilities":
        told = np.frombuffer(values, "<f4") if isinstance(values, bytes) else np.array(values)
        return _unlike_rows(told.reshape(rows.shape), rows)
    if name == "index":
        told = np.frombuffer(values, "<i8") if isinstance(values, bytes) else np.array(values)
        return None if np.array_equal(told, best) else "wrong index"
    names = [card.class_names[place] for place in best]
    texts = b"".join(len(text.encode()).to_bytes(4, "little") + text.encode() for text in names)
    return None if values == (texts if isinstance(values, bytes) else names) else "wrong label"


# TensorFlow Serving


def instances(random: Random, known: Known) -> Request:
    """Pixels and pictures, row by row or as a column."""
    places = _places(random, known)
    images = [
        random.choice(
            [known.images[place].tolist(), {"b64": b64(known.pngs[place])}, {"images": known.images[place].tolist()}]
        )
        for place in places
    ]
    body, answer = random.choice(
        [
            ({"instances": images}, "predictions"),
            ({"inputs": images}, "outputs"),
            ({"inputs": {"images": images}}, "outputs"),
        ]
    )
    version = random.choice(["", f"/versions/{known.model.version}"])
    target = f"/v1/models/{known.model.name}{version}:predict"
    return Request("POST", target, (), orjson.dumps(body), partial(_check_rows, known.probabilities[places], answer))


def _check_rows(expected: Float32Array, name: str, reply: Reply) -> str | None:
    return _not_ok(reply) or _unlike_rows(orjson.loads(reply.body)[name], expected)


# All else


def page(random: Random, known: Known) -> Request:
    """Whatever can be asked for without an image."""
    name, version = known.model.name, known.model.version
    v1, v2 = f"/v1/models/{name}", f"/v2/models/{name}"
    path, word = random.choice(
        [
            ("/models", version),
            ("/metrics", "loupe_requests_total"),
            *((health, "") for health in ("/livez", "/readyz", "/healthz", "/v2/health/live", "/v2/health/ready")),
            *((v2 + end, name) for end in ("", "/ready", f"/versions/{version}", f"/versions/{version}/ready")),
            *(
                (v1 + end, version)
                for end in ("", f"/versions/{version}", f"/versions/{version}/metadata", "/labels/latest")
            ),
            ("/v2", "loupe"),
            ("/", "<html"),
            ("/openapi.json", "/predict_batch"),
            ("/docs.json", "/predict_batch"),
            ("/schema.json", "/predict_batch"),
            ("/static_content/page.js", ""),
        ]
    )
    return Request("GET", path, (), b"", partial(_check_page, word))


def _check_page(word: str, reply: Reply) -> str | None:
    return _not_ok(reply) or (None if word.encode() in reply.body else f"no {word!r} in the answer")


RIGHT: Sequence[Maker] = (predict, predict_batch, npy_to_json, npy_to_npy, infer, instances, page)
