"""Value types of HL7 v2 as DICOM writes them: times, dates, names, sexes.

Pure functions. Not responsible for which field holds what.
"""

from __future__ import annotations

import datetime as dt
import re

from edgeward.hl7.er7 import Segment

_TIME = re.compile(
    r"^(\d{4})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:\.(\d{1,6})\d*)?)?)?)?)?)?([+-]\d{4})?$"
)
_UNWANTED = re.compile(r"[\x00-\x1f\x7f\\]")  # PS3.5, 6.1.2.3 and 6.2: not in LO, SH or PN


def time(text: str) -> dt.datetime | None:
    """Return a time stamp (TS, DTM; 2.A.22) as a moment, in the site's zone if it names none; None if it is none."""
    match = _TIME.match(text.strip())
    if not match:
        return None
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        at = dt.datetime(  # noqa: DTZ001 - the zone follows
            int(year), int(month or 1), int(day or 1), int(hour or 0), int(minute or 0), min(int(second or 0), 59),
            int((fraction or "").ljust(6, "0") or 0),
        )  # fmt: skip
        if zone:
            offset = dt.timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
            return at.replace(tzinfo=dt.timezone(-offset if zone[0] == "-" else offset))
        return at.astimezone()
    except (ValueError, OverflowError, OSError):
        return None


def nanoseconds(at: dt.datetime) -> int:
    """Return a moment as nanoseconds since the epoch."""
    return int(at.timestamp()) * 10**9 + at.microsecond * 1000


def local(at: dt.datetime) -> str:
    """Return a moment as DICOM DT to the second, in the site's local time and without a zone."""
    return at.astimezone().strftime("%Y%m%d%H%M%S")


def date(text: str) -> str:
    """Return a date as DICOM DA, or an empty string if it is not known to the day."""
    digits = text.strip()[:8]
    if len(digits) == 8 and digits.isascii() and digits.isdigit():
        try:
            dt.date(int(digits[:4]), int(digits[4:6]), int(digits[6:]))
        except ValueError:
            return ""
        return digits
    return ""


def clean(text: str, most: int = 64) -> str:
    """Return text as it may stand in LO, SH or a component of PN: no control characters, no backslash, bounded."""
    return _UNWANTED.sub(" ", text).strip()[:most].strip()


def sex(text: str) -> str:
    """Return an administrative sex (table 0001) as DICOM CS: M, F, O, or empty for unknown."""
    return {"M": "M", "F": "F", "O": "O", "A": "O"}.get(text.strip().upper()[:1], "")


def person(segment: Segment, number: int, *, clinician: bool = False) -> str:
    """Return a name (XPN, or XCN for a clinician) as DICOM PN (PS3.5, 6.2.1).

    Of several names of a patient the legal one is taken (XPN-7 = L), with its ideographic and phonetic forms if
    they are given (XPN-8 = I, P).
    """
    shift = 1 if clinician else 0  # an XCN begins with an id
    kind_at, form_at = (10, 15) if clinician else (7, 8)
    count = segment.repetitions(number)
    if not count:
        return ""
    rows = range(1, min(count, 10) + 1)
    kinds = {row: segment.text(number, kind_at, row).upper() for row in rows}
    legal = [row for row in rows if kinds[row] == "L"]
    chosen = legal or [row for row in rows if kinds[row] == kinds[1]]
    forms: dict[str, str] = {}
    for row in chosen:
        form = segment.text(number, form_at, row).upper() or "A"
        name = _name(segment, number, row, shift)
        if name and form not in forms:
            forms[form] = name
    groups = [forms.get("A", ""), forms.get("I", ""), forms.get("P", "")]
    if not any(groups) and forms:
        groups[0] = next(iter(forms.values()))
    return "=".join(groups).rstrip("=")


def _name(segment: Segment, number: int, row: int, shift: int) -> str:
    family = segment.text(number, 1 + shift, row)
    given, middle, suffix, prefix = (segment.text(number, part + shift, row) for part in (2, 3, 4, 5))
    # PN counts prefix before suffix, XPN the other way round.
    parts = [_part(value) for value in (family, given, middle, prefix, suffix)]
    return "^".join(parts).rstrip("^")[:64]


def _part(text: str) -> str:
    return clean(text).replace("^", " ").replace("=", " ")
