"""From what a device wrote to a measurement, or to the statement that there is none: the rule of all protocols.

Responsible for telling values from what only looks like one (-999, 32767, NaN, "---"), for units and for plausible
ranges. Not responsible for codes (``codes``) or for the protocols' own words for "invalid".
"""

from __future__ import annotations

import math
import re
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
    "a": 0, "alert": 0, "awake": 0,
    "c": 1, "confusion": 1, "confused": 1, "new confusion": 1, "acute confusion": 1,
    "v": 2, "voice": 2, "verbal": 2, "responds to voice": 2, "responsive to voice": 2,
    "p": 3, "pain": 3, "responds to pain": 3, "responsive to pain": 3,
    "u": 4, "unresponsive": 4, "unconscious": 4,
}  # fmt: skip
_LONGEST = 64


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

    Returns
    -------
    Vital
        With a value in the parameter's unit; or without, and `why` is one of ``no_value``, ``sentinel``,
        ``not_a_number``, ``unit``, ``implausible``, or what was given.
    """
    found, reason = (None, why) if why else _read(parameter, value, unit)
    return Vital(
        parameter=parameter.name,
        value=found,
        at_ns=at_ns,
        validity=validity if found is not None or validity != "valid" else "invalid",
        why=reason,
        quality=None if quality is None or not math.isfinite(quality) else min(1.0, max(0.0, quality)),
        code=code[:_LONGEST],
    )


def _read(parameter: Parameter, value: float | str | None, unit: str) -> tuple[float | None, str]:
    if value is None:
        return None, "no_value"
    if isinstance(value, bool) and parameter.plausible != (0, 1):
        return None, "not_a_number"  # yes and no are no heart rates of 1 and 0
    if isinstance(value, str):
        word = " ".join(value[: _LONGEST + 1].lower().split())
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
