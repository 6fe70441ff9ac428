"""The alarm limits of a patient: what is allowed, the defaults of each profile, and what is in force for a bed.

Responsible for validation and for putting profile, ward and a bed's own limits together. Not responsible for comparing
values with them (``values``) or for who changed what (``beds``).

The defaults are those that bedside monitors commonly leave the factory with, per class of patient; docs/alarms.md lists
them with their sources. They are a start: each site decides.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, fields

import msgspec

from edgeward.bedside import ParameterLimit
from edgeward.config import LimitSetting, Monitor, Profile
from edgeward.parameters import PARAMETERS

SIDES = ("extreme_low", "low", "high", "extreme_high")
#: Allowed range of each limit.
RANGES: dict[str, tuple[float, float]] = {
    "asystole_s": (3.0, 10.0),
    "extreme_bradycardia": (15.0, 60.0),
    "extreme_tachycardia": (100.0, 300.0),
    "ventricular_tachycardia_rate": (80.0, 200.0),
    "ventricular_tachycardia_beats": (3, 15),
    "silence_s": (1.5, 10.0),
    "pause_s": (2.0, 6.0),
    "frequent_ventricular_beats": (1.0, 60.0),
}


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of the rhythm alarms of one patient. Rates in 1/min, times in seconds.

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
    pause_s: float = 3.0
    frequent_ventricular_beats: float = 10.0  # in a minute

    def __post_init__(self) -> None:
        for field in fields(self):
            low, high = RANGES[field.name]
            value = getattr(self, field.name)
            if not low <= value <= high:
                raise ValueError(f"{field.name} is {value}; allowed are {low:g} to {high:g}")
        if self.extreme_bradycardia >= self.extreme_tachycardia:
            raise ValueError("extreme_bradycardia must be below extreme_tachycardia")


def rhythm_limits(values: Mapping[str, float]) -> Limits:
    """Return rhythm limits from numbers by name.

    Raises
    ------
    ValueError
        If a name is unknown or a value is outside its range.
    """
    if unknown := sorted(set(values) - set(RANGES)):
        raise ValueError(f"there is no rhythm limit {unknown[0]}; there are {', '.join(RANGES)}")
    given = dict(values)
    beats = given.pop("ventricular_tachycardia_beats", 5)
    return Limits(**given, ventricular_tachycardia_beats=int(beats))


def with_extreme_rates(limits: Mapping[str, ParameterLimit], rhythm: Limits) -> dict[str, ParameterLimit]:
    """Return limits with the extremes of the rhythm for rates that a device counted, where nobody sees its ECG here.

    Where a limit has extremes of its own, or lies beyond those of the rhythm, it stays as it is.
    """
    found = dict(limits)
    for name in ("heart_rate", "pulse_rate"):
        limit = found.get(name, ParameterLimit())
        slow, fast = rhythm.extreme_bradycardia, rhythm.extreme_tachycardia
        if limit.extreme_low is None and (limit.low is None or slow <= limit.low):
            limit = msgspec.structs.replace(limit, extreme_low=slow)
        if limit.extreme_high is None and (limit.high is None or fast >= limit.high):
            limit = msgspec.structs.replace(limit, extreme_high=fast)
        found[name] = limit
    return found


def check_limit(parameter: str, limit: ParameterLimit) -> None:
    """Accept the limits of one parameter.

    Raises
    ------
    ValueError
        If the parameter is unknown, a limit is outside what is plausible, or they are not in order: extreme low, low,
        high, extreme high.
    """
    known = PARAMETERS.get(parameter)
    if known is None:
        raise ValueError(f"there is no parameter {parameter}")
    least, most = known.plausible
    order = [(name, value) for name in SIDES if (value := getattr(limit, name)) is not None]
    for name, value in order:
        if not least <= value <= most:
            raise ValueError(f"{parameter}: {name} is {value:g}; allowed are {least:g} to {most:g} {known.unit}")
    for (lower, a), (upper, b) in itertools.pairwise(order):
        same = a == b and lower.removeprefix("extreme_") == upper.removeprefix("extreme_")  # only the urgent one
        if not (a < b or same):
            raise ValueError(f"{parameter}: {lower} ({a:g}) must be below {upper} ({b:g})")
    if not 0 <= limit.delay_s <= 120:
        raise ValueError(f"{parameter}: a delay is 0 to 120 s")
    if not 0 <= limit.averaging_s <= 60:
        raise ValueError(f"{parameter}: averaging is 0 to 60 s")


def _limit(low: float | None, high: float | None, *, extreme_low: float | None = None,
           extreme_high: float | None = None, delay_s: float = 0.0) -> ParameterLimit:  # fmt: skip
    return ParameterLimit(low=low, high=high, extreme_low=extreme_low, extreme_high=extreme_high, delay_s=delay_s)


def _profile(
    *,
    rate: tuple[float, float],
    saturation: tuple[float, float | None, float],
    breathing: tuple[float, float],
    systolic: tuple[float, float],
    diastolic: tuple[float, float],
    mean: tuple[float, float],
    venous: tuple[float, float],
) -> dict[str, ParameterLimit]:
    return {
        # The extremes of the heart's rate are rhythm alarms, judged beat by beat.
        "heart_rate": _limit(*rate),
        "pulse_rate": _limit(*rate),
        # A delay of 10 s keeps out most of what a moving hand does to SpO2; the extreme has none.
        "spo2": _limit(saturation[0], saturation[1], extreme_low=saturation[2], delay_s=10.0),
        "respiratory_rate": _limit(*breathing, delay_s=4.0),
        "nibp_systolic": _limit(*systolic),
        "nibp_diastolic": _limit(*diastolic),
        "nibp_mean": _limit(*mean),
        "abp_systolic": _limit(*systolic),
        "abp_diastolic": _limit(*diastolic),
        "abp_mean": _limit(*mean),
        "cvp_mean": _limit(*venous),
        "temperature": _limit(36.0, 39.0),
        "etco2": _limit(30.0, 50.0),
    }


#: Limits of each built-in profile (docs/alarms.md, "Defaults").
DEFAULTS: dict[str, dict[str, ParameterLimit]] = {
    "adult": _profile(
        rate=(50, 120),
        saturation=(90, None, 80),
        breathing=(8, 30),
        systolic=(90, 160),
        diastolic=(50, 90),
        mean=(60, 110),
        venous=(0, 10),
    ),
    "child": _profile(
        rate=(75, 160),
        saturation=(90, None, 80),
        breathing=(8, 30),
        systolic=(70, 120),
        diastolic=(40, 70),
        mean=(50, 90),
        venous=(0, 4),
    ),
    # Too much oxygen harms a premature child's eyes: the upper limit matters too.
    "neonate": _profile(
        rate=(100, 200),
        saturation=(85, 95, 80),
        breathing=(30, 100),
        systolic=(40, 90),
        diastolic=(20, 60),
        mean=(24, 70),
        venous=(0, 4),
    ),
}
DEFAULTS["adult"]["glucose"] = _limit(70.0, 180.0, extreme_low=54.0)  # ADA Standards of Care: levels 1 and 2
#: Rhythm limits that differ from the site's ([monitor]).
RHYTHM: dict[str, dict[str, float]] = {
    "adult": {},
    "child": {"extreme_bradycardia": 40.0, "extreme_tachycardia": 220.0, "ventricular_tachycardia_rate": 120.0},
    "neonate": {
        "asystole_s": 3.0,
        "extreme_bradycardia": 50.0,
        "extreme_tachycardia": 240.0,
        "ventricular_tachycardia_rate": 150.0,
    },
}


def merge(base: ParameterLimit, setting: LimitSetting) -> ParameterLimit:
    """Return a profile's limits of one parameter with what the settings give over them."""

    def side(name: str) -> float | None:
        if name in setting.off:
            return None
        given: float | None = getattr(setting, name)
        return getattr(base, name) if given is None else given

    return ParameterLimit(
        low=side("low"),
        high=side("high"),
        extreme_low=side("extreme_low"),
        extreme_high=side("extreme_high"),
        priority=setting.priority or base.priority,
        delay_s=base.delay_s if setting.delay_s is None else setting.delay_s,
        averaging_s=base.averaging_s if setting.averaging_s is None else setting.averaging_s,
    )


class Profiles:
    """All profiles of a site: the built-in ones and those of its settings.

    Raises
    ------
    ValueError
        If a profile of the settings has a limit that is not allowed.
    """

    def __init__(self, monitor: Monitor | None = None, own: list[Profile] | None = None) -> None:
        # Not every limit has a setting for the whole site: the others are the profiles', or as `Limits` says.
        site = {name: float(getattr(monitor, name)) for name in RANGES if hasattr(monitor, name)}
        self.default = monitor.profile if monitor else "adult"
        self.limits: dict[str, dict[str, ParameterLimit]] = {name: dict(of) for name, of in DEFAULTS.items()}
        self.rhythm: dict[str, dict[str, float]] = {name: {**site, **of} for name, of in RHYTHM.items()}
        self.base = {name: name for name in DEFAULTS}
        for profile in own or []:
            try:
                self._add(profile)
            except ValueError as error:
                raise ValueError(f"profile {profile.name}: {error}") from error

    def _add(self, profile: Profile) -> None:
        limits = dict(self.limits[profile.base])
        for parameter, setting in profile.limits.items():
            limits[parameter] = merge(limits.get(parameter, ParameterLimit()), setting)
            check_limit(parameter, limits[parameter])
        rhythm = {**self.rhythm[profile.base], **profile.rhythm}
        rhythm_limits(rhythm)
        self.limits[profile.name], self.rhythm[profile.name] = limits, rhythm
        self.base[profile.name] = profile.base

    def adult(self, name: str) -> bool:
        """Return whether the profile is for adults: NEWS2 is not for anybody under 16."""
        return self.base.get(name) == "adult"
