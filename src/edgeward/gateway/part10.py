"""Objects that come as files (PS3.10): the file meta information taken off, the data set handed on while it arrives.

Responsible for preamble, prefix and group 0002. Not responsible for the data set (``gateway.reception``).
"""

from __future__ import annotations

import struct

from edgeward.gateway.dataset import CANNOT_UNDERSTAND, NotUnderstood
from edgeward.gateway.reception import Arrival, Reception
from edgeward.privacy.items import Item

_LIMIT = 1 << 16  # bytes of preamble and meta information; real ones stay below 1 KB
_HEAD = struct.Struct("<HH2sH")
_LONG = (b"OB", b"OW", b"UN", b"UT", b"SQ")
_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX = 0x0002, 0x0003, 0x0010


class FileArrival:
    """An object that arrives as a DICOM file, with the same verbs as `Arrival`.

    Errors are told by `finish`, whatever they are. `sop_class_uid` and `sop_instance_uid` are empty until the file
    meta information has arrived.
    """

    def __init__(self, reception: Reception, *, device: str, calling: str = "") -> None:
        self._reception, self._device, self._calling = reception, device, calling
        self._head = bytearray()
        self._arrival: Arrival | None = None
        self._error: NotUnderstood | None = None
        self.sop_class_uid = self.sop_instance_uid = self.transfer_syntax_uid = ""
        self.study_instance_uid = ""  # if given, the only study that it may be of
        self.size = 0  # bytes of the file so far

    @property
    def failed(self) -> bool:
        """Whether it is refused already."""
        return self._error is not None or (self._arrival is not None and self._arrival.failed)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the file."""
        self.size += len(data)
        if self._error is not None:
            return
        if self._arrival is not None:
            self._arrival.write(data)
            return
        self._head += data
        try:
            end = self._read_meta()
        except NotUnderstood as error:
            self._error = error
            self._head.clear()
            return
        if end:
            rest, self._head = bytes(memoryview(self._head)[end:]), bytearray()
            self._arrival = self._reception.begin(
                device=self._device,
                calling=self._calling,
                sop_class_uid=self.sop_class_uid,
                sop_instance_uid=self.sop_instance_uid,
                transfer_syntax_uid=self.transfer_syntax_uid,
            )
            self._arrival.write(rest)

    def finish(self, received_ns: int) -> tuple[Item, bool]:
        """Admit the object; see `Arrival.finish`."""
        if self._error is not None:
            raise self._error
        if self._arrival is None:
            raise NotUnderstood(CANNOT_UNDERSTAND, "the file is truncated: it ends within its meta information")
        self._arrival.study_instance_uid = self.study_instance_uid
        return self._arrival.finish(received_ns)

    def abort(self) -> None:
        """Leave nothing behind."""
        self._head.clear()
        if self._arrival is not None:
            self._arrival.abort()

    def _read_meta(self) -> int:
        """Return where the data set begins, 0 if that has not arrived yet."""
        head = self._head
        if len(head) >= 132 and head[128:132] != b"DICM":
            raise NotUnderstood(CANNOT_UNDERSTAND, "it is not a DICOM file: the prefix DICM is missing")
        at, values = 132, dict[int, bytes]()
        while at + 8 <= len(head):
            group, number, vr, length = _HEAD.unpack_from(head, at)
            if group != 0x0002:
                return self._settle(values, at)
            start = at + 8
            if vr in _LONG:
                if at + 12 > len(head):
                    break
                (length,) = struct.unpack_from("<L", head, at + 8)
                start = at + 12
            if start + length > _LIMIT:
                break
            values[number] = bytes(head[start : start + length])
            at = start + length
        if len(head) > _LIMIT:
            raise NotUnderstood(CANNOT_UNDERSTAND, "its file meta information has no end")
        return 0

    def _settle(self, values: dict[int, bytes], end: int) -> int:
        names = (_SOP_CLASS, _SOP_INSTANCE, _TRANSFER_SYNTAX)
        texts = [values.get(name, b"").decode("ascii", "replace").strip("\0 ") for name in names]
        if not all(texts):
            raise NotUnderstood(CANNOT_UNDERSTAND, "its file meta information lacks a UID")
        self.sop_class_uid, self.sop_instance_uid, self.transfer_syntax_uid = texts
        return end
