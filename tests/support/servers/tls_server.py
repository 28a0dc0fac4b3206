"""A file server and a proxy over TLS with a self-signed certificate. Some answers are hostile."""

import asyncio
import datetime
import ipaddress
import ssl
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles

from tests.support.programs import free_port, until

HOST = "127.0.0.1"
FORBIDDEN = "/forbidden"  # every file below it is answered with 403
REDIRECTED = "/redirected"  # followed by the URL that it redirects to
LONGER = "/longer"  # a file of 1,000 bytes, of which any part has 64 MB


@contextmanager
def serving(folder: Path, certificates: Path) -> Iterator[tuple[str, Path]]:
    """Serve a folder while the block runs; yield its URL and the certificate to trust.

    Args:
        folder: The files to serve.
        certificates: An empty folder for the certificate and its key.
    """
    certificate, key = make_certificate(certificates)
    port = free_port()
    config = uvicorn.Config(
        Starlette(
            routes=[
                Route(f"{FORBIDDEN}/{{name}}", _forbid),
                Route(f"{REDIRECTED}/{{target:path}}", _redirect),
                Route(f"{LONGER}/{{name}}", _send_more),
                Mount("/", StaticFiles(directory=folder)),
            ]
        ),
        host=HOST,
        port=port,
        ssl_certfile=certificate,
        ssl_keyfile=key,
        log_config=None,
        lifespan="off",
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        until(lambda: server.started)
        yield f"https://{HOST}:{port}", certificate
    finally:
        server.should_exit = True
        thread.join()


@contextmanager
def tls_proxy(port: int, certificates: Path) -> Iterator[tuple[int, Path]]:
    """Forward TLS connections to a port of this machine while the block runs.

    Yields:
        The port of the proxy, and the certificate to trust.
    """
    certificate, key = make_certificate(certificates)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(2**16):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_reader, to_writer = await asyncio.open_connection(HOST, port)
        await asyncio.gather(copy(reader, to_writer), copy(to_reader, writer))

    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    start = asyncio.start_server(forward, HOST, 0, ssl=context)
    server = asyncio.run_coroutine_threadsafe(start, loop).result()
    try:
        yield server.sockets[0].getsockname()[1], certificate
    finally:

        async def stop() -> None:
            server.close()
            connections = asyncio.all_tasks() - {asyncio.current_task()}
            for connection in connections:
                connection.cancel()
            await asyncio.gather(*connections, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _forbid(request: Request) -> Response:
    raise HTTPException(403)


async def _redirect(request: Request) -> Response:
    return RedirectResponse(request.path_params["target"])


async def _send_more(request: Request) -> Response:
    if request.method == "HEAD":
        return Response(headers={"Content-Length": "1000", "Accept-Ranges": "bytes"})

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(2**20)
            await asyncio.sleep(0)

    return StreamingResponse(chunks(), 206, {"Content-Range": "bytes 0-999/1000"})


def make_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a self-signed certificate for this machine and its key; return both paths."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Loupe's tests")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    files[1].write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return files
