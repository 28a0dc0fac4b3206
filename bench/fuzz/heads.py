"""Wrong heads: headers, options, paths and methods that there are none of. HTTP itself is in order."""

import json
from collections.abc import Sequence
from dataclasses import replace
from random import Random
from urllib.parse import quote

from bench.fuzz.bodies import NAMES, NUMBERS, check, latin
from bench.fuzz.known import FORM, JSON, JSON_LENGTH, NPY, PNG, Known, Maker, Request
from bench.fuzz.right import RIGHT, predict, predict_batch

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "PROPFIND", "LOCK", "PURGE")
TYPES = (
    *(
        JSON,
        NPY,
        PNG,
        FORM,
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "text/plain",
        "image/",
        "/",
        ";",
        "",
    ),
    *("application/json; charset=utf-16", "application/x-www-form-urlencoded", "application/vnd.bentoml+pickle", "é"),
)


def wrong_headers(random: Random, known: Known) -> Request:
    """A right request with headers that are none, too many, too long or twice."""
    request = random.choice(RIGHT)(random, known)
    name, value = random.choice(
        [
            ("Content-Type", random.choice(TYPES)),
            ("Content-Encoding", random.choice(["gzip", "identity", "br", "x"])),
            ("X-Request-Timeout", random.choice([*NUMBERS, "0.000001", "0.001", "0.01"])),
            ("X-Request-ID", random.choice(["a" * 129, "a b", "\u00e9", "", "{}", "%s", "a\tb"])),
            ("Accept", random.choice(["*/*", NPY, "text/html", "", ",;q=", "x" * 5000])),
            (JSON_LENGTH, random.choice(NUMBERS)),
            ("Authorization", random.choice(["Bearer", "Bearer x", "Basic x", "\u00e9"])),
            ("Origin", random.choice(["null", "http://example.com", "*"])),
            ("Host", random.choice(["", "x" * 300, "[::1", "a b"])),
            ("X-Padding", "x" * random.choice([100, 8_000, 31_000, 33_000, 60_000])),
            ("Cookie", "a=b; " * random.choice([1, 5_000])),
            ("Range", "bytes=0-1"),
            ("Forwarded", "for=1.2.3.4"),
        ]
    )
    return replace(
        request, headers=(*request.headers, *[(name, latin(value))] * random.choice([1, 1, 2, 100])), check=check
    )


def wrong_query(random: Random, known: Known) -> Request:
    """Options that there are none of, or values that they cannot have."""
    request = random.choice([predict, predict_batch])(random, known)
    options = {
        "top_k": NUMBERS,
        "threshold": NUMBERS,
        "normalize": ("on", "", "AUTO"),
        "lang": ("xx", "", "EN", "ja", "é"),
        "model": NAMES,
        "x": NAMES,
    }
    pairs = [
        (name, random.choice(values)) for name, values in random.choices(list(options.items()), k=random.randint(1, 4))
    ]
    query = "&".join(name + random.choice(["=", "=", "=", ""]) + quote(value, safe="%=;:.") for name, value in pairs)
    return replace(request, target=f"{request.target.partition('?')[0]}?{query}", check=check)


def wrong_path(random: Random, known: Known) -> Request:
    """Models that there are none of, and paths that lead nowhere."""
    request = random.choice(RIGHT)(random, known)
    path = request.target.partition("?")[0]
    name, more = (quote(random.choice(NAMES), safe="%:.*") for _ in range(2))
    target = random.choice(
        [
            path + random.choice(["/", "//", "/..", ":predict", "%00", "%", "/" + name]),
            path.upper(),
            path.replace(known.model.name, name or "x"),
            path.replace(known.model.version, name or "x"),
            f"/{name}/{more}",
            f"/models/{name}/report",
            f"/models/{known.model.tag}/report",
            f"/jobs/{name}",
            f"/jobs/{name}/{random.choice(['events', 'errors', 'results', more])}?format={more}",
            f"/static_content/{name}",
            f"/static_content/..%2f{more}",
            f"/v1/models/{known.model.name}/labels/{name}:predict",
            f"/v2/models/{name}/versions/{more}/infer",
            "/" * random.choice([1, 2, 3000]),
        ]
    )
    return replace(request, target=target, check=check)


def wrong_method(random: Random, known: Known) -> Request:
    """What a path is not made for; some is answered all the same."""
    request = random.choice(RIGHT)(random, known)
    return replace(request, method=random.choice(METHODS), check=check)


def wrong_job(random: Random, known: Known) -> Request:
    """Jobs that cannot be: sources outside of the allowed folders, and what no job has."""
    about = {
        "source": random.choice(
            [*NAMES, "/etc", "/etc/passwd", "../..", "~", "s3://bucket/key", "/proc/self/mem", 7, None]
        ),
        "model": random.choice([known.model.tag, *NAMES]),
        random.choice(["format", "top_k", "threshold", "single", "shard_images", *NAMES]): random.choice(
            [*NAMES, -1, 1e99, []]
        ),
    }
    return Request("POST", "/jobs", (("Content-Type", JSON),), json.dumps(about).encode(), check)


HEADS: Sequence[Maker] = (wrong_headers, wrong_query, wrong_path, wrong_method, wrong_job)
