"""DICOM as bytes, written and read by hand: PDUs (PS3.8, 9.3), commands (PS3.7, 6.3 and E), small data sets.

Nothing here stops anybody from writing what the standard forbids: each length may be given a lie, each field any value.
Not responsible for what to write (`attack_dicom`) or for sending it (`attack`).
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.sequence import Sequence as Items

IMPLICIT, EXPLICIT, DEFLATED = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99"
BIG, RLE, JPEG, J2K = (
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.5",
    "1.2.840.10008.1.2.4.50",
    "1.2.840.10008.1.2.4.90",
)
VERIFICATION, US, US_CINE, CT = (
    "1.2.840.10008.1.1",
    "1.2.840.10008.5.1.4.1.1.6.1",
    "1.2.840.10008.5.1.4.1.1.3.1",
    "1.2.840.10008.5.1.4.1.1.2",
)
WORKLIST, PERFORMED, COMMITMENT, FIND = (
    "1.2.840.10008.5.1.4.31",
    "1.2.840.10008.3.1.2.3.3",
    "1.2.840.10008.1.20.1",
    "1.2.840.10008.5.1.4.1.2.2.1",
)
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
APPLICATION = b"1.2.840.10008.3.1.1.1"

# Every presentation context that the campaign proposes, by id: abstract syntax and transfer syntaxes.
CONTEXTS: dict[int, tuple[str, tuple[str, ...]]] = {
    1: (VERIFICATION, (IMPLICIT,)),
    3: (US, (EXPLICIT,)),
    5: (CT, (IMPLICIT,)),
    7: (US_CINE, (JPEG,)),
    9: (CT, (BIG,)),
    11: (US, (DEFLATED,)),
    13: (US, (RLE,)),
    15: (WORKLIST, (IMPLICIT,)),
    17: (PERFORMED, (IMPLICIT,)),
    19: (COMMITMENT, (IMPLICIT,)),
    21: (FIND, (EXPLICIT,)),
    23: ("1.2.3.4.5", (EXPLICIT,)),
}
STORES = (3, 5, 7, 9, 11, 13)  # contexts a data set of ours can be sent on

CANARY = b"ZZCANARY^HOSTILE"  # the patient's name of every object: a log or an open file that holds it has leaked


# ---------------------------------------------------------------- PDUs


def pdu(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBL", kind, 0, len(body) if length is None else length) + body


def item(kind: int, body: bytes, length: int | None = None) -> bytes:
    return struct.pack(">BBH", kind, 0, (len(body) if length is None else length) & 0xFFFF) + body


def context(number: int, abstract: str | bytes, syntaxes: Sequence[str | bytes]) -> bytes:
    body = item(0x30, _ascii(abstract)) + b"".join(item(0x40, _ascii(one)) for one in syntaxes)
    return item(0x20, bytes((number & 255, 0, 0, 0)) + body)


def user_information(maximum: int | None = 131_072, *more: bytes) -> bytes:
    own = b"" if maximum is None else item(0x51, struct.pack(">L", maximum))
    return item(0x50, own + item(0x52, b"1.2.826.0.1.3680043.9.9999.1") + item(0x55, b"HOSTILE") + b"".join(more))


def associate(
    calling: bytes,
    called: bytes = b"EDGEWARD",
    *,
    contexts: bytes | None = None,
    user: bytes | None = None,
    application: bytes = APPLICATION,
    version: int = 1,
) -> bytes:
    """An A-ASSOCIATE-RQ; `contexts` and `user` are encoded items, by default all of `CONTEXTS` and sane ones."""
    if contexts is None:
        contexts = b"".join(context(number, *what) for number, what in CONTEXTS.items())
    body = struct.pack(">HH16s16s32x", version, 0, called[:16].ljust(16), calling[:16].ljust(16))
    return pdu(0x01, body + item(0x10, application) + contexts + (user_information() if user is None else user))


def pdv(number: int, header: int, data: bytes, length: int | None = None) -> bytes:
    """A presentation data value item; `header` is the message control header (1: command, 2: last)."""
    return struct.pack(">LBB", len(data) + 2 if length is None else length, number & 255, header & 255) + data


def p_data(*values: bytes, length: int | None = None) -> bytes:
    return pdu(0x04, b"".join(values), length)


RELEASE, RELEASE_ANSWER = pdu(0x05, bytes(4)), pdu(0x06, bytes(4))
ABORT = pdu(0x07, bytes(4))


# ---------------------------------------------------------------- commands (implicit little endian, group 0000)


@dataclass
class Command:
    """The elements of a command set, by element number. `group_length` is right unless given."""

    elements: dict[int, bytes]
    group_length: int | None = None
    tail: bytes = b""

    def encode(self) -> bytes:
        body = b"".join(_element(number, value) for number, value in sorted(self.elements.items())) + self.tail
        length = len(body) if self.group_length is None else self.group_length
        return _element(0, struct.pack("<L", length & 0xFFFFFFFF)) + body


def _element(number: int, value: bytes) -> bytes:
    return struct.pack("<HHL", 0, number, len(value)) + value


def u16(value: int) -> bytes:
    return struct.pack("<H", value & 0xFFFF)


def uid(value: str | bytes) -> bytes:
    raw = _ascii(value)
    return raw + b"\0" * (len(raw) % 2)


def command(
    field_: int,
    *,
    message: int = 1,
    sop_class: str = "",
    instance: str = "",
    data: bool = False,
    requested: bool = False,
) -> Command:
    """A request or a response: Command Field, Message ID, UIDs, and whether a data set follows."""
    elements = {0x0100: u16(field_), 0x0800: u16(0x0000 if data else 0x0101)}
    elements[0x0120 if field_ & 0x8000 or field_ == 0x0FFF else 0x0110] = u16(message)
    if sop_class:
        elements[0x0003 if requested else 0x0002] = uid(sop_class)
    if instance:
        elements[0x1001 if requested else 0x1000] = uid(instance)
    if field_ == 0x0001 or field_ == 0x0020:  # noqa: PLR1714 - C-STORE-RQ and C-FIND-RQ have a priority
        elements[0x0700] = u16(0)
    return Command(elements)


def message(number: int, of: Command, data: bytes | None = None, *, piece: int = 60_000) -> list[bytes]:
    """A DIMSE message as P-DATA-TF PDUs, one PDV each, at most `piece` bytes of it in one."""
    return [p_data(one) for one in values(number, of.encode(), data, piece=piece)]


def values(number: int, encoded: bytes, data: bytes | None = None, *, piece: int = 60_000) -> list[bytes]:
    """A DIMSE message as PDVs."""
    result = []
    for kind, whole in ((1, encoded), (0, data)):
        if whole is None:
            continue
        starts = range(0, max(1, len(whole)), piece)
        result += [pdv(number, kind | 2 * (at == starts[-1]), whole[at : at + piece]) for at in starts]
    return result


# ---------------------------------------------------------------- data sets

PLACE = "2.25.1" + "7" * 30  # stands for the SOP Instance UID in a template; all our UIDs have its length


def instance_uid(seed: int, case: int, number: int = 0) -> str:
    return f"2.25.1{seed % 10**10:010d}{case % 10**12:012d}{number % 10**8:08d}"


@lru_cache(maxsize=32)
def _template(context_id: int, size: int) -> bytes:
    sop_class, (syntax, *_) = CONTEXTS[context_id]
    return encode_data_set(image(sop_class, syntax, size), EXPLICIT if syntax == DEFLATED else syntax)


def data_set(context_id: int, instance: str, size: int = 24) -> bytes:
    """A small image of `size` by `size` pixels, encoded for a context of `CONTEXTS`."""
    plain = _template(context_id, size).replace(PLACE.encode(), instance.encode())
    if CONTEXTS[context_id][1][0] != DEFLATED:
        return plain
    engine = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    raw = engine.compress(plain) + engine.flush()
    return raw + b"\0" * (len(raw) % 2)


def image(sop_class: str, syntax: str, size: int) -> Dataset:
    image = Dataset()
    image.SpecificCharacterSet = "ISO_IR 100"
    image.SOPClassUID, image.SOPInstanceUID = sop_class, PLACE
    image.StudyInstanceUID, image.SeriesInstanceUID = "2.25.1", "2.25.2"
    image.StudyDate, image.StudyTime, image.Modality = "20260101", "120000", "CT" if sop_class == CT else "US"
    image.PatientName, image.PatientID, image.PatientBirthDate = CANARY.decode(), CANARY.decode() + "-ID", "19640812"
    image.AccessionNumber, image.StudyID, image.SeriesNumber, image.InstanceNumber = "A1", "1", 1, 1
    image.ReferringPhysicianName = CANARY.decode() + "-REF"
    image.RequestAttributesSequence = Items([Dataset()])
    image.RequestAttributesSequence[0].RequestedProcedureID = "RP1"
    image.Rows = image.Columns = size
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated = image.BitsStored = 8
    image.HighBit, image.PixelRepresentation = 7, 0
    pixels = bytes(value * 7 % 251 for value in range(size * size + size * size % 2))
    image.PixelData = encapsulate([pixels, pixels]) if syntax in (RLE, JPEG, J2K) else pixels
    image["PixelData"].VR = "OB"
    if syntax in (RLE, JPEG, J2K):
        image.NumberOfFrames = 2
        image["PixelData"].is_undefined_length = True
    return image


def encode_data_set(image: Dataset, syntax: str) -> bytes:
    buffer = DicomBytesIO()
    buffer.is_implicit_VR, buffer.is_little_endian = syntax == IMPLICIT, syntax != BIG
    write_dataset(buffer, image)
    return buffer.getvalue()


def store(
    context_id: int, instance: str, data: bytes | None = None, *, message_id: int = 1, piece: int = 60_000
) -> list[bytes]:
    """A C-STORE-RQ as PDUs."""
    of = command(0x0001, message=message_id, sop_class=CONTEXTS[context_id][0], instance=instance, data=True)
    return message(context_id, of, data_set(context_id, instance) if data is None else data, piece=piece)


def echo(message_id: int = 1) -> list[bytes]:
    return message(1, command(0x0030, message=message_id, sop_class=VERIFICATION))


# ---------------------------------------------------------------- what the door answers


class Malformed(AssertionError):
    """The door itself broke the protocol."""


@dataclass
class Answers:
    """Takes the door's bytes as they come and understands them.

    Attributes
    ----------
    pdus
        Types of the PDUs so far.
    stored
        SOP Instance UIDs answered with Success to a C-STORE.
    statuses
        Status of every response that is not a successful C-STORE, as (command field, status).
    """

    pdus: list[int] = field(default_factory=list)
    stored: list[str] = field(default_factory=list)
    statuses: list[tuple[int, int]] = field(default_factory=list)
    rejection: tuple[int, ...] = ()
    aborted: tuple[int, ...] = ()
    _buffer: bytearray = field(default_factory=bytearray)
    _command: bytearray = field(default_factory=bytearray)

    def take(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 6:
            kind, _, length = struct.unpack_from(">BBL", self._buffer)
            if kind not in range(2, 8) or length > 1 << 20:
                raise Malformed(f"the door sent a PDU of type {kind:#x} and length {length}")
            if len(self._buffer) < 6 + length:
                return
            body = bytes(self._buffer[6 : 6 + length])
            del self._buffer[: 6 + length]
            self.pdus.append(kind)
            self._understand(kind, body)

    def ended(self) -> None:
        """The door closed: what is left must be nothing."""
        if self._buffer:
            raise Malformed(f"the door closed within a PDU, after {len(self._buffer)} bytes of it")

    def count(self) -> int:
        return len(self.pdus)

    def facts(self) -> dict[str, Any]:
        met = [f"PDU {kind}" for kind in self.pdus] + ["stored" for _ in self.stored]
        met += [f"answer {kind:04x} status {status:04x}" for kind, status in self.statuses]
        met += [f"rejected {self.rejection}"] * bool(self.rejection) + [f"aborted {self.aborted}"] * bool(self.aborted)
        ended = self.pdus[-1:] in ([0x03], [0x06])  # a rejection, or the answer to a release: the last word
        return {"met": met, "stored": self.stored, "ended": ended}

    def missing(self, expect: tuple[str, ...]) -> str:
        """Why what had to be acknowledged was not; empty if it was, or if the door said that it had no room."""
        if self.rejection[:1] == (2,) or set(expect) <= set(self.stored):
            return ""
        return f"not acknowledged; rejected {self.rejection}, aborted {self.aborted}, statuses {self.statuses}"

    def _understand(self, kind: int, body: bytes) -> None:
        if kind == 0x03:
            self.rejection = tuple(body[1:4])
        elif kind == 0x07:
            self.aborted = tuple(body[2:4])
        elif kind == 0x04:
            at = 0
            while at < len(body):
                length, _, header = struct.unpack_from(">LBB", body, at)
                if length < 2 or at + 4 + length > len(body):
                    raise Malformed("the door sent a PDV that does not fit its PDU")
                if header & 1:
                    self._command += body[at + 6 : at + 4 + length]
                    if header & 2:
                        self._answer(elements(bytes(self._command)))
                        self._command.clear()
                at += 4 + length

    def _answer(self, found: dict[int, bytes]) -> None:
        kind, status = (int.from_bytes(found.get(number, b"\xff\xff"), "little") for number in (0x0100, 0x0900))
        if (kind, status) == (0x8001, 0):
            self.stored.append(found.get(0x1000, b"").rstrip(b"\0 ").decode("latin-1"))
        else:
            self.statuses.append((kind, status))


def elements(encoded: bytes) -> dict[int, bytes]:
    """The elements of a command set that the door sent."""
    found, at = {}, 0
    while at < len(encoded):
        if at + 8 > len(encoded):
            raise Malformed("the door sent a command that ends within an element")
        group, number, length = struct.unpack_from("<HHL", encoded, at)
        if group or at + 8 + length > len(encoded):
            raise Malformed("the door sent a command with an element that does not fit")
        found[number] = encoded[at + 8 : at + 8 + length]
        at += 8 + length
    return found


def _ascii(value: str | bytes) -> bytes:
    return value if isinstance(value, bytes) else value.encode("latin-1")
