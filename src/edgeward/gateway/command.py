"""DIMSE command sets (PS3.7, 6.3 and E): read with bounds, written small.

Responsible for the bytes of a command set and of the P-DATA-TF PDUs (PS3.8, 9.3.5) around messages that we send. Not
responsible for what a command asks for.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import lru_cache

LIMIT = 1 << 16  # bytes of a command set; real ones stay below 1 KB
NO_DATA_SET = 0x0101
RESPONSE = 0x8000

C_STORE, C_ECHO, C_CANCEL, N_EVENT_REPORT = 0x0001, 0x0030, 0x0FFF, 0x0100

# PS3.7, C: statuses that any operation may be answered with.
SUCCESS = 0x0000
PROCESSING_FAILURE = 0x0110
SOP_CLASS_NOT_SUPPORTED = 0x0122
NOT_AUTHORISED = 0x0124
UNRECOGNISED_OPERATION = 0x0211

_AFFECTED_CLASS, _REQUESTED_CLASS = 0x0002, 0x0003
_PRIORITY, _MEDIUM = 0x0700, 0
_FIELD, _MESSAGE_ID, _RESPONDED_TO = 0x0100, 0x0110, 0x0120
_DATA_SET_TYPE, _STATUS, _COMMENT = 0x0800, 0x0900, 0x0902
_AFFECTED_INSTANCE, _REQUESTED_INSTANCE = 0x1000, 0x1001
_EVENT_TYPE, _ACTION_TYPE = 0x1002, 0x1008
_HEAD = struct.Struct("<HHL")
_ID, _GROUP = struct.Struct("<HHLH"), struct.Struct("<HHLL")
_P_DATA = struct.Struct(">BxLLBB")
_COMMENT_LENGTH = 64  # LO


class Command:
    """A command set as it was received.

    Raises
    ------
    ValueError
        If it is not one, or lacks what every message has.
    """

    def __init__(self, data: bytes | bytearray) -> None:
        self._values: dict[int, bytes] = {}
        data, values, unpack = bytes(data), self._values, _HEAD.unpack_from
        at, end = 0, len(data)
        while at < end:
            if at + 8 > end:
                raise ValueError("it ends within an element")
            group, number, length = unpack(data, at)
            at += 8
            if group != 0 or length > end - at:
                raise ValueError("it is not a command set in implicit VR little endian")
            values[number] = data[at : at + length]
            at += length
        self.field = self._number(_FIELD, -1)
        if self.field < 0 or self._number(_DATA_SET_TYPE, -1) < 0:
            raise ValueError("it lacks the command field or the data set type")
        self.has_data_set = self._number(_DATA_SET_TYPE) != NO_DATA_SET
        self.message_id = self._number(_MESSAGE_ID)
        self.sop_class_uid = self._text(_AFFECTED_CLASS) or self._text(_REQUESTED_CLASS)
        self.sop_instance_uid = self._text(_AFFECTED_INSTANCE) or self._text(_REQUESTED_INSTANCE)

    @classmethod
    def store(cls, message_id: int, sop_class_uid: str, sop_instance_uid: str) -> Command:
        """Return a C-STORE-RQ that was read elsewhere."""
        command = cls.__new__(cls)
        command._values = {}  # noqa: SLF001 - our own
        command.field, command.has_data_set, command.message_id = C_STORE, True, message_id
        command.sop_class_uid, command.sop_instance_uid = sop_class_uid, sop_instance_uid
        return command

    @property
    def responded_to(self) -> int:
        """The message that is answered or cancelled."""
        return self._number(_RESPONDED_TO)

    @property
    def status(self) -> int:
        """The status of an answer."""
        return self._number(_STATUS)

    @property
    def action_type(self) -> int:
        """What an N-ACTION asks for; 0 if it is another request."""
        return self._number(_ACTION_TYPE)

    def _number(self, number: int, default: int = 0) -> int:
        value = self._values.get(number)
        return int.from_bytes(value[:2], "little") if value else default

    def _text(self, number: int) -> str:
        return self._values.get(number, b"").decode("ascii", "replace").strip("\0 ")


def response(
    request: Command,
    status: int,
    *,
    has_data_set: bool = False,
    sop_instance_uid: str = "",
    comment: str = "",
) -> bytes:
    """Return the command set that answers a request."""
    elements = [
        _text(_AFFECTED_CLASS, request.sop_class_uid),
        _number(_FIELD, request.field | RESPONSE),
        _number(_RESPONDED_TO, request.message_id),
        _number(_DATA_SET_TYPE, 0 if has_data_set else NO_DATA_SET),
        _number(_STATUS, status),
        _text(_COMMENT, comment[:_COMMENT_LENGTH]),
        _text(_AFFECTED_INSTANCE, sop_instance_uid or request.sop_instance_uid),
    ]
    if request.action_type:
        elements.append(_number(_ACTION_TYPE, request.action_type))
    return _command(elements)


def store_answer(context_id: int, request: Command, status: int, max_length: int) -> bytes:
    """Return the PDUs that answer a C-STORE-RQ: as `response` and `pdus` do, of which most is always the same."""
    before, after = _around(request.sop_class_uid, status)
    instance = request.sop_instance_uid.encode("ascii")
    instance += b"\0" * (len(instance) % 2)
    answered = _ID.pack(0, _RESPONDED_TO, 2, request.message_id)
    body = b"".join((before, answered, after, _HEAD.pack(0, _AFFECTED_INSTANCE, len(instance)), instance))
    length = len(body)
    if (max_length and length + 18 > max_length) or not instance:
        return b"".join(pdus(context_id, response(request, status), b"", max_length))
    return _P_DATA.pack(0x04, length + 18, length + 14, context_id, 3) + _GROUP.pack(0, 0, 4, length) + body


@lru_cache(64)
def _around(sop_class_uid: str, status: int) -> tuple[bytes, bytes]:
    before = _text(_AFFECTED_CLASS, sop_class_uid) + _number(_FIELD, C_STORE | RESPONSE)
    return before, _number(_DATA_SET_TYPE, NO_DATA_SET) + _number(_STATUS, status)


def event_report(message_id: int, sop_class_uid: str, sop_instance_uid: str, event_type: int) -> bytes:
    """Return the command set of an N-EVENT-REPORT-RQ with a data set (PS3.7, 10.3.1)."""
    return _command(
        [
            _text(_AFFECTED_CLASS, sop_class_uid),
            _number(_FIELD, N_EVENT_REPORT),
            _number(_MESSAGE_ID, message_id),
            _number(_DATA_SET_TYPE, 0),
            _text(_AFFECTED_INSTANCE, sop_instance_uid),
            _number(_EVENT_TYPE, event_type),
        ]
    )


def store_request(message_id: int, sop_class_uid: str, sop_instance_uid: str) -> bytes:
    """Return the command set of a C-STORE-RQ (PS3.7, 9.3.1.1), medium priority."""
    return _command(
        [
            _text(_AFFECTED_CLASS, sop_class_uid),
            _number(_FIELD, C_STORE),
            _number(_MESSAGE_ID, message_id),
            _number(_PRIORITY, _MEDIUM),
            _number(_DATA_SET_TYPE, 0),
            _text(_AFFECTED_INSTANCE, sop_instance_uid),
        ]
    )


def pdus(context_id: int, command: bytes, data_set: bytes, max_length: int) -> Iterator[bytes]:
    """Yield the P-DATA-TF PDUs of a message, none longer than the peer takes (0: any length)."""
    most = max(1, min(max_length or LIMIT, LIMIT) - 6)
    for control, content in ((1, command), (0, data_set)):
        for at in range(0, len(content), most):
            piece = content[at : at + most]
            last = 2 if at + most >= len(content) else 0
            yield _P_DATA.pack(0x04, len(piece) + 6, len(piece) + 2, context_id, control | last) + piece


def _command(elements: list[bytes]) -> bytes:
    body = b"".join(elements)
    return _HEAD.pack(0, 0, 4) + struct.pack("<L", len(body)) + body


def _number(number: int, value: int) -> bytes:
    return _HEAD.pack(0, number, 2) + struct.pack("<H", value)


@lru_cache(256)
def _text(number: int, value: str) -> bytes:
    if not value:
        return b""
    encoded = value.encode("ascii", "replace")
    encoded += (b"\0" if number != _COMMENT else b" ") * (len(encoded) % 2)
    return _HEAD.pack(0, number, len(encoded)) + encoded
