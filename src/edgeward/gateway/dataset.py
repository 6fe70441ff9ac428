"""A received data set before it is admitted: is it what it says it is, and of whom?

Responsible for what the gateway needs of an object's header, taken while it passes (``gateway.walker`` knows the
encoding), and for the file meta information in front of it. Not responsible for pixels: whether they can be decoded is
the engine's to say.

No value of an element appears in an error's text: it would carry identity to a log.
"""

from __future__ import annotations

import re
import struct
from functools import lru_cache

import pydicom.config

from edgeward.gateway.walker import Malformed, Walker
from edgeward.privacy.header import SOP_CLASS, SOP_INSTANCE, WANTED, Header, ascii_of, header_of

# Values are taken as they come; pydicom's warnings about them would quote them.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

# PS3.7 Annex C and PS3.4 Table B.2-1: what a storage SCP answers.
CANNOT_UNDERSTAND = 0xC000
DOES_NOT_MATCH = 0xA900

IMPLEMENTATION_CLASS_UID = "2.25.214257403217647052314949849948798615620"
IMPLEMENTATION_VERSION = "EDGEWARD_1"
_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5, 9.1; leading zeros occur in practice and are let pass
_WANTED = frozenset(WANTED)
_PREAMBLE = bytes(128) + b"DICM"


class NotUnderstood(ValueError):
    """A data set is refused; the text says why, `status` is the C-STORE status to answer with."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


class Examination:
    """A look at one encoded data set while it passes: without preamble and file meta information.

    Parameters
    ----------
    sop_class_uid, sop_instance_uid
        What the request says it is (PS3.7, 9.1.1).
    transfer_syntax_uid
        What was negotiated for the presentation context.

    Raises
    ------
    NotUnderstood
        If one of the UIDs is none.
    """

    def __init__(self, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> None:
        is_uid = _UID.fullmatch
        if not (is_uid(sop_instance_uid) and is_uid(sop_class_uid) and is_uid(transfer_syntax_uid)):
            named = {"Instance": sop_instance_uid, "Class": sop_class_uid}
            name = next((f"SOP {name}" for name, uid in named.items() if not is_uid(uid)), "Transfer Syntax")
            raise NotUnderstood(CANNOT_UNDERSTAND, f"the {name} UID of the request is not a UID")
        self._sop_class, self._sop_instance = sop_class_uid, sop_instance_uid
        self._syntax = transfer_syntax_uid
        self._walk: Walker | None = None
        self._walked: dict[int, bytes] | None = None

    def walked(self, values: dict[int, bytes]) -> None:
        """Take what was found of the elements in `WANTED`: the data set is whole."""
        self._walked = values

    @property
    def _walker(self) -> Walker:
        if self._walk is None:
            self._walk = Walker(self._syntax, _WANTED)
        return self._walk

    def feed(self, data: memoryview) -> None:
        """Look at the next piece.

        Raises
        ------
        NotUnderstood
            If it is not encoded as it was said to be.
        """
        if self._walker.passes(len(data)):
            return
        try:
            self._walker.feed(data)
        except Malformed as error:
            raise NotUnderstood(CANNOT_UNDERSTAND, str(error)) from None

    def finish(self) -> Header:
        """Return what the header says, once everything was fed.

        Raises
        ------
        NotUnderstood
            If the data set is empty, truncated, or another instance than it was said to be.
        """
        if self._walked is None:
            try:
                self._walker.finish()
            except Malformed as error:
                raise NotUnderstood(CANNOT_UNDERSTAND, str(error)) from None
        values = self._walker.values if self._walked is None else self._walked
        sop_class, sop_instance = (ascii_of(values.get(tag, b"")) for tag in (SOP_CLASS, SOP_INSTANCE))
        if sop_class != self._sop_class or sop_instance != self._sop_instance:
            raise NotUnderstood(
                DOES_NOT_MATCH, "SOP class or instance of the data set differs from that of the request"
            )
        return header_of(values, little=self._walked is not None or self._walker.little)


def file_meta(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str = ""
) -> bytes:
    """Return preamble, prefix and file meta information (PS3.10, 7.1) to stand in front of a data set."""
    before, after = _always(sop_class_uid, transfer_syntax_uid, calling_ae_title)
    instance = _element(0x0003, b"UI", sop_instance_uid.encode("ascii"))
    length = len(before) + len(instance) + len(after)
    return b"".join((_PREAMBLE, _element(0x0000, b"UL", struct.pack("<L", length)), before, instance, after))


def around_uid(*, sop_class_uid: str, transfer_syntax_uid: str, calling_ae_title: str) -> tuple[bytes, bytes]:
    """Return what stands before and after the SOP Instance UID in the file meta information, without its length."""
    return _always(sop_class_uid, transfer_syntax_uid, calling_ae_title)


@lru_cache(64)
def _always(sop_class_uid: str, transfer_syntax_uid: str, calling_ae_title: str) -> tuple[bytes, bytes]:
    """Return what stands before and after the SOP Instance UID, which alone differs between the images of a device."""
    before = _element(0x0001, b"OB", b"\x00\x01") + _element(0x0002, b"UI", sop_class_uid.encode("ascii"))
    after = [
        _element(0x0010, b"UI", transfer_syntax_uid.encode("ascii")),
        _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
        _element(0x0013, b"SH", IMPLEMENTATION_VERSION.encode("ascii")),
    ]
    if calling_ae_title:
        after.append(_element(0x0016, b"AE", calling_ae_title.encode("ascii", "replace")))
    return before, b"".join(after)


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    if vr in (b"OB", b"UN"):
        return struct.pack("<HH2sHL", 2, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value
