"""Bodies of photos, received where they stay: on its way through uvicorn, every byte of a body is copied five times."""

import asyncio
import io
from collections.abc import Callable

from uvicorn.protocols.http.flow_control import FlowControl


class LongBody(asyncio.BufferedProtocol):
    """Stands in for a connection while the rest of a long body comes.

    Args:
        begun: What has come of the body.
        length: Of the whole body, in bytes; more than have come.
        count: Is told how many bytes come.
        flow: Stops reading at the end of the body: what follows is for the connection.
        connection: Is told of all but what comes.

    Attributes:
        ended: Done when the body has come whole, or its caller has gone.
    """

    def __init__(
        self,
        begun: bytes,
        length: int,
        count: Callable[[int], None],
        flow: FlowControl,
        connection: asyncio.Protocol,
    ) -> None:
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count = count
        self._flow = flow
        self._connection = connection
        self._file = io.BytesIO()  # which gives its bytes away without a copy, unlike a bytearray
        self._file.seek(length - 1)
        self._file.write(b"\0")
        self._file.seek(0)
        self._file.write(begun)
        self._room = self._file.getbuffer()[len(begun) :]

    def take(self) -> bytes:
        """The body, which is not kept here: the transport may keep this protocol as long as the connection stays."""
        self._room = memoryview(b"")
        body = self._file.getvalue()
        self._file = io.BytesIO()
        return body

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where to put what comes."""
        return self._room

    def buffer_updated(self, nbytes: int) -> None:
        """So much has come."""
        self._count(nbytes)
        self._room = self._room[nbytes:]
        if not self._room:
            self._flow.pause_reading()
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The caller has gone."""
        self._connection.connection_lost(exc)
        self._end()

    def pause_writing(self) -> None:
        """The caller does not take what is sent."""
        self._connection.pause_writing()

    def resume_writing(self) -> None:
        """The caller takes it again."""
        self._connection.resume_writing()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)
