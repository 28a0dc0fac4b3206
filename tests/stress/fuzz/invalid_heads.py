"""Requests in valid HTTP with invalid headers, options, paths or methods."""

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from random import Random
from urllib.parse import quote

import orjson

from bench.inputs import JSON, JSON_LENGTH, NPY, PNG
from bench.service.open_loop import Reply
from tests.stress.fuzz.invalid_bodies import NAMES, NUMBERS, as_header, check_refusal
from tests.stress.fuzz.requests import FORM, Factory, Reference, Request, post
from tests.stress.fuzz.valid import VALID, predict, predict_batch

METHODS = [
    "GET",
    "HEAD",
    "POST",
    "PUT",
    "DELETE",
    "PATCH",
    "OPTIONS",
    "TRACE",
    "PROPFIND",
    "LOCK",
    "PURGE",
]
TYPES = [JSON, NPY, PNG, FORM, "multipart/form-data", "multipart/form-data; boundary="]
TYPES += ["text/plain", "image/", "/", ";", "", "é", "application/json; charset=utf-16"]
TYPES += ["application/x-www-form-urlencoded", "application/vnd.bentoml+pickle"]
HEADERS: dict[str, Sequence[str]] = {
    "Content-Type": TYPES,
    "Content-Encoding": ["gzip", "identity", "br", "x"],
    "X-Request-Timeout": [*NUMBERS, "0.000001", "0.001", "0.01"],
    "X-Request-ID": ["a" * 129, "a b", "\u00e9", "", "{}", "%s", "a\tb"],
    "Accept": ["*/*", NPY, "text/html", "", ",;q=", "x" * 5000],
    JSON_LENGTH: NUMBERS,
    "Authorization": ["Bearer", "Bearer x", "Basic x", "\u00e9"],
    "Origin": ["null", "http://example.com", "*"],
    "Host": ["", "x" * 300, "[::1", "a b"],
    "X-Padding": ["x" * length for length in (100, 8_000, 31_000, 33_000, 60_000)],
    "Cookie": ["a=b; ", "a=b; " * 5_000],
    "Range": ["bytes=0-1"],
    "Forwarded": ["for=1.2.3.4"],
}
# Headers that browsers send, and the code of the refusal if another origin's page caused them.
BROWSERS: Sequence[tuple[dict[str, str], str | None]] = (
    ({"Sec-Fetch-Site": "same-origin", "Origin": "http://127.0.0.1"}, None),
    ({"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}, None),
    ({"Origin": "http://127.0.0.1"}, None),
    ({"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"}, "origin_forbidden"),
    ({"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:8000"}, "origin_forbidden"),
    ({"Sec-Fetch-Site": "cross-site", "Origin": "http://127.0.0.1"}, "origin_forbidden"),
    ({"Origin": "https://evil.example"}, "origin_forbidden"),
    ({"Origin": "null"}, "origin_forbidden"),
    ({"Host": "evil.example"}, "host_forbidden"),
    ({"Host": "127.0.0.1.evil.example:3000"}, "host_forbidden"),
)
MAX_QUERY_BYTES = 25_000
OPTIONS: dict[str, Sequence[str]] = {
    "top_k": NUMBERS,
    "threshold": NUMBERS,
    "normalize": ("on", "", "AUTO"),
    "lang": ("xx", "", "EN", "ja", "é"),
    "model": NAMES,
    "x": NAMES,
}


def wrong_headers(random: Random, reference: Reference) -> Request:
    """Add an invalid, long or repeated header to a valid request."""
    request = random.choice(VALID)(random, reference)
    name, values = random.choice(list(HEADERS.items()))
    header = (name, as_header(random.choice(values)))
    headers = (*request.headers, *[header] * random.choice([1, 1, 2, 100]))
    return replace(request, headers=headers, check=check_refusal)


def wrong_query(random: Random, reference: Reference) -> Request:
    """Send unknown options and invalid values."""
    request = random.choice([predict, predict_batch])(random, reference)
    options = random.choices(list(OPTIONS.items()), k=random.randint(1, 4))
    query = "&".join(
        name + random.choice(["=", "=", "=", ""]) + quote(random.choice(values), safe="%=;:.")
        for name, values in options
    )
    return replace(
        request, target=f"{request.target.partition('?')[0]}?{query}", check=check_refusal
    )


def wrong_path(random: Random, reference: Reference) -> Request:
    """Send a request to an unknown model or route."""
    request = random.choice(VALID)(random, reference)
    path = request.target.partition("?")[0]
    name, more = (quote(random.choice(NAMES), safe="%:.*") for _ in range(2))
    target = random.choice(
        [
            path + random.choice(["/", "//", "/..", ":predict", "%00", "%", "/" + name]),
            path.upper(),
            path.replace(reference.model.name, name or "x"),
            path.replace(reference.model.version, name or "x"),
            f"/{name}/{more}",
            f"/models/{name}/report",
            f"/models/{reference.model.tag}/report",
            f"/jobs/{name}",
            f"/jobs/{name}/{random.choice(['events', 'errors', 'results', more])}?format={more}",
            f"/static/{name}",
            f"/static/..%2f{more}",
            f"/v1/models/{reference.model.name}/labels/{name}:predict",
            f"/v2/models/{name}/versions/{more}/infer",
            "/" * random.choice([1, 2, 3000]),
        ]
    )
    return replace(request, target=target, check=check_refusal)


def wrong_method(random: Random, reference: Reference) -> Request:
    """Send a random method, which the route may support."""
    request = random.choice(VALID)(random, reference)
    return replace(request, method=random.choice(METHODS), check=check_refusal)


def wrong_job(random: Random, reference: Reference) -> Request:
    """Submit a job with a forbidden source or an invalid option."""
    sources = [*NAMES, "/etc", "/etc/passwd", "../..", "~", "s3://bucket/key", "/proc/self/mem"]
    options = ["format", "top_k", "threshold", "single", "shard_images", *NAMES]
    job = {
        "source": random.choice([*sources, 7, None]),
        "model": random.choice([reference.model.tag, *NAMES]),
        random.choice(options): random.choice([*NAMES, -1, 1e99, []]),
    }
    return post("/jobs", JSON, json.dumps(job).encode(), check_refusal)


def from_a_browser(random: Random, reference: Reference) -> Request:
    """Send what pages of this service, of other origins, or of foreign names would."""
    request = random.choice([predict, predict_batch])(random, reference)
    headers, code = random.choice(BROWSERS)
    if code == "host_forbidden":
        return replace(request, host=headers["Host"], check=partial(check_code, code))
    check = request.check if code is None else partial(check_code, code)
    return replace(request, headers=(*request.headers, *headers.items()), check=check)


def check_code(code: str, reply: Reply) -> str | None:
    """Check that the request was refused with a code."""
    if reply.status == 403 and orjson.loads(reply.body)["code"] == code:
        return None
    return f"{reply.status} instead of {code}: {reply.body[:200]!r}"


def many_options(random: Random, reference: Reference) -> Request:
    """Send a query with many, long or repeated options."""
    request = predict(random, reference)
    name = random.choice(["a", "model", "top_k", "x" * 1000])
    query = random.choice(
        [
            f"{name}&" * random.choice([2, 1000]),
            f"{name}={'9' * random.choice([5000, 20_000])}",
            "&".join(f"{name}{number}=1" for number in range(1000)),
        ]
    )
    target = f"{request.target.partition('?')[0]}?{query[:MAX_QUERY_BYTES]}"
    return replace(request, target=target, check=check_refusal)


INVALID_HEADS: Sequence[Factory] = (
    from_a_browser,
    many_options,
    wrong_headers,
    wrong_query,
    wrong_path,
    wrong_method,
    wrong_job,
)
