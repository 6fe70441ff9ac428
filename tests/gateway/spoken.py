"""An association spoken byte by byte over the plain door, for what no library would send."""

from __future__ import annotations

import socket
import struct

from pydicom.uid import ImplicitVRLittleEndian
from pynetdicom.pdu import A_ASSOCIATE_AC, A_ASSOCIATE_RQ
from pynetdicom.pdu_primitives import A_ASSOCIATE, ImplementationClassUIDNotification, MaximumLengthNotification
from pynetdicom.presentation import build_context
from tests.gateway.door import Door

from edgeward.gateway import command as dimse
from edgeward.gateway.command import Command

LEGACY = {"name": "old", "ae_title": "OLDUS", "address": "127.0.0.1", "transport": "plain"}


def associate_request(
    *contexts: tuple[str, str], called: str = "EDGEWARD", calling: str = "OLDUS", more: tuple[object, ...] = ()
) -> bytes:
    """An A-ASSOCIATE-RQ; context ids are 1, 3, 5, ... in the order given."""
    request = A_ASSOCIATE()
    request.application_context_name = "1.2.840.10008.3.1.1.1"
    request.calling_ae_title, request.called_ae_title = calling, called
    proposed = [build_context(abstract, syntax) for abstract, syntax in contexts]
    for number, context in enumerate(proposed):
        context.context_id = 2 * number + 1
    request.presentation_context_definition_list = proposed
    length, implementation = MaximumLengthNotification(), ImplementationClassUIDNotification()
    length.maximum_length_received = 16382
    implementation.implementation_class_uid = "1.2.3"
    request.user_information = [length, implementation, *more]
    return A_ASSOCIATE_RQ(request).encode()


class Spoken:
    """An established association of the legacy device."""

    def __init__(self, door: Door | int, *contexts: tuple[str, str], more: tuple[object, ...] = ()) -> None:
        port = door if isinstance(door, int) else door.dicom.ports["plain"]
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=30)
        self.socket.sendall(associate_request(*contexts, more=more))
        kind, pdu = self.pdu()
        assert kind == 0x02
        self.accepted = A_ASSOCIATE_AC()
        self.accepted.decode(pdu)

    def send(self, context_id: int, command: bytes, data: bytes = b"", length: int = 16382) -> None:
        """Send a message; `command` without its group length."""
        whole = struct.pack("<HHLL", 0, 0, 4, len(command)) + command
        for pdu in dimse.pdus(context_id, whole, data, length):
            self.socket.sendall(pdu)

    def pdu(self) -> tuple[int, bytes]:
        """Read one PDU: its type and all of it; type 0 when the connection is closed."""
        try:
            head = self.socket.recv(6, socket.MSG_WAITALL)
            if len(head) < 6:
                return 0, b""
            kind, _, length = struct.unpack(">BBL", head)
            return kind, head + self.socket.recv(length, socket.MSG_WAITALL)
        except ConnectionError:
            return 0, b""

    def answer(self) -> Command:
        """Read PDUs until a command is complete; its data set, if any, is left to `pdu`."""
        kind, pdu = self.pdu()
        assert kind == 0x04, f"PDU type {kind} instead of a message"
        assert pdu[11] == 0x03, "a command in one fragment"
        return Command(pdu[12:])

    def ended(self) -> bool:
        """Read to the end of the connection; return whether an A-ABORT came."""
        aborted = False
        while (kind := self.pdu()[0]) != 0:
            aborted |= kind == 0x07
        self.socket.close()
        return aborted


def number(element: int, value: int) -> bytes:
    return struct.pack("<HHLH", 0, element, 2, value)


def text(element: int, value: str) -> bytes:
    encoded = value.encode() + b"\0" * (len(value) % 2)
    return struct.pack("<HHL", 0, element, len(encoded)) + encoded


def request(field: int, sop_class: str, *, data_set: bool = False, uid: str = "1.2.3", more: bytes = b"") -> bytes:
    """A command set without its group length; message id 9."""
    kind = 0 if data_set else dimse.NO_DATA_SET
    named = text(0x0002, sop_class) + number(0x0100, field) + number(0x0110, 9) + number(0x0800, kind)
    return named + text(0x1000, uid) + more


PLAIN = ImplicitVRLittleEndian
