"""Flow control with a timeout."""

import asyncio
import math

from uvicorn.protocols.http.flow_control import FlowControl

from service.connections.lingering import LingeringTransport

WRITE_SECONDS = 60  # timeout for a client that reads nothing of its responses


class LimitedFlow(FlowControl):
    """uvicorn's flow control, which disconnects clients that read nothing.

    Args:
        transport: The transport of the connection.
    """

    def __init__(self, transport: LingeringTransport) -> None:
        super().__init__(transport)  # type: ignore[arg-type]
        self._limited = transport
        self._timer: asyncio.TimerHandle | None = None

    def pause_writing(self) -> None:
        """Wait for the client to read, and start the timeout."""
        super().pause_writing()
        self._check_reading(math.inf)

    def resume_writing(self) -> None:
        """Write again, and stop the timeout."""
        super().resume_writing()
        if self._timer is not None:
            self._timer.cancel()

    def _check_reading(self, unread: float) -> None:
        """Disconnect a client that has read nothing since `unread` bytes were left."""
        left = self._limited.get_write_buffer_size()
        if left < unread:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(WRITE_SECONDS, self._check_reading, left)
        else:
            self._limited.reset()
