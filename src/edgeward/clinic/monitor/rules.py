"""The catalogue of alarms: how each condition alarms.

Responsible for priority (IEC 60601-1-8:2020, 6.1.2 and table 1: the severity of the possible harm and how soon it
comes), for what is technical, what latches (6.10), which alarms nobody may switch off, and which condition names the
same event more precisely than another. Codes are keys of the translations. Not responsible for the state of any alarm
(``alarms``).
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Literal

from edgeward.messages import AlarmPriority

Scope = Literal["bed", "source", "parameter"]


@dataclass(frozen=True, slots=True)
class Rule:
    """How one condition alarms.

    Attributes
    ----------
    priority
        Of the alarm, unless the limit that it is about has its own.
    technical
        About the equipment rather than the patient.
    latching
        Stays after the condition has ended, until somebody acknowledged it: the lethal ones.
    superseded_by
        While one of these is present, this one is not raised: it is the same event, named more precisely.
    scope
        What there can be one alarm of: the bed, each of its sources, or each parameter.
    fixed
        Nobody may switch it off.
    hold_s
        Its end is told only after so long without it: what comes and goes is one alarm, not one a minute. Never of a
        lethal one.
    event
        It was over as it was told, and holds a while only to be seen: hidden once, it does not come up again.
    settle_s
        Hidden by an alarm that is over, it is raised only if it still holds after so long: what it is about comes back
        later than what hid it.
    """

    priority: AlarmPriority
    technical: bool = False
    latching: bool = False
    superseded_by: tuple[str, ...] = ()
    scope: Scope = "bed"
    fixed: bool = False
    hold_s: float = 0.0
    event: bool = False
    settle_s: float = 0.0


HIGH, MEDIUM, LOW = AlarmPriority.HIGH, AlarmPriority.MEDIUM, AlarmPriority.LOW

#: Whatever is said of beats or rates is said better by one of these.
_VF = "ventricular_fibrillation"
_VT = "ventricular_tachycardia"
_LETHAL_FAST = (_VF, _VT)
_NO_SIGNAL = ("signal_lost", "all_leads_off")

#: Ectopic beats come in crowds, and values hover about a limit. Makers call this a time-out or a re-arm time.
_ECTOPY_S, _PASSING_S, _HOVER_S = 60.0, 30.0, 10.0


def _lethal(*superseded_by: str) -> Rule:
    return Rule(HIGH, latching=True, superseded_by=superseded_by, fixed=True)


RULES: dict[str, Rule] = {
    # -- lethal rhythms
    "asystole": _lethal(_VF),
    _VF: _lethal(),
    _VT: _lethal(_VF),
    "extreme_bradycardia": _lethal("asystole", _VF),
    "extreme_tachycardia": Rule(HIGH, superseded_by=(_VT, _VF, "asystole"), fixed=True),
    # a pacemaker that the heart does not answer (``pacing``); no limit of a value hides it
    "pacing_without_capture": _lethal("asystole", _VF),
    # pulse gone in every pulsatile signal while they are good; after an arrest the first beats come before it is found
    "no_pulse": replace(_lethal("asystole", _VF, _VT), settle_s=8.0),
    # -- other rhythms
    # three ventricular beats or more, short of a tachycardia
    "ventricular_run": Rule(MEDIUM, superseded_by=_LETHAL_FAST, hold_s=_ECTOPY_S),
    "pause": Rule(MEDIUM, superseded_by=("asystole", _VF), hold_s=_PASSING_S),
    "atrial_fibrillation": Rule(MEDIUM, superseded_by=_LETHAL_FAST, hold_s=_PASSING_S),
    "couplet": Rule(LOW, superseded_by=(*_LETHAL_FAST, "ventricular_run"), hold_s=_ECTOPY_S, event=True),
    "bigeminy": Rule(LOW, superseded_by=_LETHAL_FAST, hold_s=_ECTOPY_S),
    "trigeminy": Rule(LOW, superseded_by=_LETHAL_FAST, hold_s=_ECTOPY_S),
    "frequent_ventricular_beats": Rule(LOW, superseded_by=_LETHAL_FAST, hold_s=_ECTOPY_S),
    # -- breathing
    "apnea": Rule(HIGH, latching=True, fixed=True),
    # -- limits of parameters; priority of low and high: the limit's own
    "parameter_extreme_low": Rule(
        HIGH, superseded_by=("asystole", "extreme_bradycardia", "no_pulse", _VF), scope="parameter"
    ),
    "parameter_extreme_high": Rule(HIGH, superseded_by=("extreme_tachycardia", *_LETHAL_FAST), scope="parameter"),
    "parameter_low": Rule(
        MEDIUM,
        superseded_by=("parameter_extreme_low", "asystole", "extreme_bradycardia", "no_pulse", "apnea", _VF),
        scope="parameter",
        hold_s=_HOVER_S,
    ),
    "parameter_high": Rule(
        MEDIUM,
        superseded_by=("parameter_extreme_high", "extreme_tachycardia", *_LETHAL_FAST),
        scope="parameter",
        hold_s=_HOVER_S,
    ),
    # -- early warning
    "news2_emergency": Rule(HIGH),
    "news2_urgent": Rule(MEDIUM, superseded_by=("news2_emergency",)),
    # -- a lethal rhythm that other signals speak against: said, not hidden
    "asystole_unconfirmed": Rule(LOW, technical=True, superseded_by=("asystole",)),
    "ventricular_fibrillation_unconfirmed": Rule(LOW, technical=True, superseded_by=(_VF,)),
    "ventricular_tachycardia_unconfirmed": Rule(LOW, technical=True, superseded_by=(_VT, _VF)),
    "extreme_bradycardia_unconfirmed": Rule(LOW, technical=True, superseded_by=("extreme_bradycardia",)),
    "extreme_tachycardia_unconfirmed": Rule(LOW, technical=True, superseded_by=("extreme_tachycardia",)),
    # -- technical, of a source
    "signal_lost": Rule(MEDIUM, technical=True, scope="source", fixed=True),
    "all_leads_off": Rule(MEDIUM, technical=True, superseded_by=("signal_lost",), scope="source", fixed=True),
    "lead_off": Rule(LOW, technical=True, superseded_by=_NO_SIGNAL, scope="source"),
    "lead_swapped": Rule(LOW, technical=True, superseded_by=_NO_SIGNAL, scope="source", hold_s=_HOVER_S),
    # the ECG shows movement and no beat, so that an asystole could not be seen: its clock waits meanwhile
    "ecg_unreadable": Rule(
        MEDIUM, technical=True, superseded_by=(*_NO_SIGNAL, "asystole", _VF), scope="source", fixed=True
    ),
    "noisy": Rule(LOW, technical=True, superseded_by=(*_NO_SIGNAL, "ecg_unreadable"), scope="source", hold_s=_HOVER_S),
    "pulse_noisy": Rule(LOW, technical=True, superseded_by=_NO_SIGNAL, scope="source", hold_s=_HOVER_S),
    "sensor_off": Rule(MEDIUM, technical=True, superseded_by=("signal_lost",), scope="source"),
    "packets_missing": Rule(LOW, technical=True, superseded_by=("signal_lost",), scope="source"),
    "clock_offset": Rule(LOW, technical=True, superseded_by=("signal_lost",), scope="source"),
    "another_patient": Rule(LOW, technical=True, scope="source"),
    "no_value": Rule(
        MEDIUM,
        technical=True,
        superseded_by=("signal_lost", "all_leads_off", "sensor_off", "asystole", "no_pulse", _VF),
        scope="parameter",
        fixed=True,
        settle_s=10.0,
    ),
    # -- technical, of the site
    "signal_flood": Rule(HIGH, technical=True, fixed=True),
    # told once, after a start: nobody was watched in that time (6.12: the log knows of a loss of power)
    "monitoring_interrupted": Rule(LOW, technical=True, hold_s=60.0),
    "alarms_not_heard": Rule(HIGH, technical=True, fixed=True),
    "alarm_system_failure": Rule(HIGH, technical=True, fixed=True),
}

#: Lethal alarms that are checked against the pulse; each has an ``_unconfirmed`` that stands for it meanwhile.
UNCONFIRMED: dict[str, str] = {
    code.removesuffix("_unconfirmed"): code for code in RULES if code.endswith("_unconfirmed")
}
#: Parameters about which the rhythm alarms say more.
RATES = frozenset({"heart_rate", "pulse_rate"})
#: Parameters about which other alarms say more: of nothing else. An electrode says nothing of the finger's probe, and a
#: slow heart while nobody breathes is the alarm that matters.
_SAYS: dict[str, frozenset[str]] = {
    "apnea": frozenset({"respiratory_rate"}),
    "no_pulse": frozenset({"pulse_rate"}),
    "all_leads_off": frozenset({"heart_rate"}),
}


def names_better(other: tuple[str, str, str], this: tuple[str, str, str], measures: Collection[str] = ()) -> bool:
    """Return whether a present alarm `other` says what `this` would say. Each is (code, scope, source).

    The ECG and the pulse count the same heart: beyond the same limit they are one event, whichever tells it first.

    Parameters
    ----------
    measures
        What the sensor that `other` is about measures, if it is about one.
    """
    code, scope, source = this
    by, by_scope, by_source = other
    if by == code and by_scope != scope and RULES[code].scope == "parameter":
        return by != "no_value" and {scope, by_scope} == RATES
    if by not in RULES[code].superseded_by:
        return False
    mine, theirs = RULES[code].scope, RULES[by].scope
    if theirs == "source" and by_source != source:
        return False
    if mine == "parameter" and theirs == "parameter":
        return by_scope == scope or {scope, by_scope} == RATES
    if mine == "parameter" and by != "signal_lost":
        return scope in (measures if by == "sensor_off" else _SAYS.get(by, RATES))
    return True
