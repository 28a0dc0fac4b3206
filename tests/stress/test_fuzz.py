"""A short fuzz run against the service, and proofs that the fuzzer notices faults."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import orjson
import pytest

from bench.service.open_loop import run_fast
from loupe.models.store import StoredModel
from tests.stress.fuzz.__main__ import Report, fuzz
from tests.stress.fuzz.cases import make_case
from tests.stress.fuzz.requests import Reference, make_reference
from tests.support.programs import RunningService, serving

Served: TypeAlias = tuple[RunningService, Reference]

REQUESTS = 600
ERROR = b'{"error": "", "code": ""}'


@pytest.fixture(scope="module")
def reference(digits_model: StoredModel) -> Reference:
    return make_reference(digits_model)


@pytest.fixture
def service(
    request: pytest.FixtureRequest,
    digits_model: StoredModel,
    colours_model: StoredModel,
    tmp_path: Path,
) -> Iterator[Served]:
    """Run a service with models of two sizes; one of them is the default."""
    model: StoredModel = request.getfixturevalue(request.param)
    data = tmp_path / "data"
    variables = {"LOUPE_MODEL": model.tag, "LOUPE_DATA_DIR": data, "LOUPE_JOB_ROOTS": tmp_path}
    with serving(tmp_path / "log", **variables) as running:
        yield running, make_reference(model)
        running.process.terminate()  # a killed service would leave its embedded Redis behind
        running.process.wait()


@pytest.mark.parametrize("service", ["digits_model", "colours_model"], indirect=True)
def test_service_answers_or_refuses_every_request(service: Served) -> None:
    running, reference = service
    port, pid = int(running.url.rpartition(":")[2]), running.process.pid
    report = run_fast(fuzz(port, pid, running.log, reference, range(REQUESTS), seed=0))

    assert "\n".join(map(str, report.failures)) == ""
    assert report.kinds.total() == REQUESTS
    assert report.statuses["200"] > REQUESTS / 4


def test_request_depends_only_on_seed_and_number(reference: Reference) -> None:
    assert make_case(reference, 0, 7).pieces == make_case(reference, 0, 7).pieces
    assert make_case(reference, 0, 7).pieces != make_case(reference, 1, 7).pieces


async def fuzz_fake_service(
    response: bytes, reference: Reference, log: Path, log_text: str = ""
) -> Report:
    """Fuzz a server that answers everything alike and closes the connection."""

    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(2**20)
        log.write_text(log_text)
        writer.write(response)
        writer.close()

    log.touch()
    server = await asyncio.start_server(respond, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        return await fuzz(port, os.getpid(), log, reference, range(60), seed=0)


def http(status: int, body: bytes = b"") -> bytes:
    head = f"HTTP/1.1 {status} X\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.mark.parametrize(
    ("response", "fault"),
    [
        pytest.param(b"", "no response (IncompleteReadError)", id="nothing"),
        pytest.param(b"SSH-2.0\r\n\r\n", "a response of another structure", id="not HTTP"),
        pytest.param(http(500), "500: b''", id="500"),
        pytest.param(http(400), "400 without an error in JSON: b''", id="error without JSON"),
        pytest.param(http(422, ERROR), "a valid request got 422", id="refusal"),
        pytest.param(http(200, b"{}"), "a response of another structure (KeyError", id="empty"),
    ],
)
def test_fuzzer_notices_wrong_responses(
    response: bytes, fault: str, reference: Reference, tmp_path: Path
) -> None:
    report = run_fast(fuzz_fake_service(response, reference, tmp_path / "log"))

    faults = [failure.fault for failure in report.failures]
    assert any(fault in each for each in faults), faults
    assert str(report.failures[0]).startswith(f"request {report.failures[0].number}, ")


def test_fuzzer_notices_answer_to_another_image(reference: Reference, tmp_path: Path) -> None:
    names, row = reference.card.class_names, reference.probabilities[0].tolist()
    index = row.index(max(row))
    answer = {
        "model": reference.model.tag,
        "label": names[index],
        "index": index,
        "confidence": max(row),
        "familiarity": float(reference.outputs.familiarity[0]),
        "unfamiliar": True,
        "prediction_set": list(names),
        "probabilities": dict(zip(names, row, strict=True)),
    }
    response = http(200, orjson.dumps(answer))
    report = run_fast(fuzz_fake_service(response, reference, tmp_path / "log"))

    faults = ", ".join(failure.fault for failure in report.failures)
    for fault in ("wrong confidence, ", "wrong unfamiliar, ", "wrong prediction set, "):
        assert fault in faults


def test_fuzzer_notices_traceback_in_log(reference: Reference, tmp_path: Path) -> None:
    text = "Traceback (most recent call last):\n  File x\nKeyError: 1\n"
    response = http(503, ERROR)
    report = run_fast(fuzz_fake_service(response, reference, tmp_path / "log", text))

    assert f"in the log: {text.strip()}" in [failure.fault for failure in report.failures]
