"""From what a device wrote to a measurement, or to the statement that there is none: the rule of all protocols.

Responsible for telling values from what only looks like one (-999, 32767, NaN, "---"), for units and for plausible
ranges. Not responsible for codes (``codes``) or for the protocols' own words for "invalid".
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from typing import Literal

from edgeward import units
from edgeward.bedside import Vital
from edgeward.parameters import Parameter

Validity = Literal["valid", "questionable", "invalid", "demo", "test"]

# Numbers that devices write for "no value": IEEE 11073-20601 SFLOAT and FLOAT specials, the ends of integer types, and
# rows of nines as monitors' interface guides show them.
SENTINELS = frozenset({
    -9999.0, -999.0, -99.9, -999.9, -100.0, -99.0, 9999.0, 99999.0, 999999.0,
    32767.0, -32768.0, 65535.0, 8388607.0, -8388607.0, -8388608.0, 16777215.0, 2147483647.0, -2147483648.0,
    4294967295.0,
    2046.0, 2047.0, -2046.0, -2047.0, -2048.0,  # SFLOAT: +infinity, NaN, -infinity, NRes, reserved
    8388606.0, 8388605.0, -8388606.0, -8388605.0,
})  # fmt: skip
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d{1,3})?", re.ASCII)
_NOTHING = frozenset({
    "", '""', "-", "--", "---", "----", "-?-", "?", "??", "???", "***", "*", "...", "x", "nan", "null", "none", "na",
    "n/a", "nav", "inf", "+inf", "-inf", "infinity", "-infinity", "off", "invalid", "unknown", "other",
})  # fmt: skip
_LEVELS = {
    "a": 0, "alert": 0, "awake": 0, "mentally alert": 0,
    "c": 1, "confusion": 1, "confused": 1, "new confusion": 1, "acute confusion": 1,
    "v": 2, "voice": 2, "verbal": 2, "responds to voice": 2, "responsive to voice": 2, "response to voice": 2,
    "p": 3, "pain": 3, "responds to pain": 3, "responsive to pain": 3, "response to pain": 3,
    "u": 4, "unresponsive": 4, "unconscious": 4,
}  # fmt: skip
_LONGEST = 64
Bound = Literal["", "below", "above"]
#: What meters measure at the most, in the parameter's unit, where they say no more than "LO" or "HI". Blood glucose:
#: 20 to 600 mg/dL is the scale of most (some begin at 10); LO means hypoglycaemia in any case.
SCALES: dict[str, tuple[float, float]] = {"glucose": (20.0, 600.0)}
_OFF_SCALE: dict[str, Bound] = {"lo": "below", "low": "below", "hi": "above", "high": "above"}
_COMPARATORS: dict[str, Bound] = {"<": "below", "<=": "below", "≤": "below", ">": "above", ">=": "above", "≥": "above"}
_BOUNDED = re.compile(r"(<=|>=|<|>|≤|≥) ?(.*)")


def is_level(text: str) -> bool:
    """Whether a text is a level of consciousness."""
    return _word(text) in _LEVELS


def _word(text: str) -> str:
    return " ".join(text[: _LONGEST + 1].lower().split())


def number(text: str) -> float | None:
    """Return the number that `text` is, digits as ASCII and a point, or None. Never NaN or infinite."""
    text = text.strip()
    if len(text) > _LONGEST or not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def measured(
    parameter: Parameter,
    value: float | str | None,
    unit: str,
    *,
    at_ns: int = 0,
    code: str = "",
    validity: Validity = "valid",
    quality: float | None = None,
    why: str = "",
    bound: Bound = "",
) -> Vital:
    """Return what a device measured.

    Parameters
    ----------
    value
        As received: a number, its text, or None where the protocol itself says that there is none.
    unit
        As received (``units.convert``).
    at_ns
        When, by the device's clock; 0: not said.
    code
        What the device called it.
    why
        What the protocol says stands in the way; a value that comes along is then not used.
    bound
        The protocol says that the true value lies below, or above, this one. That is a statement only of what has a
        scale (`SCALES`); elsewhere a bound is no measurement. Text such as ``<20`` and ``LO`` says the same.

    Returns
    -------
    Vital
        With a value in the parameter's unit; or without, and `why` is one of ``no_value``, ``sentinel``,
        ``not_a_number``, ``unit``, ``implausible``, ``comparator``, or what was given.
    """
    if isinstance(value, str) and not bound and parameter.name in SCALES:
        bound, value = off_scale(value)
    if bound and parameter.name not in SCALES:
        why, bound = why or "comparator", ""
    found, reason = (None, why) if why else _read(parameter, value, unit)
    if bound and not why:
        found, reason = _at_the_end(parameter, bound, found, reason)
    return Vital(
        parameter=parameter.name,
        value=found,
        at_ns=at_ns,
        validity=validity if found is not None or validity != "valid" else "invalid",
        why=reason,
        quality=None if quality is None or not math.isfinite(quality) else min(1.0, max(0.0, quality)),
        code=code[:_LONGEST],
        bound=bound if found is not None else "",
    )


_MISREAD = {"unit": "came in a unit that is not read here", "not_a_number": "came as something that is no number"}


def complaints(vitals: Iterable[Vital]) -> list[str]:
    """Return what whoever looks after a device should know of what it sent: that it was not understood.

    That there is no value is the patient's and the sensor's business; that one was there and is not read is nobody's
    unless somebody is told.
    """
    found = (f"{one.parameter} {_MISREAD[one.why]}" for one in vitals if one.why in _MISREAD)
    return list(dict.fromkeys(found))


def comparator(text: str) -> Bound:
    """Return what a comparator (HL7 SN.1, FHIR Quantity.comparator) says of the number beside it; empty: nothing."""
    return _COMPARATORS.get(text.strip(), "")


def off_scale(text: str) -> tuple[Bound, str]:
    """Return whether a text says that a value was off the scale, and the text of the number, if it has one."""
    word = text[: _LONGEST + 1].strip()
    if side := _OFF_SCALE.get(word.lower()):
        return side, ""
    found = _BOUNDED.fullmatch(word)
    return (_COMPARATORS[found.group(1)], found.group(2)) if found else ("", text)


def _at_the_end(parameter: Parameter, bound: Bound, found: float | None, reason: str) -> tuple[float | None, str]:
    """Return the end of the scale where a bound has no number of its own, or one that cannot be used as such.

    Whether 33.3 is by mass or by substance may not be said; that it is the end of the scale is.
    """
    if found is None and reason in ("no_value", "unit", "implausible"):
        low, high = parameter.plausible if reason == "implausible" else SCALES[parameter.name]
        return (low if bound == "below" else high), ""
    return found, reason


def _read(parameter: Parameter, value: float | str | None, unit: str) -> tuple[float | None, str]:
    if value is None:
        return None, "no_value"
    if isinstance(value, bool) and parameter.plausible != (0, 1):
        return None, "not_a_number"  # yes and no are no heart rates of 1 and 0
    if isinstance(value, str):
        word = _word(value)
        if parameter.name == "consciousness" and word in _LEVELS:
            return float(_LEVELS[word]), ""
        if word in _NOTHING:
            return None, "no_value"
        as_number = number(value)
        if as_number is None:
            return None, "not_a_number"
        value = as_number
    try:
        value = float(value)
    except OverflowError:  # an integer of hundreds of digits
        return None, "implausible"
    if not math.isfinite(value):
        return None, "no_value"
    if value in SENTINELS:
        return None, "sentinel"
    converted = units.convert(value, unit, parameter)
    if converted is None:
        return None, "unit"
    low, high = parameter.plausible
    if not low <= converted <= high or (parameter.unit == "1" and converted != int(converted)):
        return None, "implausible"
    return converted, ""
