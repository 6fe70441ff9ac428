"""Sentences with slots for values: the form of every text about an alarm, in the console and in what leaves the site.

Responsible for filling the slots and for units as people write them. The sentences are the console's (``locales``) and
the notices' (``clinic.notices.sentences``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_SLOT = re.compile(r"\{([a-z_0-9]+)(?::\.(\d)f)?\}")
UNITS = {"/min": "/min", "mm[Hg]": "mmHg", "Cel": "°C", "1": ""}  # UCUM as people read it
_MARKS = {"below": "<", "above": ">"}


def fill(text: str, values: Mapping[str, object]) -> str:
    """Put `values` into the slots ``{name}`` or ``{name:.1f}``; a slot without a value stays visible as an em dash."""

    def one(match: re.Match[str]) -> str:
        value = values.get(match[1])
        if value is None:
            return "—"
        if match[2] is not None and isinstance(value, (int, float)):
            return f"{value:.{int(match[2])}f}"
        return f"{value:g}" if isinstance(value, float) else str(value)

    return _SLOT.sub(one, text)


def particulars(args: Mapping[str, object]) -> dict[str, object]:
    """Return an alarm's particulars with the unit as people write it, and with the sign of a value off the scale."""
    words = dict(args)
    unit = words.get("unit")
    if isinstance(unit, str):
        words["unit"] = UNITS.get(unit, unit)
    mark, value = _MARKS.get(str(words.get("bound", ""))), words.get("value")
    if mark and isinstance(value, (int, float)):
        words["value"] = f"{mark} {value:g}"
    return words
