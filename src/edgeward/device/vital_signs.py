"""The vital signs of an invented patient, and how devices write them: SenML packs and PCD-01 messages.

Responsible for numbers that look alive (each wanders about its own mean, within the adult alarm limits), for a
desaturation on request, and for the two forms. Pure: time is passed in. Not responsible for sending.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import random
from dataclasses import dataclass, field

from edgeward.hl7 import er7
from edgeward.parameters import PARAMETERS

# Mean of patients, spread between patients, wander of one patient, time of the wander (s).
_CONTINUOUS = {
    "heart_rate": (76.0, 7.0, 3.0, 40.0),
    "spo2": (97.0, 0.8, 0.6, 60.0),
    "perfusion_index": (2.4, 0.8, 0.3, 60.0),
    "respiratory_rate": (15.0, 1.2, 0.8, 45.0),
}
_EPISODIC = {
    "nibp_systolic": (122.0, 8.0, 4.0, 600.0),
    "nibp_diastolic": (76.0, 5.0, 3.0, 600.0),
    "temperature": (36.8, 0.25, 0.1, 3600.0),
}
# The same as the site's adult profile, with room: nobody's alarm sounds because a simulated patient wandered.
_WITHIN = {
    "heart_rate": (58.0, 104.0), "spo2": (95.0, 100.0), "perfusion_index": (0.5, 8.0), "respiratory_rate": (12.0, 20.0),
    "nibp_systolic": (104.0, 146.0), "nibp_diastolic": (58.0, 88.0), "temperature": (36.2, 37.8),
}  # fmt: skip
NIBP_EVERY_S = 300.0
_SPOT_EVERY_S = 900.0  # temperature, oxygen, consciousness: what a nurse looks at
_FALL_S, _LOW = 25.0, 82.0  # a desaturation: how fast, how far

_MDC_UNITS = {
    "/min": ("264864", "MDC_DIM_BEAT_PER_MIN"),
    "%": ("262688", "MDC_DIM_PERCENT"),
    "mm[Hg]": ("266016", "MDC_DIM_MMHG"),
    "Cel": ("268192", "MDC_DIM_DEGC"),
}
_BREATHS = ("264928", "MDC_DIM_RESP_PER_MIN")
_CHANNELS = {"heart_rate": "1.7.4", "spo2": "1.3.1", "perfusion_index": "1.3.1", "pulse_rate": "1.3.1"}


@dataclass(frozen=True, slots=True)
class Measured:
    """One number of a patient."""

    parameter: str
    value: float
    at_s: float  # when, seconds since the epoch
    quality: float | None = None


@dataclass(slots=True)
class Patient:
    """An invented patient.

    Attributes
    ----------
    seed
        The same seed gives the same patient.
    leave_out
        Parameters that are measured by something else.
    """

    seed: int
    leave_out: frozenset[str] = frozenset()
    _rng: random.Random = field(init=False)
    _means: dict[str, float] = field(init=False)
    _state: dict[str, float] = field(init=False)
    _at_s: float = 0.0
    _due: dict[str, float] = field(default_factory=dict)
    _spot: dict[str, Measured] = field(default_factory=dict)
    _falls: tuple[float, float] = (0.0, 0.0)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        every = _CONTINUOUS | _EPISODIC
        self._means = {name: self._rng.gauss(mean, spread) for name, (mean, spread, _, _) in every.items()}
        self._state = dict.fromkeys(every, 0.0)

    def desaturate(self, at_s: float, for_s: float) -> None:
        """Let the saturation fall at `at_s` and recover after `for_s` seconds."""
        self._falls = (at_s, at_s + for_s)

    def measure(self, at_s: float) -> list[Measured]:
        """Return what a monitor shows at `at_s`: what is continual, and the last of what is measured now and then."""
        step = max(0.0, min(at_s - self._at_s, 3600.0))
        self._at_s = at_s
        for name, (_, _, wander, time_s) in (_CONTINUOUS | _EPISODIC).items():
            # A random walk that is drawn home (Ornstein and Uhlenbeck).
            kept = math.exp(-step / time_s)
            self._state[name] = self._state[name] * kept + self._rng.gauss(0, wander) * math.sqrt(1 - kept * kept)
        found = [Measured(name, self._now(name), at_s) for name in _CONTINUOUS]
        found = [
            Measured(one.parameter, self._fallen(one.value, at_s), at_s, 0.95) if one.parameter == "spo2" else one
            for one in found
        ]
        if at_s >= self._due.get("nibp", 0.0):
            self._due["nibp"] = at_s + NIBP_EVERY_S
            systolic, diastolic = self._now("nibp_systolic"), self._now("nibp_diastolic")
            mean = round(diastolic + (systolic - diastolic) / 3)
            for name, value in (("nibp_systolic", systolic), ("nibp_diastolic", diastolic), ("nibp_mean", mean)):
                self._spot[name] = Measured(name, value, at_s)
        if at_s >= self._due.get("spot", 0.0):
            self._due["spot"] = at_s + _SPOT_EVERY_S
            for name, value in (
                ("temperature", self._now("temperature")),
                ("supplemental_oxygen", 0.0),
                ("consciousness", 0.0),
            ):
                self._spot[name] = Measured(name, value, at_s)
        return [one for one in (*found, *self._spot.values()) if one.parameter not in self.leave_out]

    def _now(self, name: str) -> float:
        low, high = _WITHIN[name]
        value = max(low, min(high, self._means[name] + self._state[name]))
        return round(value, PARAMETERS[name].decimals)

    def _fallen(self, value: float, at_s: float) -> float:
        begin, end = self._falls
        if not begin <= at_s < end + _FALL_S:
            return value
        depth = min(1.0, (at_s - begin) / _FALL_S) if at_s < end else 1.0 - (at_s - end) / _FALL_S
        return float(round(value + (_LOW - value) * depth))


def senml(found: list[Measured], now_s: float, base_name: str, number: int) -> bytes:
    """Return measurements as a SenML pack in JSON; times relative to its base time."""
    records: list[dict[str, object]] = [{"bn": base_name, "bt": round(now_s, 3), "n": "sequence", "v": number}]
    for one in found:
        unit = PARAMETERS[one.parameter].unit
        record: dict[str, object] = {"n": one.parameter, "v": one.value}
        if unit != "1":
            record["u"] = {"mm[Hg]": "mmHg", "/min": "1/min"}.get(unit, unit)
        if before := round(one.at_s - now_s, 3):
            record["t"] = before
        records.append(record)
        if one.quality is not None:
            records.append({**record, "n": f"{one.parameter}/quality", "u": "/", "v": one.quality})
    return json.dumps(records).encode()


@dataclass(frozen=True, slots=True)
class Place:
    """A bed as PV1-3 and PID name it. The patient is invented."""

    unit: str
    room: str
    bed: str
    patient_id: str
    family: str
    given: str


MONITORING = ("182777000", "monitoring of patient", "SCT")
CONTINUOUS = ("69121", "MDC_OBS_WAVE_CTS", "MDC")


def wave_head(now_s: float, place: Place, control: str) -> list[str]:
    """Return what stands before the arrays of a message of continuous waveforms."""
    return _head(now_s, place, control, CONTINUOUS)


def _head(now_s: float, place: Place, control: str, about: tuple[str, str, str]) -> list[str]:
    system = ("SIMBEDSIDE", "0000000000000001", "EUI-64")
    request = (control, *system)
    profile = ("IHE_PCD_001", "IHE PCD", "1.3.6.1.4.1.19376.1.6.1.1.1", "ISO")
    return [
        er7.segment(
            "MSH", system, ("SIMULATED",), "EDGEWARD", "SITE", stamp(now_s), "", ("ORU", "R01", "ORU_R01"), control,
            "P", "2.6", "", "", "AL", "NE", "", "UNICODE UTF-8", "", "", profile,
        ),
        er7.segment("PID", "1", "", (place.patient_id, "", "", "SIMHIS", "MR"), "", (place.family, place.given)),
        er7.segment("PV1", "1", "I", (place.unit, place.room, place.bed)),
        er7.segment("OBR", "1", request, request, about, "", "", stamp(now_s)),
    ]  # fmt: skip


def pcd01(found: list[Measured], now_s: float, place: Place, control: str) -> str:
    """Return measurements as ORU^R01 by IHE PCD-01. What has no MDC code stays out."""
    lines = _head(now_s, place, control, MONITORING)
    lines.append(
        er7.segment("OBX", "1", "", ("69965", "MDC_DEV_MON_PHYSIO_MULTI_PARAM_MDS", "MDC"), "1.0.0.0", *([""] * 6), "X")
    )
    number = 1
    for one in found:
        parameter = PARAMETERS[one.parameter]
        if not parameter.mdc:
            continue
        number += 1
        unit = _BREATHS if parameter.name == "respiratory_rate" else _MDC_UNITS[parameter.unit]
        channel = _CHANNELS.get(parameter.name, "1.1.9")
        fields: list[er7.Value] = [
            str(number), "NM", (str(parameter.mdc_code), parameter.mdc, "MDC"), f"{channel}.{parameter.mdc_code}",
            f"{one.value:.{parameter.decimals}f}", (*unit, "MDC"), "", "", "", "", "R", "", "", stamp(one.at_s),
        ]  # fmt: skip
        if one.at_s < now_s:
            fields += ["", "", ("", "APERIODIC")]
        lines.append(er7.segment("OBX", *fields))
    return er7.join(lines)


def stamp(at_s: float) -> str:
    """Return seconds since the epoch as an HL7 time, UTC."""
    at = dt.datetime.fromtimestamp(at_s, dt.UTC)
    return f"{at:%Y%m%d%H%M%S}.{at.microsecond // 1000:03d}+0000"
