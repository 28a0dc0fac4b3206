"""A service of two processes behind one port."""

import json
import os
import re
import signal
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import psutil
import pytest

from loupe.models.promotion import promote
from loupe.models.store import StoredModel
from tests.support import pictures
from tests.support.programs import RunningService, free_port, serving, until
from tests.support.servers.webhook_receiver import SECRET, Receiver, is_genuine, receiving
from tests.support.stores import copied

DIGIT = pictures.png(pictures.digits(1)[0])
KEY = "the-key-of-alice-0001"
BOB = {"X-API-Key": "the-key-of-bob-000001"}
BOBS_IMAGES = 3  # that he may have classified in a day
REQUESTS = re.compile(r'^loupe_requests_total\{.*model="digits".* (\d+)', re.M)


def processes(service: RunningService) -> list[psutil.Process]:
    return psutil.Process(service.process.pid).children()


def process_of(client: httpx.Client, service: RunningService) -> int:
    """Return the ID of the process that has the client's connection."""
    stream = client.get("/livez").extensions["network_stream"]
    address = stream.get_extra_info("client_addr")
    return next(
        process.pid
        for process in processes(service)
        for connection in process.net_connections("tcp")
        if connection.raddr and tuple(connection.raddr) == tuple(address[:2])
    )


def clients_of_both(service: RunningService, stack: ExitStack) -> dict[int, httpx.Client]:
    """Return a client with a connection to each process, by the ID of the process."""
    clients: dict[int, httpx.Client] = {}

    def connect() -> bool:
        headers = {"X-API-Key": KEY}
        client = httpx.Client(base_url=service.url, timeout=50, headers=headers)
        stack.enter_context(client)
        clients.setdefault(process_of(client, service), client)
        return len(clients) == 2

    until(connect)
    return clients


def answers_with(client: httpx.Client, tag: str) -> bool:
    return bool(client.post("/predict", content=DIGIT).json().get("model") == tag)


def counted(client: httpx.Client) -> int:
    return sum(map(int, REQUESTS.findall(client.get("/metrics").text)))


@pytest.mark.timeout(180)
def test_processes_act_as_one_service(
    store: Path, tmp_path: Path, digits_model: StoredModel
) -> None:
    copied(digits_model, store, "digits:first")
    settings = {
        "BENTOML_HOME": store,
        "LOUPE_PROCESSES": 2,
        "LOUPE_API_KEYS": f"alice:{KEY},bob:{BOB['X-API-Key']}",
        "LOUPE_KEY_LIMITS": f"alice:1000000/day,bob:{BOBS_IMAGES}/day",
        "LOUPE_DATA_DIR": (data := tmp_path / "data"),
        "LOUPE_JOB_ROOTS": data.parent,
        "LOUPE_FOLLOW_SECONDS": 0.05,
        "LOUPE_GRPC_PORT": (grpc_port := free_port()),
        "LOUPE_DRAIN_SECONDS": 50,
        "TMPDIR": tmp_path,
    }
    with ExitStack() as stack:
        receiver = stack.enter_context(receiving())
        settings |= {"LOUPE_WEBHOOK_URL": receiver.url, "LOUPE_WEBHOOK_SECRET": SECRET}
        service = stack.enter_context(serving(tmp_path / "log", **settings))
        clients = clients_of_both(service, stack)
        for process in processes(service):
            assert grpc_port in {each.laddr.port for each in process.net_connections("tcp")}
        for client in clients.values():
            assert answers_with(client, "digits:first")
        for client in clients.values():
            until(lambda: counted(client) == 2)  # noqa: B023 - called at once
            assert 'loupe_key_images_today{key="alice"} 2.0' in client.get("/metrics").text
        _use_up_a_limit([*clients.values()])
        _cancel_a_job([*clients.values()], receiver, tmp_path)

        copied(digits_model, store, "digits:second")
        promote("digits:second", force=True)
        for client in clients.values():
            until(lambda: answers_with(client, "digits:second"))  # noqa: B023 - called at once

        before = counted(next(iter(clients.values())))
        killed, kept = _kill_one_under_load(service, clients)
        until(lambda: len(processes(service)) == 2)
        assert counted(clients[kept]) >= before
        until(lambda: len(clients_of_both(service, stack)) == 2)
        assert killed not in {process.pid for process in processes(service)}

        _stop(service, clients_of_both(service, stack))
        saved = json.loads((data / "key-images.json").read_text())["images"]
        assert sum(saved["bob"].values()) == BOBS_IMAGES
        assert not list(tmp_path.glob("loupe-metrics-*"))
        assert "Traceback" not in service.log.read_text()


def _use_up_a_limit(clients: Sequence[httpx.Client]) -> None:
    """Classify the images that bob may have, with both processes; then both refuse."""
    for number in range(BOBS_IMAGES):
        answer = clients[number % 2].post("/predict", content=DIGIT, headers=BOB)
        assert answer.status_code == 200
    for client in clients:
        refused = client.post("/predict", content=DIGIT, headers=BOB)
        assert (refused.status_code, refused.json()["code"]) == (429, "quota_exceeded")


def _cancel_a_job(clients: Sequence[httpx.Client], receiver: Receiver, folder: Path) -> None:
    """Submit a job to one process and cancel it in the other; one of them sends the webhook."""
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(DIGIT)
    submitted = clients[0].post("/jobs", json={"source": str(folder / "images")})
    assert submitted.status_code == 202
    assert clients[1].delete(f"/jobs/{submitted.json()['id']}").json()["state"] == "cancelled"
    until(lambda: receiver.got)
    for client in clients:
        sent = 'loupe_webhooks_total{outcome="delivered"} 1.0'
        until(lambda: sent in client.get("/metrics").text)  # noqa: B023 - called at once
    ((headers, body),) = receiver.got
    assert is_genuine(headers, body)
    assert json.loads(body)["type"] == "job.cancelled"


def _kill_one_under_load(
    service: RunningService, clients: dict[int, httpx.Client]
) -> tuple[int, int]:
    """Kill a process while clients send requests; only its own may fail, each once."""
    killed, kept = clients
    stop = threading.Event()

    def send(client: httpx.Client) -> tuple[int, int]:
        failed = answered = 0
        while not stop.is_set() or not answered:
            try:
                assert client.post("/predict", content=DIGIT).status_code == 200
                answered += 1
            except (httpx.ReadError, httpx.RemoteProtocolError, httpx.WriteError):
                failed += 1
        return failed, answered

    with ThreadPoolExecutor(3) as pool:
        sent = [pool.submit(send, clients[pid]) for pid in (killed, kept)]
        os.kill(killed, signal.SIGKILL)
        # New connections are answered, also those that the kernel gives to the killed process.
        for _ in range(20):
            assert httpx.get(f"{service.url}/readyz", timeout=50).status_code == 200
        stop.set()
        (failed, _), (others_failed, _) = (each.result() for each in sent)
    assert failed <= 1
    assert others_failed == 0
    return killed, kept


def _stop(service: RunningService, clients: dict[int, httpx.Client]) -> None:
    """Stop the service; both processes answer until they have drained, or a second signal."""
    service.process.send_signal(signal.SIGTERM)
    for client in clients.values():
        until(lambda: client.get("/readyz").status_code == 503)  # noqa: B023 - called at once
        assert answers_with(client, "digits:second")
    service.process.send_signal(signal.SIGTERM)
    assert service.process.wait(50) == 0
