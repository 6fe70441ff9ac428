"""The alarm limits of a patient, with what is allowed and where the defaults come from.

Responsible for their validation only.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

#: Allowed range of each limit.
RANGES: dict[str, tuple[float, float]] = {
    "asystole_s": (3.0, 10.0),
    "extreme_bradycardia": (15.0, 60.0),
    "extreme_tachycardia": (100.0, 300.0),
    "ventricular_tachycardia_rate": (80.0, 200.0),
    "ventricular_tachycardia_beats": (3, 15),
    "silence_s": (1.5, 10.0),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of one patient. Rates in 1/min, times in seconds.

    Defaults after docs/findings.md "Clinical numbers" and IEC 60601-2-27; they are the site's to change, per patient.

    Raises
    ------
    ValueError
        If a value is outside its range in `RANGES`, or bradycardia is not below tachycardia.
    """

    asystole_s: float = 4.0
    extreme_bradycardia: float = 35.0
    extreme_tachycardia: float = 160.0
    ventricular_tachycardia_rate: float = 100.0
    ventricular_tachycardia_beats: int = 5
    silence_s: float = 4.0

    def __post_init__(self) -> None:
        for field in fields(self):
            low, high = RANGES[field.name]
            value = getattr(self, field.name)
            if not low <= value <= high:
                raise ValueError(f"{field.name} is {value}; allowed are {low:g} to {high:g}")
        if self.extreme_bradycardia >= self.extreme_tachycardia:
            raise ValueError("extreme_bradycardia must be below extreme_tachycardia")
