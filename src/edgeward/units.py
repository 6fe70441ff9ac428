"""Units of measurement: from what devices write to the one unit that a parameter has here.

Responsible for UCUM (case sensitive; ``ucum`` reads its expressions), the units of SenML's registries (RFC 8428, 12.1;
RFC 8798), IEEE 11073-10101 (``MDC_DIM_...``, by name and number) and the spellings that monitors are known for. A unit
of another quantity does not convert, and neither does one that is not known: a number in the wrong unit is worse than
none.

Factors: UCUM 2.1 (m[Hg] = 133.3220 kPa, m[H2O] = 9.80665 kPa); glucose 180.156 g/mol (C6H12O6).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass

from edgeward import ucum
from edgeward.parameters import Parameter

_MMHG_PA = 133.322
_CMH2O_PA = 98.0665
_GLUCOSE = 18.0156  # mg/dL in 1 mmol/L


@dataclass(frozen=True, slots=True)
class _Unit:
    quantity: str
    factor: float = 1.0  # base = (value + shift) x factor
    shift: float = 0.0


_PER_MIN = _Unit("rate")
_PERCENT = _Unit("fraction")
_MMHG = _Unit("pressure")
_KPA = _Unit("pressure", 1000 / _MMHG_PA)
_HPA = _Unit("pressure", 100 / _MMHG_PA)
_CMH2O = _Unit("pressure", _CMH2O_PA / _MMHG_PA)
_CEL = _Unit("temperature")
_FAHRENHEIT = _Unit("temperature", 5 / 9, -32.0)
_KELVIN = _Unit("temperature", 1.0, -273.15)
_MG_DL = _Unit("glucose")
_MMOL_L = _Unit("glucose", _GLUCOSE)

# UCUM, SenML and IEEE 11073. MDC numbers: partition 4 (dimensions) x 65,536 + term.
_EXACT: dict[str, _Unit] = {
    "/min": _PER_MIN, "1/min": _PER_MIN, "min-1": _PER_MIN, "beat/min": _PER_MIN, "beats/min": _PER_MIN,
    "breaths/min": _PER_MIN, "MDC_DIM_BEAT_PER_MIN": _PER_MIN, "264864": _PER_MIN, "MDC_DIM_RESP_PER_MIN": _PER_MIN,
    "264928": _PER_MIN, "MDC_DIM_PER_MIN": _PER_MIN, "MDC_DIM_PULS_PER_MIN": _PER_MIN,
    "Hz": _Unit("rate", 60.0), "/s": _Unit("rate", 60.0), "1/s": _Unit("rate", 60.0),
    "MDC_DIM_HZ": _Unit("rate", 60.0), "264640": _Unit("rate", 60.0),
    "%": _PERCENT, "MDC_DIM_PERCENT": _PERCENT, "262688": _PERCENT, "/": _Unit("fraction", 100.0),
    "cm[Hg]": _Unit("pressure", 10.0), "m[Hg]": _Unit("pressure", 1000.0),
    "mm[Hg]": _MMHG, "mmHg": _MMHG, "mm Hg": _MMHG, "MDC_DIM_MMHG": _MMHG, "266016": _MMHG,
    "kPa": _KPA, "MDC_DIM_KILO_PASCAL": _KPA, "265987": _KPA, "hPa": _HPA, "mbar": _HPA,
    "MDC_DIM_HECTO_PASCAL": _HPA, "265986": _HPA, "Pa": _Unit("pressure", 1 / _MMHG_PA),
    "cm[H2O]": _CMH2O, "cmH2O": _CMH2O, "MDC_DIM_CM_H2O": _CMH2O, "266048": _CMH2O,
    "Cel": _CEL, "MDC_DIM_DEGC": _CEL, "268192": _CEL, "degC": _CEL, "°C": _CEL, "℃": _CEL, "C": _CEL, "DegC": _CEL,
    "[degF]": _FAHRENHEIT, "MDC_DIM_FAHR": _FAHRENHEIT, "266560": _FAHRENHEIT, "degF": _FAHRENHEIT,
    "°F": _FAHRENHEIT, "℉": _FAHRENHEIT, "F": _FAHRENHEIT, "K": _KELVIN,
    "mg/dL": _MG_DL, "mg/dl": _MG_DL, "MDC_DIM_MILLI_G_PER_DL": _MG_DL, "264274": _MG_DL, "mg%": _MG_DL,
    "mmol/L": _MMOL_L, "mmol/l": _MMOL_L, "MDC_DIM_MILLI_MOLE_PER_L": _MMOL_L, "266866": _MMOL_L, "mol/m3": _MMOL_L,
    "g/L": _Unit("glucose", 100.0), "g/l": _Unit("glucose", 100.0), "kg/m3": _Unit("glucose", 100.0),
}  # fmt: skip
# Spellings of people, where case does not matter.
_LOOSE: dict[str, _Unit] = {
    "bpm": _PER_MIN, "rpm": _PER_MIN, "brpm": _PER_MIN, "mmhg": _MMHG, "kpa": _KPA, "percent": _PERCENT,
    "pct": _PERCENT, "celsius": _CEL, "fahrenheit": _FAHRENHEIT, "cel": _CEL, "degc": _CEL, "degf": _FAHRENHEIT,
    "cmh2o": _CMH2O, "/min": _PER_MIN, "mm[hg]": _MMHG, "torr": _MMHG, "deg c": _CEL, "degrees c": _CEL,
    "deg f": _FAHRENHEIT, "degrees f": _FAHRENHEIT, "beats/minute": _PER_MIN, "beats per minute": _PER_MIN,
    "breaths/minute": _PER_MIN, "breaths per minute": _PER_MIN, "/minute": _PER_MIN, "br/min": _PER_MIN,
    "resp/min": _PER_MIN, "breath/min": _PER_MIN, "次/分": _PER_MIN, "次/min": _PER_MIN, "mmol/l": _MMOL_L,
    "mg/dl": _MG_DL, "mg/100ml": _MG_DL, "umol/l": _Unit("glucose", _GLUCOSE / 1000.0),
}  # fmt: skip

# What a dimension (metre, gram, second, mole, kelvin) measures here, and how much of our unit one of its base units is.
_MEASURES: dict[ucum.Dimension, tuple[str, float]] = {
    (0, 0, -1, 0, 0): ("rate", 60.0),
    ucum.NONE: ("fraction", 100.0),
    (-1, 1, -2, 0, 0): ("pressure", 1e-3 / _MMHG_PA),
    (-3, 1, 0, 0, 0): ("glucose", 0.1),
    (-3, 0, 0, 1, 0): ("glucose", _GLUCOSE),
}

_OF = {"/min": "rate", "%": "fraction", "mm[Hg]": "pressure", "Cel": "temperature", "mg/dL": "glucose"}
# IEEE 11073 numbers as Philips' MDIL writes them: partition and term in hexadecimal (0004-0aa0 = 4 x 65,536 + 2,720).
_MDIL = re.compile(r"([0-9A-Fa-f]{4})-([0-9A-Fa-f]{4})", re.ASCII)
_ANNOTATION = re.compile(r"\{[^{}]{0,50}\}")  # UCUM, 6: it has no meaning
# Without its unit such a number could be of another unit and still look right.
_AMBIGUOUS = frozenset({"cvp_mean", "etco2", "perfusion_index", "glucose"})
_LONGEST = 64


def known(unit: str) -> bool:
    """Whether a unit is known here, of whatever quantity."""
    return _find(unit) is not None or unit.strip() in ("1", "MDC_DIM_DIMLESS", "262656")


def differ(texts: Iterable[str]) -> bool:
    """Whether what a device wrote of one unit, as code and as text, is two units; what is not known does not count."""
    found = [unit for unit in map(_find, texts) if unit is not None]
    return any(one.quantity != found[0].quantity or not _alike(one, found[0]) for one in found[1:])


def convert(value: float, unit: str, parameter: Parameter) -> float | None:
    """Return `value` in the parameter's unit, or None if its own unit is unknown or of another quantity.

    Parameters
    ----------
    value
        As measured.
    unit
        As written by the device. Empty: the parameter's own, unless a number in another unit could be mistaken for it.
    """
    unit = unit.strip()
    if not unit:
        return None if parameter.name in _AMBIGUOUS else value
    quantity = _OF.get(parameter.unit)
    if quantity is None:  # a choice, not a measurement
        return value if unit in ("1", "MDC_DIM_DIMLESS", "262656") or _ANNOTATION.fullmatch(unit) else None
    if unit == "1" and quantity == "fraction":
        return value * 100.0
    found = _find(unit)
    if found is None or found.quantity != quantity:
        return None
    # Rounded to what a measurement can be: 37.000000000000004 is no finding.
    return round((value + found.shift) * found.factor, 9) if found.factor != 1.0 or found.shift else value


def decimal(number: str) -> str:
    """Return an IEEE 11073 number in decimal, also where it is written in hexadecimal (0002-4182 is 147842)."""
    found = _MDIL.fullmatch(number)
    return str((int(found[1], 16) << 16) + int(found[2], 16)) if found else number


def _find(unit: str) -> _Unit | None:
    unit = decimal(unit.strip())
    if len(unit) > _LONGEST:
        return None
    plain = _ANNOTATION.sub("", unit) if "{" in unit else unit
    if plain in ("/min", "1/min", ".min-1") or not plain:
        return _PER_MIN if plain else None
    return _EXACT.get(plain) or _EXACT.get(plain.upper()) or _LOOSE.get(plain.lower()) or _expressed(plain)


def _expressed(unit: str) -> _Unit | None:
    """Return what an expression of UCUM is here. "1" alone is no rate and no ratio: too many write it for nothing."""
    measure = ucum.read(unit)
    if measure is None or unit.isdigit():
        return None
    if measure.dimension == (0, 0, 0, 0, 1):
        return _Unit("temperature", measure.amount, -273.15 / measure.amount)
    quantity, factor = _MEASURES.get(measure.dimension, ("", 0.0))
    return _Unit(quantity, measure.amount * factor) if quantity else None


def _alike(one: _Unit, other: _Unit) -> bool:
    return math.isclose(one.factor, other.factor, rel_tol=1e-6) and math.isclose(one.shift, other.shift, rel_tol=1e-6)
