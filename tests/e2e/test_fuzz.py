"""Requests of all kinds in disorder: the service answers what is right, refuses what is wrong, and stays; and the fuzz notices if not."""

import asyncio
import os
from pathlib import Path

import orjson
import pytest

from bench.fuzz.__main__ import Seen, fuzz
from bench.fuzz.http import make_case
from bench.fuzz.known import Known, learn
from bench.open_loop import run
from loupe.store import StoredModel
from tests.programs import RunningService

REQUESTS = 3_000


@pytest.fixture(scope="module")
def known(digits_model: StoredModel) -> Known:
    return learn(digits_model)


def test_whatever_comes_the_service_answers_rightly_or_refuses(service: RunningService, known: Known) -> None:
    port = int(service.url.rpartition(":")[2])
    seen = run(fuzz(port, service.process.pid, service.log, known, range(REQUESTS), seed=0))

    assert "\n".join(map(str, seen.failures)) == ""
    assert seen.kinds.total() == REQUESTS
    assert seen.statuses["200"] > REQUESTS / 4


def test_a_request_depends_on_nothing_but_its_number(known: Known) -> None:
    assert make_case(known, 0, 7).pieces == make_case(known, 0, 7).pieces
    assert make_case(known, 0, 7).pieces != make_case(known, 1, 7).pieces


async def fuzz_a_service_that_says(answer: bytes, known: Known, log: Path, says: str = "") -> Seen:
    """Fuzz a server that answers everything alike and ends the connection."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(2**20)
        log.write_text(says)
        writer.write(answer)
        writer.close()

    log.touch()
    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        return await fuzz(server.sockets[0].getsockname()[1], os.getpid(), log, known, range(60), seed=0)


def http(status: int, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        pytest.param(b"", "no answer (IncompleteReadError)", id="nothing"),
        pytest.param(b"SSH-2.0\r\n\r\n", "an answer of another shape", id="no HTTP"),
        pytest.param(http(500), "500: b''", id="500"),
        pytest.param(http(400), "400 without an error in JSON: b''", id="error in other words"),
        pytest.param(http(422, b'{"error": "", "code": ""}'), "a right request got 422", id="refusal"),
        pytest.param(http(200, b"{}"), "an answer of another shape (KeyError", id="empty answer"),
    ],
)
def test_a_service_that_answers_otherwise_is_noticed(answer: bytes, what: str, known: Known, tmp_path: Path) -> None:
    seen = run(fuzz_a_service_that_says(answer, known, tmp_path / "log"))

    assert any(what in failure.what for failure in seen.failures), [failure.what for failure in seen.failures]
    assert str(seen.failures[0]).startswith(f"request {seen.failures[0].number}, ")


def test_an_answer_to_another_s_image_is_noticed(known: Known, tmp_path: Path) -> None:
    names, row = known.card.class_names, known.probabilities[0].tolist()
    index = row.index(max(row))
    told = {
        "label": names[index],
        "index": index,
        "confidence": max(row),
        "probabilities": dict(zip(names, row, strict=True)),
    }
    body = orjson.dumps({"model": known.model.tag, **told})
    seen = run(fuzz_a_service_that_says(http(200, body), known, tmp_path / "log"))

    assert any("wrong confidence, " in failure.what for failure in seen.failures)


def test_a_traceback_in_the_log_is_noticed(known: Known, tmp_path: Path) -> None:
    says = "Traceback (most recent call last):\n  File x\nKeyError: 1\n"
    seen = run(fuzz_a_service_that_says(http(503, b'{"error": "", "code": ""}'), known, tmp_path / "log", says))

    assert f"in the log: {says.strip()}" in [failure.what for failure in seen.failures]
