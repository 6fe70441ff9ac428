"""A received data set before it is admitted: is it what it says it is, and of whom?

Responsible for what the gateway needs of an object's header, taken while it passes (``gateway.walker`` knows the
encoding), and for the file meta information in front of it. Not responsible for pixels: whether they can be decoded is
the engine's to say.

No value of an element appears in an error's text: it would carry identity to a log.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field
from functools import lru_cache

import pydicom.charset
import pydicom.config

from edgeward.gateway.walker import Malformed, Walker
from edgeward.privacy.items import Identity

# Values are taken as they come; pydicom's warnings about them would quote them.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

# PS3.7 Annex C and PS3.4 Table B.2-1: what a storage SCP answers.
CANNOT_UNDERSTAND = 0xC000
DOES_NOT_MATCH = 0xA900

IMPLEMENTATION_CLASS_UID = "2.25.214257403217647052314949849948798615620"
IMPLEMENTATION_VERSION = "EDGEWARD_1"
_UID = re.compile(r"[0-9.]{1,64}")  # PS3.5, 9.1; leading zeros occur in practice and are let pass
_KEPT = 256  # characters of an identity value that are kept
_PREAMBLE = bytes(128) + b"DICM"
_COUNT = 1 << 31  # a larger number of frames is nonsense

_CHARACTER_SET = 0x00080005
_SOP_CLASS, _SOP_INSTANCE = 0x00080016, 0x00080018
_MODALITY = 0x00080060
_STUDY, _SERIES = 0x0020000D, 0x0020000E
_FRAMES, _ROWS, _COLUMNS = 0x00280008, 0x00280010, 0x00280011
_IDENTITY = {
    "study_date": 0x00080020,
    "study_time": 0x00080030,
    "accession_number": 0x00080050,
    "referring_physician": 0x00080090,
    "study_description": 0x00081030,
    "series_description": 0x0008103E,
    "patient_name": 0x00100010,
    "patient_id": 0x00100020,
    "issuer_of_patient_id": 0x00100021,
    "birth_date": 0x00100030,
    "patient_sex": 0x00100040,
    "body_part": 0x00180015,
    "study_id": 0x00200010,
    "series_number": 0x00200011,
    "instance_number": 0x00200013,
}
_WANTED = frozenset(
    {_CHARACTER_SET, _SOP_CLASS, _SOP_INSTANCE, _MODALITY, _STUDY, _SERIES, _FRAMES, _ROWS, _COLUMNS}
    | set(_IDENTITY.values())
)
WANTED = tuple(sorted(_WANTED))
_PERSON_NAMES = (0x00080090, 0x00100010)


class NotUnderstood(ValueError):
    """A data set is refused; the text says why, `status` is the C-STORE status to answer with."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True)
class Header:
    """What the gateway needs to know of an object. `rows` is 0 if it is no image."""

    modality: str
    study_instance_uid: str
    series_instance_uid: str
    rows: int
    columns: int
    frames: int
    identity: Identity = field(repr=False)


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
        sop_class, sop_instance = (_ascii(values.get(tag, b"")) for tag in (_SOP_CLASS, _SOP_INSTANCE))
        if sop_class != self._sop_class or sop_instance != self._sop_instance:
            raise NotUnderstood(
                DOES_NOT_MATCH, "SOP class or instance of the data set differs from that of the request"
            )
        encodings = _encodings(values.get(_CHARACTER_SET, b""))
        identity = {name: _text(values[tag], tag, encodings) for name, tag in _IDENTITY.items() if tag in values}
        rows, columns = (self._short(values.get(tag, b"")) for tag in (_ROWS, _COLUMNS))
        return Header(
            modality=_ascii(values.get(_MODALITY, b""))[:16],
            study_instance_uid=_ascii(values.get(_STUDY, b"")),  # not cut: two studies would be one
            series_instance_uid=_ascii(values.get(_SERIES, b"")),
            rows=rows,
            columns=columns,
            frames=_number(values.get(_FRAMES, b"")),
            identity=Identity(**identity),
        )

    def _short(self, value: bytes) -> int:
        return int.from_bytes(value[:2], "little" if self._walked is not None or self._walker.little else "big")


def file_meta(
    *, sop_class_uid: str, sop_instance_uid: str, transfer_syntax_uid: str, calling_ae_title: str = ""
) -> bytes:
    """Return preamble, prefix and file meta information (PS3.10, 7.1) to stand in front of a data set."""
    before, after = _always(sop_class_uid, transfer_syntax_uid, calling_ae_title)
    instance = _element(0x0003, b"UI", sop_instance_uid.encode("ascii"))
    length = len(before) + len(instance) + len(after)
    return b"".join((_PREAMBLE, _element(0x0000, b"UL", struct.pack("<L", length)), before, instance, after))


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


def _ascii(value: bytes) -> str:
    return value.decode("ascii", "replace").strip("\0 ")


def _number(value: bytes) -> int:
    """Return an IS value as a positive number, 1 if it is none."""
    text = _ascii(value)
    return max(1, min(int(text), _COUNT)) if text.isdecimal() else 1


@lru_cache(256)
def _encodings(value: bytes) -> list[str]:
    """Return Python's names of the Specific Character Set (PS3.3, C.12.1.1.2); an unknown one is taken for ASCII."""
    names = _ascii(value).split("\\")
    if names == [""]:
        return []
    try:
        encodings: list[str] = pydicom.charset.convert_encodings([name.strip() for name in names])
    except (LookupError, ValueError):  # a NUL in a name is a ValueError of Python's codecs
        return []
    return encodings


def _text(value: bytes, tag: int, encodings: list[str]) -> str:
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii").strip("\0 ")[:_KEPT]
    delimiters = {0x5E, 0x3D, 0x5C} if tag in _PERSON_NAMES else {0x5C}
    try:
        text: str = pydicom.charset.decode_bytes(value, encodings or ["iso8859"], delimiters)
    except (LookupError, ValueError):
        text = value.decode("ascii", "replace")
    return text.strip("\0 ")[:_KEPT]
