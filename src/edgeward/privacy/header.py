"""What the journal keeps of an object's header: from the encoded values of a few elements.

Responsible for what these values mean (PS3.3, PS3.5, 6.2), character sets included. Not responsible for finding them in
a data set (``gateway.walker``) or for what is not as it should be (``gateway.dataset``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from edgeward.privacy.items import Identity

_KEPT = 256  # characters of an identity value that are kept
_COUNT = 1 << 31  # a larger number of frames is nonsense

_CHARACTER_SET = 0x00080005
SOP_CLASS, SOP_INSTANCE = 0x00080016, 0x00080018
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
    {_CHARACTER_SET, SOP_CLASS, SOP_INSTANCE, _MODALITY, _STUDY, _SERIES, _FRAMES, _ROWS, _COLUMNS}
    | set(_IDENTITY.values())
)
WANTED = tuple(sorted(_WANTED))
_PERSON_NAMES = (0x00080090, 0x00100010)


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


def header_of(values: Mapping[int, bytes], *, little: bool) -> Header:
    """Return what the values of the elements in `WANTED` say; of one that is not there, nothing.

    Parameters
    ----------
    values
        By tag.
    little
        Whether numbers are little endian.
    """
    encodings = _encodings(values.get(_CHARACTER_SET, b""))
    identity = {name: _text(values[tag], tag, encodings) for name, tag in _IDENTITY.items() if tag in values}
    order: Literal["little", "big"] = "little" if little else "big"
    return Header(
        modality=ascii_of(values.get(_MODALITY, b""))[:16],
        study_instance_uid=ascii_of(values.get(_STUDY, b"")),  # not cut: two studies would be one
        series_instance_uid=ascii_of(values.get(_SERIES, b"")),
        rows=int.from_bytes(values.get(_ROWS, b"")[:2], order),
        columns=int.from_bytes(values.get(_COLUMNS, b"")[:2], order),
        frames=_number(values.get(_FRAMES, b"")),
        identity=Identity(**identity),
    )


def ascii_of(value: bytes) -> str:
    """Return a value without padding."""
    return value.decode("ascii", "replace").strip("\0 ")


def _number(value: bytes) -> int:
    """Return an IS value as a positive number, 1 if it is none."""
    text = ascii_of(value)
    return max(1, min(int(text), _COUNT)) if text.isdecimal() else 1


@lru_cache(256)
def _encodings(value: bytes) -> list[str]:
    """Return Python's names of the Specific Character Set (PS3.3, C.12.1.1.2); an unknown one is taken for ASCII."""
    names = ascii_of(value).split("\\")
    if names == [""]:
        return []
    import pydicom.charset  # seconds on a small machine: only for those who need it

    try:
        encodings: list[str] = pydicom.charset.convert_encodings([name.strip() for name in names])
    except (LookupError, ValueError):  # a NUL in a name is a ValueError of Python's codecs
        return []
    return encodings


def _text(value: bytes, tag: int, encodings: list[str]) -> str:
    if value.isascii() and b"\x1b" not in value:
        return value.decode("ascii").strip("\0 ")[:_KEPT]
    import pydicom.charset

    from edgeward.privacy.character_sets import undeclared

    delimiters = {0x5E, 0x3D, 0x5C} if tag in _PERSON_NAMES else {0x5C}
    try:
        text: str = pydicom.charset.decode_bytes(value, encodings, delimiters) if encodings else undeclared(value)
    except (LookupError, ValueError):
        text = value.decode("ascii", "replace")
    # A set may be named after any codec of Python's; some (unicode_escape, utf-7) give halves of characters, which
    # nobody can write down: what was acknowledged with them could never become an item.
    return text.encode("utf-8", "replace").decode().strip("\0 ")[:_KEPT]
