"""One association: the acceptor's state machine (PS3.8, 9.2), C-ECHO and C-STORE, with our own data path.

Responsible for the protocol between the first byte of a connection and its last: negotiation, messages, release, abort,
time limits. A data set goes from the socket to where it is kept while it arrives (``gateway.reception``). Not
responsible for who may associate or for what is told about it (`Host`, which is ``gateway.dicom``), nor for the
requests that services answer (``gateway.conversation``).

An association runs in a thread of its own, which sleeps in the kernel while nothing arrives.
"""

from __future__ import annotations

import struct
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from edgeward.gateway import command as dimse
from edgeward.gateway.admission import Peer, Refusal, Rejection
from edgeward.gateway.command import Command
from edgeward.gateway.conversation import Conversation
from edgeward.gateway.dimse import DimseService, Operation
from edgeward.gateway.express import Express
from edgeward.gateway.negotiation import APPLICATION_CONTEXT, Context, Unacceptable, read_request
from edgeward.gateway.reception import NOWHERE, Arrival, Prepared, Values
from edgeward.gateway.wire import Broken, Ended, Gone, Interrupted, PlainWire, TooSlow, Wire
from edgeward.privacy.lane import Lane
from edgeward.privacy.vaultfile import Buffers

MAX_PDU = 131_072  # the largest that dcmtk sends; larger ones gain nothing
_REQUEST_LIMIT = 1 << 20  # an A-ASSOCIATE-RQ has no announced limit; real ones stay below 64 KB
_ACSE_S = 15.0  # a connection that asks for no association within this is closed
_LINGER_S = 2.0  # for the peer to close after our last word
_SERVICE_DATA = 4 << 20  # bytes of a data set that a service is given

_RQ, _AC, _RJ, _DATA, _RELEASE, _RELEASED, _ABORT = range(1, 8)
_COMMAND, _LAST = 1, 2  # message control header (PS3.8, E.2)
_NO_APPLICATION_CONTEXT: Rejection = (1, 1, 2)
_NO_PROTOCOL_VERSION: Rejection = (1, 2, 2)

# Reasons of an A-ABORT by the service provider (PS3.8, Table 9-26).
_UNRECOGNISED_PDU, _UNEXPECTED_PDU, _INVALID_VALUE = 1, 2, 6
_PDV = struct.Struct(">LBB")
_PDU = struct.Struct(">BxL")
_PDU_PDV = struct.Struct(">BxLLBB")


class Host(Protocol):
    """What an association asks of the door it came through. Called from the association's thread."""

    services: tuple[DimseService, ...]
    max_object_bytes: int
    idle_timeout_s: float
    pdu_timeout_s: float
    library: Any  # the compiled data path (``native``), or None

    @property
    def lane(self) -> Lane | None:
        """Its admission of small objects, if it is open."""

    def requested(self, association: Association, calling: str, called: str) -> None:
        """Admit the association and set its `device_id`, or raise `Refusal`."""

    def established(self, association: Association) -> None:
        """Note that it is established."""

    def ended(self, association: Association) -> None:
        """Note that it is over; called whatever happened, also if it never was established."""

    def begin_store(self, association: Association, request: Command, context: Context) -> Arrival | int:
        """Begin to take an object in, or return the status to refuse it with."""

    def finish_store(self, association: Association, arrival: Arrival, received_ns: int) -> int:
        """Admit the object and return the status."""

    def prepare_store(
        self,
        association: Association,
        arrival: Arrival,
        *,
        buffers: Buffers,
        count: int,
        found: Values,
        received_ns: int,
    ) -> Prepared | int:
        """Decide on an object that is there already (`Arrival.prepare`), or return the status to refuse it with."""

    def stored(self, association: Association, prepared: Prepared) -> None:
        """Take note that its record is on the disk."""

    def not_stored(self, association: Association, prepared: Prepared, error: OSError) -> int:
        """Take note that its record could not be written, and return the status."""

    def collect(self) -> None:
        """Take note of what was admitted by the compiled data path."""

    def in_force(self, association: Association) -> bool:
        """Whether the device still may send."""

    def refuse(self, peer: str, reason: str, what_to_do: str) -> None:
        """Tell people that something was refused."""


class Association:
    """An association as acceptor.

    Parameters
    ----------
    wire
        The connection, TLS established.
    peer
        What is known of the other side.
    host
        The door.
    grown
        Called once it is established, and when it is over.
    """

    def __init__(self, wire: Wire, peer: Peer, host: Host, grown: Callable[[], None]) -> None:
        self.wire, self.peer, self.host, self._grown = wire, peer, host, grown
        self.device_id = self.calling = ""
        self.contexts: dict[int, Context] = {}
        self.max_length = 0  # of a PDU that the peer takes; 0: any
        self.over = threading.Event()
        self.left = 0  # bytes of the current P-DATA-TF that were not read yet
        self._head = memoryview(bytearray(12))
        self._conversation = Conversation(self)

    @property
    def who(self) -> str:
        """The device's id once it is known, its address before."""
        return self.device_id or self.peer.address

    def abort(self) -> None:
        """Make it end with an A-ABORT, from any thread; `over` is set when it has."""
        self.wire.interrupt()

    def run(self) -> None:
        """Serve the connection until it ends, and close it."""
        try:
            self._run()
        finally:
            self._conversation.close()
            self._grown()
            self.host.ended(self)
            self.over.set()
            self.wire.close()

    def _run(self) -> None:
        last: bytes | None = None
        try:
            if self._negotiate():
                self._grown()
                self.host.established(self)
                if isinstance(self.wire, PlainWire) and self.host.library is not None:
                    self._serve_express(self.wire)
                while True:
                    self.message()
        except (Ended, Gone):
            last = None
        except Interrupted:
            last = _abort(0, 0)
        except Unacceptable as error:
            self.host.refuse(self.who, f"it sent {error}", "")
            last = _abort(2, _INVALID_VALUE)
        except TooSlow:
            reason = "it sends too slowly" if self.contexts else "it connected and said nothing"
            self.host.refuse(self.who, reason, "look at the network between device and us")
            last = _abort(2, 0)
        except Broken as error:
            self.host.refuse(self.who, str(error), error.what_to_do)
            last = _abort(2, error.code)
        if last is not None:
            self.host.ended(self)  # whatever the peer still sends, this association is over
            try:
                self.wire.send(last, _LINGER_S)
            except (Gone, TooSlow):
                return
        self.wire.linger(_LINGER_S)

    # ------------------------------------------------------------ negotiation (Sta2, Sta3)

    def _negotiate(self) -> bool:
        head = self._head[:6]
        self.wire.read(head, _ACSE_S)
        kind, length = _PDU.unpack(head)
        if kind == _ABORT:
            return False
        if kind != _RQ:
            code = _UNEXPECTED_PDU if _AC <= kind <= _RELEASED else _UNRECOGNISED_PDU
            raise Broken("it did not ask for an association first", "look for a scanner or a wrong port", code=code)
        if length > _REQUEST_LIMIT:
            raise Broken("it announced a PDU larger than agreed")
        pdu = bytearray(6 + length)
        pdu[:6] = head
        if length:
            self.wire.read(memoryview(pdu)[6:], self.host.pdu_timeout_s)
        request = read_request(pdu)
        try:
            if not request.protocol_version & 1:
                raise Refusal(_NO_PROTOCOL_VERSION, self.who, "it speaks another version of the DICOM protocol", "")
            if request.application_context != APPLICATION_CONTEXT:
                raise Refusal(_NO_APPLICATION_CONTEXT, self.who, "it asked for another application than DICOM", "")
            self.calling = request.calling
            self.host.requested(self, request.calling, request.called)
        except Refusal as refusal:
            self.host.refuse(refusal.who, str(refusal), refusal.what_to_do)
            self.wire.send(struct.pack(">BBLBBBB", _RJ, 0, 4, 0, *refusal.rejection), self.host.pdu_timeout_s)
            return False
        offered = [uid for service in self.host.services for uid in service.sop_classes]
        answer, self.contexts = request.accept(offered, MAX_PDU)
        self.max_length = request.max_length
        self.wire.send(answer, self.host.pdu_timeout_s)
        return True

    # ------------------------------------------------------------ messages (Sta6)

    def _serve_express(self, wire: PlainWire) -> None:
        express = Express(self, wire, self.host.library)
        try:
            while True:
                express.turn()
        finally:
            express.close()

    def message(self) -> None:
        """Take one message and answer it."""
        request, context_id, context = self.next_command()
        if request.field & dimse.RESPONSE:
            self._conversation.answered(request)
            if request.has_data_set:
                self._collect(context_id)
        elif request.field == dimse.C_STORE and request.has_data_set:
            self.reply(context_id, dimse.response(request, self._store(request, context_id, context)))
        elif request.field == dimse.C_CANCEL:
            return  # of something that was answered already (PS3.7, 9.3.2.3)
        else:
            data = self._collect(context_id) if request.has_data_set else None
            if request.field == dimse.C_ECHO:
                self.reply(context_id, dimse.response(request, dimse.SUCCESS))
            elif request.field == dimse.C_STORE:
                self.host.refuse(self.who, "the request has no data set", "look at how the device is configured")
                self.reply(context_id, dimse.response(request, 0xC000))
            elif request.field not in Operation.__members__.values():
                self.reply(context_id, dimse.response(request, dimse.UNRECOGNISED_OPERATION))
            else:
                self._conversation.serve(request, context_id, context, data)

    def next_command(self) -> tuple[Command, int, Context]:
        """Wait for the next command set.

        Raises
        ------
        Ended, Gone, TooSlow, Broken, Interrupted
            If there will be none.
        """
        data, context_id = bytearray(), 0
        while True:
            first = not data
            one, length, control = self._fragment(self.host.idle_timeout_s if first else self.host.pdu_timeout_s)
            if not control & _COMMAND or (not first and one != context_id):
                raise Broken("it sent a data set where a command was due", code=_UNEXPECTED_PDU)
            context_id = one
            if length > dimse.LIMIT - len(data):
                raise Broken("it sent a command without end")
            piece = bytearray(length)
            if length:
                self.wire.read(memoryview(piece), self.host.pdu_timeout_s)
            data += piece
            if control & _LAST:
                break
        context = self.contexts.get(context_id)
        if context is None:
            raise Broken("it used a presentation context that was not accepted")
        try:
            return Command(data), context_id, context
        except ValueError as error:
            raise Broken(f"it sent a malformed DIMSE message: {error}") from None

    def reply(self, context_id: int, command: bytes, data_set: bytes = b"") -> None:
        """Send a message."""
        for pdu in dimse.pdus(context_id, command, data_set, self.max_length):
            self.wire.send(pdu, self.host.pdu_timeout_s)

    def _fragment(self, timeout_s: float) -> tuple[int, int, int]:
        """Read the header of the next fragment: context id, length of what follows, message control header."""
        if not self.left:
            head = self._head[:6]
            try:
                self.wire.read(head, timeout_s)
            except TooSlow as slow:
                if slow.got or timeout_s != self.host.idle_timeout_s:
                    raise
                raise self.silent() from None
            self.left = self._check_pdu(*_PDU.unpack(head))
        head = self._head[:6]
        self.wire.read(head, self.host.pdu_timeout_s)
        return self._check_pdv(*_PDV.unpack(head))

    @staticmethod
    def silent() -> Broken:
        """Return what ends an association that is not used."""
        return Broken("it said nothing for too long", "let the device close what it does not use", code=0)

    def _check_pdu(self, kind: int, length: int) -> int:
        if kind == _DATA:
            if length > MAX_PDU:
                raise Broken("it announced a PDU larger than agreed")
            if length < _PDV.size:
                raise Broken("it sent a PDU without content")
            return length
        if kind == _RELEASE:
            self.wire.read(self._head[:4], self.host.pdu_timeout_s)
            self.host.ended(self)
            self.wire.send(struct.pack(">BBLL", _RELEASED, 0, 4, 0), self.host.pdu_timeout_s)
            raise Ended
        if kind == _ABORT:
            raise Ended
        raise Broken(
            "it sent a PDU that is out of place", code=_UNEXPECTED_PDU if _RQ <= kind <= _ABORT else _UNRECOGNISED_PDU
        )

    def _check_pdv(self, length: int, context_id: int, control: int) -> tuple[int, int, int]:
        if length < 2 or length + 4 > self.left:
            raise Broken("it sent a PDV that does not fit its PDU")
        self.left -= length + 4
        if 0 < self.left < _PDV.size:
            raise Broken("it sent a PDV that does not fit its PDU")
        return context_id, length - 2, control

    # ------------------------------------------------------------ data sets

    def _store(self, request: Command, context_id: int, context: Context) -> int:
        """Take a C-STORE's data set in and return the status."""
        began = self.host.begin_store(self, request, context)
        arrival = began if isinstance(began, Arrival) else None
        try:
            self._receive(context_id, arrival)
            received_ns = time.time_ns()
            if isinstance(began, Arrival):
                return self.host.finish_store(self, began, received_ns)
            return began
        finally:
            if arrival is not None:
                arrival.abort()

    def _receive(self, context_id: int, arrival: Arrival | None) -> None:
        """Read a data set to its end: into `arrival`, or nowhere."""
        self._receive_from(context_id, arrival, 0, self._fragment(self.host.idle_timeout_s))

    def resume(self, context_id: int, arrival: Arrival | None, size: int) -> int:
        """Read the rest of a data set of which `size` bytes were read already; return when it was there."""
        self._receive_from(context_id, arrival, size, self._fragment(self.host.idle_timeout_s))
        return time.time_ns()

    def _receive_from(self, context_id: int, arrival: Arrival | None, size: int, header: tuple[int, int, int]) -> None:
        """Read a data set to its end, the first header of a fragment having been read.

        Each read takes a fragment's content and the header of the next fragment, which is known to come unless this
        one is the last.
        """
        wire, limit, head = self.wire, self.host.max_object_bytes, self._head
        pdu_s, idle_s = self.host.pdu_timeout_s, self.host.idle_timeout_s
        one, length, control = header
        while True:
            if control & _COMMAND or one != context_id:
                raise Broken("it sent a command in the middle of a data set", code=_UNEXPECTED_PDU)
            size += length
            if size > limit:
                raise Broken(
                    f"an object is larger than {limit >> 20} MB",
                    "raise dicom.max_object_mb in the settings if such objects are expected",
                )
            last = control & _LAST
            following = head[:0] if last else head[:6] if self.left else head
            while length:
                room = arrival.room() if arrival is not None else NOWHERE
                if length > len(room):
                    piece = room
                    wire.read(piece, pdu_s)
                else:
                    piece = room[:length]
                    if last:
                        wire.read(piece, pdu_s)
                    else:
                        self._read_both(piece, following, pdu_s, idle_s)
                        following = head[:0]
                length -= len(piece)
                if arrival is not None:
                    arrival.filled(piece)
            if last:
                return
            if following:  # there was no content to read it with
                self._read_head(following, idle_s)
            if not self.left:
                kind, pdu_length, pdv_length, one, control = _PDU_PDV.unpack(head)
                self.left = self._check_pdu(kind, pdu_length)
                one, length, control = self._check_pdv(pdv_length, one, control)
            else:
                one, length, control = self._check_pdv(*_PDV.unpack_from(head))

    def _read_both(self, content: memoryview, head: memoryview, pdu_s: float, idle_s: float) -> None:
        try:
            self.wire.read_pair(content, head, pdu_s, idle_s)
        except TooSlow:
            self._explain(head)
            raise

    def _read_head(self, head: memoryview, idle_s: float) -> None:
        try:
            self.wire.read(head, idle_s)
        except TooSlow:
            self._explain(head)
            raise

    def _explain(self, head: memoryview) -> None:
        """An A-ABORT or A-RELEASE is shorter than what was waited for: tell it from silence."""
        if len(head) == _PDU_PDV.size and head[0] in (_RELEASE, _ABORT) and bytes(head[1:6]) == b"\0\0\0\0\x04":
            raise Ended

    def _collect(self, context_id: int) -> bytes:
        """Read a data set that is not stored, within a small limit."""
        data = bytearray()
        while True:
            one, length, control = self._fragment(self.host.pdu_timeout_s)
            if control & _COMMAND or one != context_id:
                raise Broken("it sent a command in the middle of a data set", code=_UNEXPECTED_PDU)
            if length > _SERVICE_DATA - len(data):
                raise Broken("it sent a query larger than 4 MB")
            piece = bytearray(length)
            if length:
                self.wire.read(memoryview(piece), self.host.pdu_timeout_s)
            data += piece
            if control & _LAST:
                return bytes(data)


def _abort(source: int, reason: int) -> bytes:
    return struct.pack(">BBLBBBB", _ABORT, 0, 4, 0, 0, source, reason)
