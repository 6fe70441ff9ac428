"""A received data set before it is stored: is it what it says it is, and of whom?

Responsible for a bounded look at the encoded bytes (transfer syntax, UIDs, identity, truncation) and for the file
meta information in front of them. Not responsible for pixels: whether they can be decoded is the engine's to say.

No value of an element appears in an error's text: it would carry identity to a log.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import pydicom.config
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from edgeward.privacy.items import Identity

# Values are taken as they come; pydicom's warnings about them would quote them.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

# PS3.7 Annex C and PS3.4 Table B.2-1: what a storage SCP answers.
CANNOT_UNDERSTAND = 0xC000
DOES_NOT_MATCH = 0xA900

IMPLEMENTATION_CLASS_UID = "2.25.214257403217647052314949849948798615620"
IMPLEMENTATION_VERSION = "EDGEWARD_1"
_UID = re.compile(r"^[0-9.]{1,64}$")  # PS3.5, 9.1; leading zeros occur in practice and are let pass
_KEPT = 256  # characters of an identity value that are kept
_INFLATED = 16 << 20  # of a deflated data set, at most so much is looked at here
_HOPS = 100_000

_LAST_TAG = 0x00200010
_TAGS = [
    0x00080005,  # Specific Character Set
    0x00080016,  # SOP Class UID
    0x00080018,  # SOP Instance UID
    0x00080020,  # Study Date
    0x00080030,  # Study Time
    0x00080060,  # Modality
    0x00081030,  # Study Description
    0x00100010,  # Patient's Name
    0x00100020,  # Patient ID
    0x00100030,  # Patient's Birth Date
    0x0020000D,  # Study Instance UID
]
_PIXEL_TAGS = (0x7FE00008, 0x7FE00009, 0x7FE00010)
_UNDEFINED = 0xFFFFFFFF
_LONG_VR = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
_SHORT_VR = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FL", b"FD", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)


class NotUnderstood(ValueError):
    """A data set is refused; the text says why, `status` is the C-STORE status to answer with."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Header:
    """What the gateway needs to know of an object."""

    modality: str
    study_instance_uid: str
    identity: Identity = field(repr=False)


def examine(stream: io.BytesIO, *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str) -> Header:
    """Look at an encoded data set and return what identifies it.

    Parameters
    ----------
    stream
        The data set as it was received: without preamble and file meta information.
    sop_class_uid, sop_instance_uid
        What the C-STORE request says it is (PS3.7, 9.1.1).
    transfer_syntax_uid
        What was negotiated for the presentation context.

    Raises
    ------
    NotUnderstood
        If it is empty, not encoded in that transfer syntax, truncated, or another instance than it was said to be.
    """
    if not _UID.match(sop_instance_uid):
        raise NotUnderstood(CANNOT_UNDERSTAND, "the SOP Instance UID of the request is not a UID")
    implicit = transfer_syntax_uid == ImplicitVRLittleEndian
    little = transfer_syntax_uid != ExplicitVRBigEndian
    whole = True
    if transfer_syntax_uid == DeflatedExplicitVRLittleEndian:
        stream, whole = _inflated(stream)
    with stream.getbuffer() as view:
        _check_encoding(view[:8], len(view), implicit=implicit, little=little)
    stream.seek(0)
    try:
        found = read_dataset(
            stream, implicit, little, stop_when=lambda tag, _vr, _length: tag > _LAST_TAG, specific_tags=_TAGS
        )
        stopped = stream.tell()
        same_class, same_instance = _text(found, "SOPClassUID"), _text(found, "SOPInstanceUID")
        header = Header(
            modality=_text(found, "Modality")[:16],
            study_instance_uid=_text(found, "StudyInstanceUID")[:64],
            identity=Identity(
                patient_name=_text(found, "PatientName"),
                patient_id=_text(found, "PatientID"),
                birth_date=_text(found, "PatientBirthDate"),
                study_description=_text(found, "StudyDescription"),
                study_date=_text(found, "StudyDate"),
                study_time=_text(found, "StudyTime"),
            ),
        )
    except Exception as error:  # a parser met bytes somebody else chose: any of its errors means the same
        raise NotUnderstood(CANNOT_UNDERSTAND, f"the data set cannot be parsed ({type(error).__name__})") from None
    if same_class != sop_class_uid or same_instance != sop_instance_uid:
        raise NotUnderstood(DOES_NOT_MATCH, "SOP class or instance of the data set differs from that of the request")
    if whole:
        with stream.getbuffer() as view:
            _check_length(view, stopped, implicit=implicit, little=little)
    return header


def file_meta(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str = ""
) -> bytes:
    """Return preamble, prefix and file meta information (PS3.10, 7.1) to stand in front of a data set."""
    elements = [
        _element(0x0001, b"OB", b"\x00\x01"),
        _element(0x0002, b"UI", sop_class_uid.encode("ascii")),
        _element(0x0003, b"UI", sop_instance_uid.encode("ascii")),
        _element(0x0010, b"UI", transfer_syntax_uid.encode("ascii")),
        _element(0x0012, b"UI", IMPLEMENTATION_CLASS_UID.encode("ascii")),
        _element(0x0013, b"SH", IMPLEMENTATION_VERSION.encode("ascii")),
    ]
    if calling_ae_title:
        elements.append(_element(0x0016, b"AE", calling_ae_title.encode("ascii", "replace")))
    group = b"".join(elements)
    return bytes(128) + b"DICM" + _element(0x0000, b"UL", struct.pack("<L", len(group))) + group


def _element(number: int, vr: bytes, value: bytes) -> bytes:
    if len(value) % 2:
        value += b"\0" if vr in (b"UI", b"OB") else b" "
    if vr in _LONG_VR:
        return struct.pack("<HH2sHL", 2, number, vr, 0, len(value)) + value
    return struct.pack("<HH2sH", 2, number, vr, len(value)) + value


def _inflated(stream: io.BytesIO) -> tuple[io.BytesIO, bool]:
    """Return the first `_INFLATED` bytes of a deflated data set, and whether that is all of it (PS3.5, A.5)."""
    engine = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        with stream.getbuffer() as view:
            plain = engine.decompress(view, _INFLATED)
    except zlib.error:
        raise NotUnderstood(CANNOT_UNDERSTAND, "the data set is not deflated, as its transfer syntax says") from None
    return io.BytesIO(plain), engine.eof


def _check_encoding(start: memoryview, size: int, *, implicit: bool, little: bool) -> None:
    """Check that the first element is encoded as the transfer syntax says.

    Parsers guess when it is not, and a guess is not what was negotiated.
    """
    if size < 8:
        raise NotUnderstood(CANNOT_UNDERSTAND, "the data set is empty")
    group, _, vr, length = struct.unpack("<HH2sH" if little else ">HH2sH", start)
    if group in (0x0000, 0x0002):
        raise NotUnderstood(CANNOT_UNDERSTAND, "a file with preamble or meta information was sent, not a data set")
    if group == 0x0800:
        raise NotUnderstood(CANNOT_UNDERSTAND, "the data set has the other byte order than its transfer syntax says")
    known = bytes(vr) in _LONG_VR or bytes(vr) in _SHORT_VR
    if not implicit and not known:
        raise NotUnderstood(CANNOT_UNDERSTAND, "the data set is not in the explicit VR that its transfer syntax says")
    if implicit and known and struct.unpack("<L", start[4:])[0] > size:
        raise NotUnderstood(CANNOT_UNDERSTAND, "the data set is in explicit VR, its transfer syntax says implicit")
    if not implicit and bytes(vr) in _SHORT_VR and length > size:
        raise NotUnderstood(CANNOT_UNDERSTAND, "the data set is truncated")


def _check_length(view: memoryview, start: int, *, implicit: bool, little: bool) -> None:
    """Hop over the top-level elements from `start` and check that none reaches beyond the end.

    Sequences of undefined length would have to be parsed; there it stops looking, and the engine will find out.
    """
    end, at, order = len(view), start, "<" if little else ">"
    for _ in range(_HOPS):
        if at + 8 > end:
            break
        group, number = struct.unpack_from(order + "HH", view, at)
        tag = group << 16 | number
        vr = b"" if implicit else bytes(view[at + 4 : at + 6])
        if not implicit and vr in _LONG_VR:
            if at + 12 > end:
                break
            (length,) = struct.unpack_from(order + "L", view, at + 8)
            at += 12
        elif implicit:
            (length,) = struct.unpack_from(order + "L", view, at + 4)
            at += 8
        else:
            (length,) = struct.unpack_from(order + "H", view, at + 6)
            at += 8
        if length == _UNDEFINED:
            if tag in _PIXEL_TAGS:
                _check_fragments(view, at, order)
            return
        at += length
    # Some writers leave out the padding byte of the last, odd element: that is not a loss.
    if at > end + 1:
        raise NotUnderstood(CANNOT_UNDERSTAND, f"the data set is truncated: {at - end} bytes are missing")


def _check_fragments(view: memoryview, at: int, order: str) -> None:
    """Check the items of encapsulated pixel data (PS3.5, A.4). A missing delimiter at the very end is let pass."""
    end = len(view)
    while at + 8 <= end:
        group, number, length = struct.unpack_from(order + "HHL", view, at)
        if (group, number) != (0xFFFE, 0xE000):
            return
        at += 8 + length
        if at > end + 1:
            raise NotUnderstood(CANNOT_UNDERSTAND, f"the pixel data is truncated: {at - end} bytes are missing")


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    if value is None:
        return ""
    read: Callable[[object], str] = str
    text = "\\".join(map(read, value)) if isinstance(value, (list, pydicom.multival.MultiValue)) else read(value)
    return text.strip("\0 ")[:_KEPT]
