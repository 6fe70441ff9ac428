"""An HL7 v2 receiver as a destination: ORU^R01 over MLLP, plain or TLS, one message at a time.

Responsible for the connection and for what an acknowledgement means. The message is made in ``oru``.

Original acknowledgement mode (v2.5.1 2.9.2): AA, AE or AR; from receivers that answer in enhanced mode also CA, CE, CR.
What the receiver writes into the text of its answer may quote the patient: only codes go into a reason or a log.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import socket
import ssl
import time
from collections import deque

from edgeward.clinic.imaging.header import host_zone
from edgeward.clinic.imaging.oru import Parties, build_oru, control_id
from edgeward.clinic.imaging.sink import Interrupted, Receipt, Rejected, Result, Sink, Unreachable, require_patient
from edgeward.clinic.imaging.source import Source
from edgeward.config import Hl7
from edgeward.hl7 import er7
from edgeward.hl7.er7 import Message, NotHl7
from edgeward.hl7.frames import Deframer, TooLarge, frame
from edgeward.messages import DeliverRequest

_log = logging.getLogger("edgeward.deliver.hl7")

CONNECT_S = 5.0  # TCP and TLS
PROBE_S = 2.0
MAX_ANSWER = 65_536  # bytes
_REMEMBERED = 64
_TAKEN = {"AA", "CA"}
_FAILED = {"AE", "CE", "AR", "CR"}
_PASSING = {"206", "207"}  # table 0357: record locked, application internal error; the next try may succeed


class Hl7Sink(Sink):
    """One receiver.

    Parameters
    ----------
    hl7
        Address, names and time limit.
    facility
        Our own, MSH-4.
    tls
        The context to connect with, or None for plain MLLP.
    """

    takes = frozenset({"oru"})

    def __init__(self, hl7: Hl7, facility: str, tls: ssl.SSLContext | None = None) -> None:
        self.name = hl7.name
        self._hl7 = hl7
        self._tls = tls
        self._parties = Parties(facility, hl7.application, hl7.facility)
        self._connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._answers = Deframer(MAX_ANSWER)
        self._received: list[bytes] = []
        self._acknowledged: deque[str] = deque(maxlen=_REMEMBERED)  # on this connection

    @property
    def replaces(self) -> bool:
        """See `Sink.replaces`: a receiver files what comes last."""
        return True

    async def compose(self, request: DeliverRequest, source: Source) -> Result:
        """See `Sink.compose`."""
        require_patient(source)
        data = build_oru(request, source, host_zone(request.finding.created_ns), self._parties)
        return Result("oru", data=data, identifier=control_id(request))

    async def open(self) -> bool:
        """See `Sink.open`."""
        if self._connection is not None:
            reader, writer = self._connection
            if not reader.at_eof() and not writer.is_closing():
                return False
            await self._drop()
        where = f"{self._hl7.host}:{self._hl7.port}"
        host = self._hl7.host if self._tls is not None else None
        connected = False
        try:
            async with asyncio.timeout(CONNECT_S):
                self._connection = await asyncio.open_connection(
                    self._hl7.host, self._hl7.port, ssl=self._tls, server_hostname=host
                )
        except ssl.SSLCertVerificationError as error:
            raise Unreachable(
                f"{where}: its certificate is not trusted ({error.verify_message})", connected=True
            ) from None
        except ssl.SSLError as error:
            raise Unreachable(f"{where}: no TLS ({error.reason or 'handshake failed'})", connected=True) from None
        except TimeoutError:
            connected = await self.answers()
            raise Unreachable(f"cannot connect to {where}: no answer", connected=connected) from None
        except OSError as error:
            connected = self._tls is not None and await self.answers()
            why = error.strerror or type(error).__name__
            raise Unreachable(f"cannot connect to {where}: {why}", connected=connected) from None
        raw = self._connection[1].get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._answers, self._received = Deframer(MAX_ANSWER), []
        self._acknowledged.clear()
        return True

    async def send(self, result: Result) -> Receipt:
        """See `Sink.send`."""
        fresh = await self.open()
        try:
            return await self._exchange(result)
        except _Gone as error:
            # A connection may have been closed at the other end since its last use. That is no failure of the result,
            # and should the message have arrived, its control id tells the receiver that it comes again.
            if fresh:
                raise Interrupted(str(error)) from None
        await self.open()
        try:
            return await self._exchange(result)
        except _Gone as error:
            raise Interrupted(str(error)) from None

    async def answers(self) -> bool:
        """See `Sink.answers`: whether the port takes a TCP connection."""
        try:
            async with asyncio.timeout(PROBE_S):
                _, writer = await asyncio.open_connection(self._hl7.host, self._hl7.port)
        except OSError:
            return False
        writer.close()
        return True

    async def rest(self) -> None:
        """See `Sink.rest`."""
        await self._drop()

    async def close(self) -> None:
        """See `Sink.close`."""
        await self._drop()

    # ------------------------------------ within

    async def _exchange(self, result: Result) -> Receipt:
        assert self._connection is not None
        _, writer = self._connection
        try:
            async with asyncio.timeout(self._hl7.timeout_s):
                writer.write(frame(result.data))
                await writer.drain()
                answer = await self._answer_to(result.identifier)
        except TimeoutError:
            await self._drop()  # or a late answer would be taken for the next message's
            raise Interrupted(f"it did not acknowledge within {self._hl7.timeout_s:g} s") from None
        except (ConnectionError, ssl.SSLError, OSError) as error:
            await self._drop()
            raise _Gone(f"the connection broke ({type(error).__name__})") from None
        except BaseException:
            await self._drop()
            raise
        return _judge(answer, time.time_ns())

    async def _answer_to(self, identifier: str) -> Message:
        """Return the acknowledgement of this message.

        A receiver in enhanced mode may acknowledge twice, on receipt and on application; the second is passed over.

        Raises
        ------
        Interrupted
            If what comes is none, or is that of a message never sent: the two sides are out of step.
        """
        while True:
            try:
                answer = er7.parse((await self._next_answer()).decode("latin-1"))  # only codes are looked at: ASCII
            except NotHl7:
                raise Interrupted("it answers with something that is not HL7") from None
            msa = answer.first("MSA")
            if msa is None:
                raise Interrupted("it answers without an acknowledgement (MSA)")
            if msa.text(2) == identifier:
                self._acknowledged.append(identifier)
                return answer
            if msa.text(2) not in self._acknowledged:
                raise Interrupted("it acknowledges another message than the one that was sent")

    async def _next_answer(self) -> bytes:
        assert self._connection is not None
        while not self._received:
            data = await self._connection[0].read(65_536)
            if not data:
                raise _broken(self._answers.inside)
            try:
                self._received = self._answers.feed(data)
            except TooLarge:
                raise Interrupted("it answers with something that is not MLLP") from None
        return self._received.pop(0)

    async def _drop(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        writer = connection[1]
        writer.close()
        with contextlib.suppress(OSError, TimeoutError):
            async with asyncio.timeout(1.0):
                await writer.wait_closed()


class _Gone(Exception):
    """The connection ended before an answer began."""


def _broken(inside: bool) -> Exception:
    return Interrupted("it hung up in the middle of its answer") if inside else _Gone("it hung up without an answer")


def _judge(answer: Message, stored_ns: int) -> Receipt:
    """Return the receipt that an acknowledgement stands for (MSA-1, HL7 table 0008).

    Raises
    ------
    Rejected
        If the receiver refuses the message.
    Interrupted
        If it names trouble of its own that may pass (ERR-3, table 0357).
    """
    msa, err = answer.first("MSA"), answer.first("ERR")
    code = msa.text(1).upper() if msa is not None else ""
    if code in _TAKEN:
        return Receipt(stored_ns)
    if code not in _FAILED:
        raise Interrupted("it acknowledges with a code that does not exist")
    condition = err.text(3) if err is not None else ""
    named = f", error {condition}" if re.fullmatch(r"[0-9]{1,5}", condition) else ""
    if condition in _PASSING:
        raise Interrupted(f"it could not take the message ({code}{named})")
    raise Rejected(f"it refuses the message ({code}{named})")
