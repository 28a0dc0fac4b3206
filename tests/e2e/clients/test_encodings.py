"""Forms and base64 as libraries of other languages write them."""

import base64
import binascii
import textwrap
from collections.abc import Callable, Iterator
from urllib.parse import quote

import httpx
import pytest

from tests.e2e.clients.conftest import KEY
from tests.support import pictures
from tests.support.programs import PATIENCE_SECONDS, RunningService

DIGIT = pictures.png(pictures.digits(1)[0])
PLAIN = base64.b64encode(DIGIT).decode()
URL_SAFE = base64.urlsafe_b64encode(DIGIT).decode()
BASE64 = {
    "Android's default": base64.encodebytes(DIGIT).decode(),
    "Java's MIME encoder": "\r\n".join(textwrap.wrap(PLAIN, 76)),
    "a shell's final line break": f"{PLAIN}\n",
    "a leading space": f" {PLAIN}",
    "no padding": PLAIN.rstrip("="),
    "URL-safe": URL_SAFE,
    "URL-safe without padding": URL_SAFE.rstrip("="),
    "a data URL": f"data:image/png;base64,{PLAIN}",
    "a data URL in capitals": f"DATA:image/png;base64,{PLAIN}",
    "a data URL with line breaks": f"data:image/png;base64,{base64.encodebytes(DIGIT).decode()}",
    "a URL-safe data URL": f"data:image/png;base64,{URL_SAFE}",
    "a data URL after a space": f" data:image/png;base64,{PLAIN}",
    "a data URL with parameters": f'Data:Image/PNG;name="a,b.png";charset=utf-8;BASE64,{PLAIN}',
    "a data URL without its type": f"data:;base64,{PLAIN}",
    "an escaped data URL": f"data:image/png;base64,{quote(PLAIN, safe='')}",
    "Java's MIME encoder without padding": "\r\n".join(textwrap.wrap(PLAIN, 76)).rstrip("="),
    "indented lines": "\n\t".join(textwrap.wrap(PLAIN, 76)),
}
ROUTES: dict[str, Callable[[str], object]] = {
    "/predict": lambda text: {"image": text},
    "/predict_batch": lambda text: {"images": [text]},
    "/v1/models/digits:predict": lambda text: {"instances": [{"b64": text}]},
    "/v2/models/digits/infer": lambda text: {
        "inputs": [{"name": "images", "datatype": "BYTES", "shape": [1], "data": [text]}]
    },
}
DISPOSITIONS = {
    ".NET": "Content-Type: image/png\r\nContent-Disposition: form-data; name=image",
    ".NET with a file name": "Content-Type: image/png\r\n"
    "Content-Disposition: form-data; name=image; filename=a.png; filename*=utf-8''a.png",
    "no file name": 'Content-Disposition: form-data; name="image"\r\nContent-Type: image/png',
    "OkHttp": 'Content-Disposition: form-data; name="image"; filename="a.png"\r\n'
    f"Content-Type: image/png\r\nContent-Length: {len(DIGIT)}",
    "Apache HttpClient": 'Content-Disposition: form-data; name="image"; filename="a.png"\r\n'
    "Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: binary",
    ".NET without a type": "Content-Disposition: form-data; name=image",
    "an encoded file name": "Content-Disposition: form-data; name=image; filename*=utf-8''%C3%A4",
    "folded": 'content-disposition: FORM-DATA; name="image";\r\n filename="a.png"',
}
ENCODED = {
    "BASE64": base64.encodebytes(DIGIT),
    "quoted-printable": binascii.b2a_qp(DIGIT, istext=False),
}
BOUNDARIES = ["multipart/form-data; boundary={}", 'multipart/form-data; boundary="{}"']


@pytest.fixture(scope="module")
def caller(guarded: RunningService) -> Iterator[httpx.Client]:
    headers = {"X-API-Key": KEY}
    with httpx.Client(base_url=guarded.url, headers=headers, timeout=PATIENCE_SECONDS) as caller:
        yield caller


def without_id(answer: httpx.Response) -> dict[str, object]:
    found: dict[str, object] = answer.json()
    return {name: value for name, value in found.items() if name != "id"}


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("variant", BASE64)
def test_base64_of_common_encoders_is_read(caller: httpx.Client, route: str, variant: str) -> None:
    answer = caller.post(route, json=ROUTES[route](BASE64[variant]))
    plain = caller.post(route, json=ROUTES[route](PLAIN))

    assert plain.status_code == 200
    assert (answer.status_code, without_id(answer)) == (200, without_id(plain))


@pytest.mark.parametrize("text", ["a b", "a+b c", "ä", "b'aGk='", "a", "", "aGk=aGk="])
def test_other_base64_is_refused(caller: httpx.Client, text: str) -> None:
    answer = caller.post("/predict", json={"image": text})

    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_image")


def test_spaces_of_a_form_in_base64_are_refused(caller: httpx.Client) -> None:
    answer = caller.post("/predict", json={"image": PLAIN.replace("+", " ")})

    assert "+" in PLAIN
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_image")


@pytest.mark.parametrize("content_type", BOUNDARIES)
@pytest.mark.parametrize("disposition", DISPOSITIONS)
def test_forms_of_common_libraries_are_read(
    caller: httpx.Client, disposition: str, content_type: str
) -> None:
    boundary = "5e41b7a2-7d21-4f0f-a7b5-2f1f6c3e9d10"  # .NET takes a GUID
    parts = f"--{boundary}\r\n{DISPOSITIONS[disposition]}\r\n\r\n".encode()
    body = b"%b%b\r\n--%b--\r\n" % (parts, DIGIT, boundary.encode())

    headers = {"Content-Type": content_type.format(boundary)}
    answer = caller.post("/predict", content=body, headers=headers)

    assert answer.status_code == 200, answer.text
    assert answer.json() == caller.post("/predict", content=DIGIT).json()


@pytest.mark.parametrize("encoding", ENCODED)
def test_encoded_parts_of_mail_libraries_are_decoded(caller: httpx.Client, encoding: str) -> None:
    head = b"--x\r\nContent-Disposition: form-data; name=images\r\nContent-Transfer-Encoding: "
    parts = (ENCODED[encoding], b"=C3 no picture", ENCODED[encoding])
    body = b"".join(b"%b%b\r\n\r\n%b\r\n" % (head, encoding.encode(), each) for each in parts)

    headers = {"Content-Type": "multipart/form-data; boundary=x"}
    response = caller.post("/predict_batch", content=body + b"--x--", headers=headers)

    first, wrong, last = response.json()["predictions"]
    assert wrong["code"] == "invalid_image"
    plain = caller.post("/predict", content=DIGIT).json()
    for answer in (first, last):
        assert answer["probabilities"] == pytest.approx(plain["probabilities"], abs=1e-5)
