"""A patient's weight and height, from how systems write them to kilogram and metre (DICOM 0010,1030 and 0010,1020).

Pure. A wrong weight at a scanner is a wrong dose: what is of no known unit, or of nobody's size, is dropped. Not
responsible for where in a message they stand (``hl7_orders``).
"""

from __future__ import annotations

from edgeward import ucum

# The smallest newborn that lived weighed 212 g and was 22 cm long; the heaviest man 635 kg, the tallest 2.72 m.
_KILOGRAMS = (0.2, 650.0)
_METRES = (0.2, 2.8)
_MASS: ucum.Dimension = (0, 1, 0, 0, 0)
_LENGTH: ucum.Dimension = (1, 0, 0, 0, 0)
# Spellings that are no UCUM, where case does not matter.
_SPELLED = {
    "kg": "kg", "kgs": "kg", "kilogram": "kg", "kilograms": "kg", "千克": "kg", "公斤": "kg",
    "g": "g", "gm": "g", "gms": "g", "gram": "g", "grams": "g", "克": "g", "mg": "mg",
    "lb": "[lb_av]", "lbs": "[lb_av]", "pound": "[lb_av]", "pounds": "[lb_av]", "[lb_av]": "[lb_av]",
    "oz": "[oz_av]", "ounce": "[oz_av]", "ounces": "[oz_av]", "[oz_av]": "[oz_av]",
    "m": "m", "meter": "m", "meters": "m", "metre": "m", "metres": "m", "米": "m", "mm": "mm",
    "cm": "cm", "cms": "cm", "centimeter": "cm", "centimeters": "cm", "centimetre": "cm", "centimetres": "cm",
    "厘米": "cm", "公分": "cm",
    "in": "[in_i]", "inch": "[in_i]", "inches": "[in_i]", "[in_i]": "[in_i]",
    "ft": "[ft_i]", "foot": "[ft_i]", "feet": "[ft_i]", "[ft_i]": "[ft_i]",
}  # fmt: skip


def kilograms(value: float, unit: str) -> float | None:
    """Return a weight in kilogram; None if its unit is not known or is of no mass, or nobody weighs so much.

    Parameters
    ----------
    unit
        UCUM, or as people write it. Empty: the kilogram.
    """
    found = value if not unit else _base(value, unit, _MASS, 1e-3)
    return _plausible(found, _KILOGRAMS)


def metres(value: float, unit: str) -> float | None:
    """Return a height in metre; None if its unit is not known or is of no length, or nobody is so tall.

    Parameters
    ----------
    unit
        UCUM, or as people write it. Empty: the metre, or the centimetre above 3.
    """
    found = (value / 100 if value > 3 else value) if not unit else _base(value, unit, _LENGTH, 1.0)
    return _plausible(found, _METRES)


def _base(value: float, unit: str, dimension: ucum.Dimension, factor: float) -> float | None:
    # People's spellings first: to UCUM "G" and "M" alone mean nothing, and capitals are common in HL7 v2.
    measure = ucum.read(_SPELLED.get(unit.strip().lower(), unit.strip()))
    if measure is None or measure.dimension != dimension:
        return None
    return value * measure.amount * factor


def _plausible(value: float | None, limits: tuple[float, float]) -> float | None:
    return value if value is not None and limits[0] <= value <= limits[1] else None
