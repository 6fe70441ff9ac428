"""When a connection that brings a stream of small messages is read: for a few milliseconds' worth at once.

Responsible for pausing the connection's socket after a read for `GATHER_S`, or for as long as is said, while what comes
waits in the kernel. One wake-up then takes some dozen messages. A connection that is behind is not paused. Parsing is
``bulk``.
"""

from __future__ import annotations

import asyncio
from typing import Any

from edgeward.bus import lean  # noqa: F401

# isort: split

from nats.aio.client import DEFAULT_BUFFER_SIZE, Client

#: Messages that arrive within this time are taken together; by so much, at most, each is later than it could be.
GATHER_S = 0.004
#: A read that brought this much, the most there is, is not the last: the rest is taken without a pause.
FULL_BYTES = DEFAULT_BUFFER_SIZE
WINDOW_S = 1.0


class Reading:
    """The pauses of one connection.

    Parameters
    ----------
    client : Client
    loop : AbstractEventLoop
    """

    def __init__(self, client: Client, loop: asyncio.AbstractEventLoop) -> None:
        self.gather_s = GATHER_S
        self._client = client
        self._loop = loop
        self._paused: Any = None  # the transport that is paused
        self._since = loop.time()
        self._read = self._of_full = 0  # bytes since then, and those that came in full reads
        self._was_full = False

    def took(self, size: int) -> None:
        """Take it that one read brought `size` bytes, and messages in them: pause."""
        self._read += size
        if size >= FULL_BYTES:
            self._of_full += size
        if self._paused is not None or size >= FULL_BYTES:
            return
        # The library keeps the socket's own transport below that of TLS; without it nothing is paused, and all works.
        writer = getattr(getattr(self._client, "_transport", None), "_bare_io_writer", None)
        transport = getattr(writer, "transport", None)
        if transport is None or transport.is_closing():
            return
        transport.pause_reading()
        self._paused = transport
        self._loop.call_later(self.gather_s, self._resume)

    @property
    def full(self) -> bool:
        """Whether in the last second or so there was nearly always more than was read at once."""
        now = self._loop.time()
        if now - self._since >= WINDOW_S:
            self._was_full = self._of_full > 0.5 * self._read
            self._since, self._read, self._of_full = now, 0, 0
        return self._was_full

    def _resume(self) -> None:
        transport, self._paused = self._paused, None
        if transport is not None and not transport.is_closing():
            transport.resume_reading()
