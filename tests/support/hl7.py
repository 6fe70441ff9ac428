"""An HL7 v2 receiver for tests: MLLP, every message parsed and validated by hl7apy, every answer a test's to decide."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hl7apy.consts import VALIDATION_LEVEL
from hl7apy.core import Message
from hl7apy.parser import parse_message

from edgeward.config import Hl7
from tests.support.site import free_port

START, END = b"\x0b", b"\x1c\r"


def read(data: bytes) -> Message:
    """Parse and validate a message as the standard's own grammar has it; raise if it is not valid."""
    message = parse_message(data.decode(), validation_level=VALIDATION_LEVEL.STRICT, find_groups=True)
    message.validate(report_file=str(Path("/dev/null")))
    return message


def acknowledge(data: bytes, code: str = "AA", *, control: str = "", error: str = "", text: str = "") -> bytes:
    """Return the framed acknowledgement of a message."""
    asked = control or data.split(b"\r")[0].split(b"|")[9].decode()
    segments = [
        "MSH|^~\\&|EMR|HOSPITAL|EDGEWARD|hospital|20260101000000||ACK^R01^ACK|A1|P|2.5.1",
        f"MSA|{code}|{asked}|{text}",
    ]
    if error:
        segments.append(f"ERR|||{error}|E||||{text}")
    return START + "".join(f"{segment}\r" for segment in segments).encode() + END


Reply = Callable[[bytes, int], bytes | None]


@dataclass
class Receiver:
    """Takes messages in a thread of its own. `reply(message, n)` gives the bytes to answer the n-th with; None: hang up.

    It may block.
    """

    reply: Reply = lambda data, n: acknowledge(data)
    tls: ssl.SSLContext | None = None
    check: bool = True
    port: int = field(default_factory=free_port)
    received: list[bytes] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    connections: int = 0
    _loop: Any = None
    _thread: Any = None
    _writers: list[Any] = field(default_factory=list)
    _tasks: list[Any] = field(default_factory=list)

    def start(self) -> None:
        started = threading.Event()
        failure: list[BaseException] = []

        async def serve() -> None:
            self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
            try:
                server = await asyncio.start_server(self._connected, "127.0.0.1", self.port, ssl=self.tls)
            except OSError as error:
                failure.append(error)
                started.set()
                return
            started.set()
            async with server:
                await self._stop.wait()
                server.close()
                for writer in self._writers:
                    writer.transport.abort()
                if self._tasks:
                    await asyncio.wait(self._tasks, timeout=2)

        self._thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
        self._thread.start()
        started.wait(10)
        if failure:
            raise failure[0]

    def stop(self) -> None:
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(10)
            self._loop = None

    def hang_up(self) -> None:
        """Close every connection from this side."""
        for writer in self._writers:
            self._loop.call_soon_threadsafe(writer.close)

    def settings(self, name: str = "his", **changes: Any) -> Hl7:
        values = {"name": name, "host": "127.0.0.1", "port": self.port, "timeout_s": 5.0, **changes}
        return Hl7(**values)

    def latest(self) -> dict[str, bytes]:
        """Return the last message per control id, as a receiver that recognises repeats keeps them."""
        return {data.split(b"\r")[0].split(b"|")[9].decode(): data for data in self.received}

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._tasks.append(asyncio.current_task())
        self._writers.append(writer)
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            while True:
                data = (await reader.readuntil(END))[1 : -len(END)]
                if self.check:
                    try:
                        read(data)
                    except Exception as error:
                        self.problems.append(f"{type(error).__name__}: {error}")
                n = len(self.received)
                self.received.append(data)
                answer = await asyncio.to_thread(self.reply, data, n)
                if answer is None:
                    break
                writer.write(answer)
                await writer.drain()
        writer.close()


@contextlib.contextmanager
def receiver(**options: Any) -> Iterator[Receiver]:
    his = Receiver(**options)
    his.start()
    try:
        yield his
    finally:
        his.stop()
