"""How a simulated system asks the site by HL7 v2: one connection, MLLP over TLS, one message at a time.

Responsible for the connection and for waiting for the acknowledgement. Not responsible for what is asked, nor for
asking again (``emr``, ``bedside_monitor``).
"""

from __future__ import annotations

import asyncio
import ssl

from edgeward.device.enrolment import Enrolment
from edgeward.hl7 import er7
from edgeward.hl7.frames import Deframer, TooLarge, frame

_LARGEST = 1 << 20  # bytes of an acknowledgement
_ANSWER_S = 15.0

BROKEN = (OSError, TimeoutError, ssl.SSLError, er7.NotHl7, TooLarge)
"""What `Line.ask` raises when it has no answer: hang up, wait, and ask again."""


class Line:
    """A connection to the site's HL7 listener, opened when it is first needed."""

    def __init__(self, enrolment: Enrolment) -> None:
        self._enrolment = enrolment
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, text: str) -> str:
        """Send a message and return the acknowledgement code of the answer (MSA-1), empty if it has none.

        Raises
        ------
        OSError, TimeoutError, ssl.SSLError, NotHl7, TooLarge
            If there is no answer (`BROKEN`).
        """
        async with asyncio.timeout(_ANSWER_S):
            if self._stream is None:
                address = self._enrolment.require_mllp()
                self._stream = await asyncio.open_connection(
                    address.host, address.port, ssl=self._enrolment.context(), server_hostname=address.host
                )
            reader, writer = self._stream
            writer.write(frame(text.encode()))
            await writer.drain()
            deframer = Deframer(_LARGEST)
            while data := await reader.read(1 << 16):
                for encoded in deframer.feed(data):
                    told = er7.parse(encoded.decode("utf-8", "replace")).first("MSA")
                    return told.text(1) if told else ""
            raise ConnectionResetError("the site hung up")

    def hang_up(self) -> None:
        """Close the connection; the next question opens another."""
        if self._stream is not None:
            self._stream[1].close()
            self._stream = None
