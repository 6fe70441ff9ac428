"""What a person typed about a bed: from the fields of a form to a `SetBed` or to values, or to what is wrong with it.

Responsible for reading numbers as people write them and for telling each wrong field by itself. Pure. The monitor has
the last word on what it accepts.
"""

from __future__ import annotations

import hashlib
import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast

import msgspec

from edgeward.bedside import BedInfo, BedSettings, ParameterLimit, Vital
from edgeward.parameters import PARAMETERS

SIDES = ("extreme_low", "low", "high", "extreme_high")
PRIORITIES = ("high", "medium", "low")
MAX_DELAY_S = 120.0
#: What is entered by hand: NEWS2's inputs (RCP 2017), and glucose.
ENTERED = (
    "respiratory_rate",
    "spo2",
    "supplemental_oxygen",
    "nibp_systolic",
    "nibp_diastolic",
    "heart_rate",
    "consciousness",
    "temperature",
    "glucose",
)
CHOSEN = {"supplemental_oxygen": (0, 1), "consciousness": (0, 1, 2, 3, 4)}

Fields = Mapping[str, str]


@dataclass(slots=True)
class Errors:
    """What is wrong: field -> key of the catalogue (``bedside.error.*``) and its slots."""

    fields: dict[str, tuple[str, dict[str, object]]] = field(default_factory=dict)

    def add(self, name: str, key: str, **slots: object) -> None:
        """Keep the first thing that is wrong with a field."""
        self.fields.setdefault(name, (key, slots))

    def __bool__(self) -> bool:
        return bool(self.fields)


def number(text: str) -> float | None:
    """Return a number as written by people: a decimal comma, full-width digits, a sign; None for an empty field.

    Raises
    ------
    ValueError
        If it is no finite number.
    """
    plain = text.strip().replace("\u2212", "-").replace("，", ".").replace(",", ".").replace("。", ".")
    if not plain:
        return None
    if len(plain) > 16 or "_" in plain:
        raise ValueError("not a number")
    value = float(plain)
    if not math.isfinite(value):
        raise ValueError("not a finite number")
    return value


def fingerprint(settings: BedSettings) -> str:
    """Return a short digest of what a form of limits showed: another one means that somebody changed them since."""
    return _digest((settings.limits, settings.rhythm, settings.profile, settings.disabled, settings.paced))


def place_fingerprint(settings: BedSettings) -> str:
    """Return such a digest of what the form of a bed's place showed."""
    return _digest((settings.label, settings.ward, settings.profile, settings.spo2_scale2, settings.sources))


def _digest(what: object) -> str:
    shown = msgspec.json.encode(what, order="sorted")
    return hashlib.sha256(shown).hexdigest()[:16]


def limited(info: BedInfo) -> list[str]:
    """Return the parameters that have or may have limits, in the order of the parameter table."""
    known = info.settings.limits.keys() | info.defaults.keys()
    free = {name for name, parameter in PARAMETERS.items() if parameter.mdc}
    return [name for name in PARAMETERS if name in known | free]


def _side(fields: Fields, name: str, side: str, errors: Errors) -> float | None:
    key = f"{name}.{side}"
    try:
        value = number(fields.get(key, ""))
    except ValueError:
        errors.add(key, "bedside.error.not_a_number")
        return None
    least, most = PARAMETERS[name].plausible
    if value is not None and not least <= value <= most:
        errors.add(key, "bedside.error.implausible", least=f"{least:g}", most=f"{most:g}")
    return value


def read_limit(fields: Fields, name: str, before: ParameterLimit, errors: Errors) -> ParameterLimit:
    """Return the limits of one parameter as typed. What the form does not show (averaging) stays as it was."""
    sides = {side: _side(fields, name, side, errors) for side in SIDES}
    given = [(side, value) for side, value in sides.items() if value is not None]
    for (lower, low), (upper, high) in itertools.pairwise(given):
        touching = {lower, upper} == {"extreme_low", "low"} or {lower, upper} == {"high", "extreme_high"}
        if low > high or (low == high and not touching):
            errors.add(f"{name}.{upper}", "bedside.error.order")
    try:
        delay = number(fields.get(f"{name}.delay_s", "")) or 0.0
    except ValueError:
        errors.add(f"{name}.delay_s", "bedside.error.not_a_number")
        delay = 0.0
    if not 0 <= delay <= MAX_DELAY_S:
        errors.add(f"{name}.delay_s", "bedside.error.implausible", least="0", most=f"{MAX_DELAY_S:g}")
    priority = fields.get(f"{name}.priority", before.priority)
    if priority not in PRIORITIES:
        errors.add(f"{name}.priority", "bedside.error.choose")
        priority = before.priority
    return ParameterLimit(
        **sides,
        priority=cast("Literal['high', 'medium', 'low']", priority),
        delay_s=delay,
        averaging_s=before.averaging_s,
    )


def read_limits(
    fields: Fields, info: BedInfo
) -> tuple[dict[str, ParameterLimit | None], dict[str, float | None], Errors]:
    """Return what was changed: limits per parameter (None: back to the profile's), rhythm limits, and what is wrong.

    A parameter of which the form has no field is left alone.
    """
    errors = Errors()
    limits: dict[str, ParameterLimit | None] = {}
    for name in limited(info):
        if not any(f"{name}.{side}" in fields for side in SIDES):
            continue
        default = info.defaults.get(name, ParameterLimit())
        before = info.settings.limits.get(name, default)
        wish = default if fields.get(f"{name}.profile") else read_limit(fields, name, before, errors)
        if wish != before:
            limits[name] = None if wish == default else wish
    rhythm: dict[str, float | None] = {}
    for name, value in info.settings.rhythm.items():
        key = f"rhythm.{name}"
        if key not in fields:
            continue
        try:
            typed = number(fields[key])
        except ValueError:
            errors.add(key, "bedside.error.not_a_number")
            continue
        if typed is not None and typed <= 0:
            errors.add(key, "bedside.error.positive")
        elif typed != value:
            rhythm[name] = typed  # an empty field goes back to the profile's
    return limits, rhythm, errors


def read_entry(fields: Fields, at_ns: int) -> tuple[list[Vital], Errors]:
    """Return the values that a person entered at the bed; an empty field is no value."""
    errors = Errors()
    vitals: list[Vital] = []
    for name in ENTERED:
        try:
            value = number(fields.get(name, ""))
        except ValueError:
            errors.add(name, "bedside.error.not_a_number")
            continue
        if value is None:
            continue
        least, most = PARAMETERS[name].plausible
        if name in CHOSEN and value not in CHOSEN[name]:
            errors.add(name, "bedside.error.choose")
        elif not least <= value <= most:
            errors.add(name, "bedside.error.implausible", least=f"{least:g}", most=f"{most:g}")
        else:
            vitals.append(Vital(parameter=name, value=value, at_ns=at_ns))
    by_name = {vital.parameter: vital.value for vital in vitals}
    high, low = by_name.get("nibp_systolic"), by_name.get("nibp_diastolic")
    if high is not None and low is not None and low >= high:
        errors.add("nibp_diastolic", "bedside.error.pressures")
    if not vitals and not errors:
        errors.add("form", "bedside.error.nothing")
    return vitals, errors
