"""The HL7 v2 door: MLLP over TLS 1.3 with client certificates; a plain listener only when a legacy system is listed.

Responsible for connections (who, how many, until when), framing, character sets, and for answering every message with
the acknowledgement it asks for; what a message means is a handler's, chosen by MSH-9. A message is acknowledged only
after its handler returned, so what a handler has made durable is durable before the sender knows.

Not acknowledged at all is only what wants no acknowledgement (MSH-15 and MSH-16 both ``NE``) and what arrives when the
connection is gone. The messages of one connection are handled one after another, in order; connections at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import hashlib
import logging
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from edgeward.config import Settings
from edgeward.gateway.addresses import same_address
from edgeward.gateway.doorstep import WAITING, Doorstep
from edgeward.gateway.quarantine import Quarantine
from edgeward.hl7 import acknowledgement, charset, er7
from edgeward.hl7.acknowledgement import Answer, Code, Outcome
from edgeward.hl7.er7 import Message, NotHl7
from edgeward.hl7.frames import Deframer, TooLarge, frame
from edgeward.home import Home
from edgeward.privacy.database import DatabaseError, DatabaseFull
from edgeward.privacy.identity import device_of, server_context, uri_of
from edgeward.privacy.registry import Registry

_log = logging.getLogger("edgeward.gateway.mllp")

KINDS = ("emr", "monitor", "other")  # who may speak HL7 to us
_MESSAGE_S = 30.0  # a message that was begun must be complete within this
_ENFORCE_S = 0.5
_CLOSE_S = 5.0
_PIECE = 1 << 16
_CONTROL_ID = re.compile(rb"[\w.:-]{1,199}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Sender:
    """Who is at the other end of a connection."""

    device_id: str
    address: str


Handler = Callable[[Message, Sender, int], Awaitable[Answer]]
"""Called with a message, its sender, and when its last byte had arrived (ns). A `DatabaseError` is answered with AE."""


@dataclass(eq=False, slots=True)
class _Connection:
    writer: asyncio.StreamWriter
    sender: Sender
    fingerprint: str
    task: asyncio.Task[None] | None


class MllpDoor:
    """The listeners and their connections. Lives in the event loop.

    Parameters
    ----------
    handlers
        By message code and event (``ORM^O01``); several may share a handler.
    """

    def __init__(
        self,
        home: Home,
        settings: Settings,
        *,
        registry: Registry,
        quarantine: Quarantine,
        handlers: Mapping[str, Handler],
        count: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._home, self._settings, self._site = home, settings.mllp, settings.site.name
        self._registry, self._quarantine, self._count = registry, quarantine, count
        self._handlers = dict(handlers)
        self._codes = {key.split("^")[0] for key in handlers}
        self._doorsteps: list[Doorstep] = []
        self._live: set[_Connection] = set()
        self._enforcing: asyncio.Task[None] | None = None
        self.ports: dict[str, int] = {}
        self.last_seen_ns: dict[str, int] = {}

    @property
    def connections(self) -> int:
        """Number of connections now."""
        return len(self._live)

    async def open(self) -> None:
        """Start to listen.

        Raises
        ------
        OSError
            If a port is taken.
        IdentityError
            If our certificate is missing.
        """
        context = server_context(self._home, "gateway")
        try:
            await self._listen("tls", self._settings.port, context)
            if self._settings.legacy:
                await self._listen("plain", self._settings.legacy_port, None)
        except BaseException:
            await self.close()
            raise
        self._enforcing = asyncio.create_task(self._enforce())

    async def close(self) -> None:
        """Stop listening and end every connection; a message without its acknowledgement is the sender's to repeat."""
        if self._enforcing:
            self._enforcing.cancel()
        for doorstep in self._doorsteps:
            doorstep.close()
            await doorstep.wait_closed()
        self._doorsteps.clear()
        # Cut, not cancelled: a message that is being kept is kept whole, and its sender will repeat it.
        for one in self._live:
            one.writer.transport.abort()
        if tasks := [one.task for one in self._live if one.task]:
            await asyncio.wait(tasks, timeout=_CLOSE_S)

    def warnings(self) -> list[str]:
        """Return what people should know about how open the door is."""
        return [
            f"system {entry.name} may send HL7 without encryption from {entry.address}"
            for entry in self._settings.legacy
        ]

    async def _listen(self, door: str, port: int, context: ssl.SSLContext | None) -> None:
        family = socket.AF_INET6 if ":" in self._settings.host else socket.AF_INET
        listener = socket.create_server((self._settings.host, port), family=family, backlog=WAITING)
        listener.setblocking(False)

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._connected(reader, writer, secured=context is not None)

        def welcome() -> asyncio.BaseProtocol:
            return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=_PIECE), connected)

        def refused(address: str, reason: str) -> None:
            self._refuse(address, reason, "let the system use its enrolment, or list it under [[mllp.legacy]]")

        self._doorsteps.append(Doorstep(listener, context, welcome, refused))
        self.ports[door] = listener.getsockname()[1]

    # ------------------------------------------------------------ connections

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, secured: bool) -> None:
        address = str((writer.get_extra_info("peername") or ("unknown",))[0])
        try:
            found = self._secured(writer, address) if secured else self._plain(address)
            if found is None or not self._has_room(found[0]):
                return
            connection = _Connection(writer, *found, asyncio.current_task())
            self._live.add(connection)
            try:
                await self._converse(reader, connection)
            finally:
                self._live.discard(connection)
        except (OSError, asyncio.IncompleteReadError) as error:
            _log.debug("an HL7 connection broke: %s", type(error).__name__)
        finally:
            writer.close()
            with contextlib.suppress(OSError, asyncio.TimeoutError, ssl.SSLError):
                async with asyncio.timeout(1.0):
                    await writer.wait_closed()

    def _secured(self, writer: asyncio.StreamWriter, address: str) -> tuple[Sender, str] | None:
        tls = writer.get_extra_info("ssl_object")
        device_id = device_of(self._site, uri_of(tls.getpeercert()))
        fingerprint = hashlib.sha256(tls.getpeercert(binary_form=True) or b"").hexdigest()
        if reason := self._objection(device_id, fingerprint):
            self._refuse(device_id or address, *reason)
            return None
        return Sender(device_id, address), fingerprint

    def _plain(self, address: str) -> tuple[Sender, str] | None:
        for entry in self._settings.legacy:
            if same_address(entry.address, address):
                return Sender(entry.name, address), ""
        self._refuse(
            address,
            "HL7 without TLS from an address that is not listed",
            "let the system use TLS 1.3 with its certificate, or list it under [[mllp.legacy]]",
        )
        return None

    def _objection(self, device_id: str, fingerprint: str) -> tuple[str, str] | None:
        self._registry.refresh()
        device = self._registry.by_id(device_id) if device_id else None
        if device is None:
            return (
                "its certificate names no device that is enrolled here",
                "enrol it: edgeward device enroll NAME --kind emr",
            )
        if device.revoked:
            return "the system is revoked", "find out why it still sends; to let it in again, enrol it anew"
        if device.fingerprint != fingerprint:
            return "it presents another certificate than it was enrolled with", "install the newest enrolment on it"
        if device.kind not in KINDS:
            return (
                f"a device of kind {device.kind} does not speak HL7",
                "enrol the system with --kind emr, monitor or other",
            )
        return None

    def _has_room(self, sender: Sender) -> bool:
        most = self._settings.max_connections
        own = sum(one.sender.device_id == sender.device_id for one in self._live)
        if len(self._live) < most and own < max(2, most // 2):
            return True
        self._refuse(
            sender.device_id,
            "too many HL7 connections at once",
            "let the system close what it does not use, or raise mllp.max_connections",
        )
        return False

    async def _enforce(self) -> None:
        """Cut the connections of systems that are revoked, twice a second."""
        while True:
            await asyncio.sleep(_ENFORCE_S)
            for one in list(self._live):
                if one.fingerprint and self._objection(one.sender.device_id, one.fingerprint):
                    _log.warning("system %s is not in force any more: its connection is cut", one.sender.device_id)
                    one.writer.transport.abort()

    def _refuse(self, peer: str, reason: str, what_to_do: str) -> None:
        self._count("hl7_refused")
        self._quarantine.note("hl7", peer, reason, what_to_do)

    # ------------------------------------------------------------ messages

    async def _converse(self, reader: asyncio.StreamReader, connection: _Connection) -> None:
        deframer = Deframer(self._settings.max_message_kb << 10)
        sender = connection.sender
        loop = asyncio.get_running_loop()
        begun = 0.0
        while True:
            # A message that was begun has a time limit of its own, however slowly its bytes trickle.
            patience = begun + _MESSAGE_S - loop.time() if deframer.inside else self._settings.idle_timeout_s
            try:
                async with asyncio.timeout(max(0.0, patience)):
                    data = await reader.read(_PIECE)
            except TimeoutError:
                if deframer.inside:
                    self._refuse(sender.device_id, "an HL7 message was begun and not finished", "look at the system")
                return
            if not data:
                return
            inside = deframer.inside
            try:
                messages = deframer.feed(data)
            except TooLarge as error:
                self._refuse(sender.device_id, f"HL7: {error}", "raise mllp.max_message_kb if such messages are meant")
                await self._send(connection, acknowledgement.unreadable(str(error), "", _now()).encode())
                return
            if deframer.inside and (messages or not inside):
                begun = loop.time()
            for encoded in messages:
                received_ns = time.time_ns()
                self.last_seen_ns[sender.device_id] = received_ns
                answer = await self._handle(encoded, sender, received_ns)
                if answer is not None:
                    await self._send(connection, answer)

    async def _send(self, connection: _Connection, answer: bytes) -> None:
        if connection.writer.is_closing():  # writing to a transport that is gone is an error of the program in uvloop
            raise ConnectionResetError("the peer is gone")
        connection.writer.write(frame(answer))
        async with asyncio.timeout(_MESSAGE_S):  # a peer that does not read its answers holds nothing for ever
            await connection.writer.drain()

    async def _handle(self, encoded: bytes, sender: Sender, received_ns: int) -> bytes | None:
        self._count("hl7_messages")
        try:
            text, codec = charset.decode(encoded)
            message = er7.parse(text, codec)
        except NotHl7 as error:
            self._refuse(sender.device_id, f"a message is not HL7 v2: {error}", "look at what the system sends")
            return acknowledgement.unreadable(str(error), _control_id(encoded), _now()).encode()
        answer = await self._answer(message, sender, received_ns)
        if answer.outcome is not Outcome.ACCEPTED or answer.code is not None:
            key = f"{message.code}^{message.event}"
            kind = key if key in self._handlers else "a message"
            where = f" ({answer.where})" if answer.where else ""
            self._refuse(
                sender.device_id,
                f"{kind} was answered {answer.outcome}: {answer.text}{where}",
                "look at what the system sends"
                if answer.outcome is Outcome.ACCEPTED or answer.partly
                else "nothing of it was kept",
            )
        code = acknowledgement.due(message, answer.outcome)
        if not code:
            return None
        return charset.encode(acknowledgement.write(message, answer, code, _now()), codec)

    async def _answer(self, message: Message, sender: Sender, received_ns: int) -> Answer:
        if message.header.name != "MSH":
            return Answer(
                Outcome.REJECTED, "batches are not taken; send the messages one by one", Code.UNSUPPORTED_TYPE, "MSH-9"
            )
        if not message.code:
            return Answer(Outcome.REJECTED, "the message type is missing", Code.FIELD_MISSING, "MSH-9")
        if not message.control_id:
            return Answer(Outcome.REJECTED, "the message control id is missing", Code.FIELD_MISSING, "MSH-10")
        handler = self._handlers.get(f"{message.code}^{message.event}")
        if handler is None and message.code in self._codes:
            return Answer(Outcome.REJECTED, "this event is not taken here", Code.UNSUPPORTED_EVENT, "MSH-9")
        if handler is None:
            return Answer(Outcome.REJECTED, "this message type is not taken here", Code.UNSUPPORTED_TYPE, "MSH-9")
        if message.version and not message.version.startswith("2"):
            return Answer(Outcome.REJECTED, "this version is not known here", Code.UNSUPPORTED_VERSION, "MSH-12")
        try:
            return await handler(message, sender, received_ns)
        except DatabaseFull:
            return Answer(Outcome.ERROR, "the disk is full; nothing was kept, send it again later", Code.INTERNAL)
        except DatabaseError as error:
            _log.error("a message could not be kept: %s", error)
            return Answer(Outcome.ERROR, "it could not be kept; send it again later", Code.INTERNAL)
        except Exception as error:
            # Only the type: the text of an unforeseen error may quote the message.
            _log.error("an HL7 message failed: %s", type(error).__name__)
            return Answer(Outcome.ERROR, f"it could not be processed ({type(error).__name__})", Code.INTERNAL)


def _control_id(encoded: bytes) -> str:
    """Return MSH-10 as far as it can be seen in what could not be parsed."""
    line = re.split(rb"[\r\n]", encoded.lstrip(b"\r\n\t "), maxsplit=1)[0]
    fields = line.split(line[3:4], 10) if line.startswith(b"MSH") and len(line) > 3 else []
    found = fields[9] if len(fields) > 9 else b""
    return found.decode("ascii") if _CONTROL_ID.fullmatch(found) else ""


def _now() -> dt.datetime:
    return dt.datetime.now().astimezone()
