"""Acknowledgements (HL7 v2.5.1, 2.9): which one is due, and its text.

Responsible for original and enhanced mode and for the ERR segment of both styles (to v2.4 ERR-1, from v2.5 ERR-2 to
ERR-4). An ERR segment names the field that is wrong and never quotes it.
"""

from __future__ import annotations

import datetime as dt
import re
import uuid
from dataclasses import dataclass
from enum import StrEnum

from edgeward.hl7.er7 import Message, join, segment


class Outcome(StrEnum):
    """MSA-1 in original mode (table 0008); enhanced mode has CA, CE and CR in their place."""

    ACCEPTED = "AA"
    ERROR = "AE"
    REJECTED = "AR"


class Code(StrEnum):
    """Table 0357, message error condition codes."""

    SEGMENT_SEQUENCE = "100"
    FIELD_MISSING = "101"
    DATA_TYPE = "102"
    TABLE_VALUE = "103"
    UNSUPPORTED_TYPE = "200"
    UNSUPPORTED_EVENT = "201"
    UNSUPPORTED_VERSION = "203"
    UNKNOWN_KEY = "204"
    DUPLICATE_KEY = "205"
    INTERNAL = "207"


_MEANING = {
    Code.SEGMENT_SEQUENCE: "Segment sequence error",
    Code.FIELD_MISSING: "Required field missing",
    Code.DATA_TYPE: "Data type error",
    Code.TABLE_VALUE: "Table value not found",
    Code.UNSUPPORTED_TYPE: "Unsupported message type",
    Code.UNSUPPORTED_EVENT: "Unsupported event code",
    Code.UNSUPPORTED_VERSION: "Unsupported version id",
    Code.UNKNOWN_KEY: "Unknown key identifier",
    Code.DUPLICATE_KEY: "Duplicate key identifier",
    Code.INTERNAL: "Application internal error",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a message. `where` is a place such as ``PID-3`` or ``MSH``; `text` must not quote identity.

    One that was accepted and has a `code` carries a warning. `partly`: an error, but the rest of the message was taken.
    """

    outcome: Outcome
    text: str = ""
    code: Code | None = None
    where: str = ""
    partly: bool = False


ACCEPTED = Answer(Outcome.ACCEPTED)


def due(message: Message, outcome: Outcome) -> str:
    """Return MSA-1 of the answer that the sender asked for, or an empty string if it wants none.

    MSH-15 and MSH-16 empty: original mode. Otherwise (enhanced mode) an application acknowledgement if MSH-16 asks
    for one, else an accept acknowledgement if MSH-15 does.
    """
    accept, application = message.header.text(15).upper(), message.header.text(16).upper()
    if not {accept, application} - {""} or {accept, application} - {"", "AL", "NE", "ER", "SU"}:
        return str(outcome)  # also where what is asked for is not in table 0155: better one answer too many
    if _wanted(application, outcome):
        return str(outcome)
    if _wanted(accept, outcome):
        return f"C{outcome[1]}"
    return ""


def _wanted(condition: str, outcome: Outcome) -> bool:
    good = outcome is Outcome.ACCEPTED
    return condition == "AL" or (condition == "ER" and not good) or (condition == "SU" and good)


def write(message: Message, answer: Answer, code: str, now: dt.datetime) -> str:
    """Return the text of an acknowledgement.

    Parameters
    ----------
    code
        MSA-1, from ``due``.
    """
    header = message.header
    version = message.version if re.fullmatch(r"2\.[1-9](\.[1-9])?", message.version) else "2.5.1"
    newer = tuple(map(int, version.split("."))) >= (2, 5)
    event = message.event
    kind: tuple[str, ...] = ("ACK", event, "ACK") if newer else ("ACK", event) if event else ("ACK",)
    place, _, field = answer.where.partition("-")
    lines = [
        segment(
            "MSH",
            _components(message, 5) or "EDGEWARD",
            _components(message, 6),
            _components(message, 3),
            _components(message, 4),
            now.strftime("%Y%m%d%H%M%S%z"),
            "",
            kind,
            uuid.uuid4().hex[:20],
            header.text(11) or "P",
            version,
            *([""] * 5),
            header.text(18),
        ),
        segment("MSA", code, message.control_id, answer.text[:80] if answer.code is None or not newer else ""),
    ]
    if answer.code is not None:
        meaning = _MEANING[answer.code]
        if newer:
            location: tuple[str, ...] = (place, "1", field) if place else ()
            lines.append(
                segment(
                    "ERR",
                    "",
                    location,
                    (str(answer.code), meaning, "HL70357"),
                    "W" if answer.outcome is Outcome.ACCEPTED else "E",  # table 0516: a warning, it was taken
                    *("", "", ""),
                    answer.text[:250],
                )
            )
        elif answer.outcome is not Outcome.ACCEPTED:  # ERR-1 knows no warnings
            # ERR-1 is of type ELD: segment, sequence, field, code (a coded value, its parts as subcomponents).
            lines.append(f"ERR|{place}^1^{field}^{answer.code}&{meaning}&HL70357")
    return join(lines)


def _components(message: Message, number: int) -> tuple[str, ...] | str:
    parts = tuple(message.header.text(number, component) for component in (1, 2, 3))
    return parts if any(parts) else ""


def unreadable(reason: str, control_id: str, now: dt.datetime) -> str:
    """Return the rejection of something that is not a message; `control_id` as far as it could be seen."""
    header = ("EDGEWARD", "", "", "", now.strftime("%Y%m%d%H%M%S%z"), "", ("ACK",), uuid.uuid4().hex[:20], "P", "2.5.1")
    return join(
        [
            segment("MSH", *header),
            segment("MSA", "AR", control_id),
            segment(
                "ERR",
                "",
                "",
                (str(Code.SEGMENT_SEQUENCE), _MEANING[Code.SEGMENT_SEQUENCE], "HL70357"),
                "E",
                "",
                "",
                "",
                reason,
            ),
        ]
    )
