"""What the compiled kernel has told of the ECGs, put into the words of conditions.

Responsible for the codes and arguments, and for when something began. Pure. Not responsible for when a condition holds
(``rhythm``) or for the conditions that only packets or time tell (``bank``).
"""

from __future__ import annotations

from typing import Any

from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.patient import CONDITIONS, Condition
from edgeward.clinic.monitor.seats import Patient

#: Argument that carries a condition's value in its message.
VALUE_NAME = {
    Condition.ASYSTOLE: "seconds",
    Condition.VENTRICULAR_FIBRILLATION: "rate",
    Condition.VENTRICULAR_TACHYCARDIA: "rate",
    Condition.EXTREME_BRADYCARDIA: "rate",
    Condition.EXTREME_TACHYCARDIA: "rate",
    Condition.NOISY: "quality",
    Condition.VENTRICULAR_RUN: "beats",
    Condition.PAUSE: "seconds",
    Condition.FREQUENT_VENTRICULAR_BEATS: "count",
    Condition.ECG_UNREADABLE: "seconds",
}
CODES = {condition: condition.name.lower() for condition in Condition}
assert len(CODES) == CONDITIONS


def as_event(told: Any, patient: Patient, *, end: int, received_ns: int, now_ns: int) -> ConditionEvent:
    """Return a transition as an event.

    Parameters
    ----------
    told : row of `patient.TRANSITION`
    patient : Patient
        Whose it is.
    end : int
        Stream index after the packet that told it.
    received_ns : int
        When that packet arrived.
    now_ns : int
    """
    condition = Condition(int(told["condition"]))
    onset, decisive = int(told["onset"]), int(told["decisive"])
    args: dict[str, float | str] = {}
    if told["on"]:
        if condition in VALUE_NAME:
            args[VALUE_NAME[condition]] = round(float(told["value"]), 2)
        if condition in {Condition.LEAD_OFF, Condition.ALL_LEADS_OFF}:
            mask = int(told["value"])
            args["leads"] = ", ".join(name for i, name in enumerate(patient.leads) if mask >> i & 1)
    return ConditionEvent(
        patient.device_id,
        CODES[condition],
        bool(told["on"]),
        now_ns,
        received_ns,
        onset_sample=onset,
        decisive_sample=decisive,
        # The packet's last sample was just measured when it arrived, give or take the way here.
        onset_ns=received_ns - int((end - onset) / patient.rate_hz * 1e9) if onset >= 0 else 0,
        args=args,
    )
