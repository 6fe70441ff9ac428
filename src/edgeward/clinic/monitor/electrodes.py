"""Tells electrodes that were put on the wrong places, or leads that were mixed up on the way here.

Responsible for three signs, each held for many seconds before it is told, because a false one wastes a nurse's walk:

- *turned over*: the beats of a lead are, from one moment on, its earlier usual beats mirrored, as wide and as tall. No
  rhythm does that; a bundle branch block or a ventricular rhythm is not a mirrored beat of the same width.
- *arms*: lead I has a P wave and a QRS that both point down, while a chest lead (V5, V6) points up. Right and left arm
  are swapped (or the heart lies on the right).
- *unfit*: three or more limb leads do not follow from any two of them (Einthoven: I + III = II; Goldberger for aVR,
  aVL, aVF). Electrodes cannot do that; a wrong label or cable does.

It reads what the kernel has learnt (``seats``), with the clock, not with the samples: the condition is about equipment.
Not responsible for electrodes that are off (``rhythm``). What it cannot tell: swaps that change little (left arm and
leg), swaps from the beginning without a chest lead, precordial leads among themselves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.seats import Patient
from edgeward.clinic.monitor.state import MASK, SHAPE

CODE = "lead_swapped"
LOOK_NS = 2_000_000_000
LOOKS = 6  # so many looks in a row, each at a new beat where it is about beats
#: A lead's shape is its own after so many beats.
USUAL_BEATS = 30
#: Energy of a mirrored beat that its model does not explain, against that of both; 1: nothing in common.
MIRRORED_REST, UPRIGHT_REST = 0.12, 0.4
WIDTH_LOG = 0.3  # width of the beat against the usual one
P_LIKE, P_LEAST_MV, P_BEATS, QRS_LEAST_MV = 0.75, 0.04, 60, 0.3
LIMB = {"I": (1.0, 0.0), "II": (0.0, 1.0), "III": (-1.0, 1.0), "AVR": (-0.5, -0.5), "AVL": (1.0, -0.5),
        "AVF": (-0.5, 1.0)}  # fmt: skip
LEFT = ("V6", "V5")
UNFIT_PART, UNFIT_S = 0.15, 4.0
POINTS = np.arange(2, SHAPE - 2)


def name_of(lead: str) -> str:
    """Return a lead's name without the prefix that some devices write (``MDC_ECG_LEAD_I``), in capitals."""
    return lead.upper().rsplit("_", 1)[-1]


def p_sign(channel: Any) -> int:
    """Return whether the P wave of a lead's usual beats points up (1), down (-1), or is not plain (0)."""
    if channel["p_count"] < P_BEATS or channel["p_like"] < P_LIKE:
        return 0
    wave = channel["p_shape"][:23]
    top, bottom = float(wave.max() - np.median(wave)), float(np.median(wave) - wave.min())
    if max(top, bottom) < P_LEAST_MV:
        return 0
    return 1 if top > 1.5 * bottom else -1 if bottom > 1.5 * top else 0


def qrs_sign(channel: Any) -> int:
    """Return whether the QRS of a lead's usual beats points up (1), down (-1), or is not plain (0)."""
    if channel["dominant"] < 0:
        return 0
    shape = channel["shapes"][channel["dominant"]]
    level = float(shape[:4].mean())
    top, bottom = float(shape[5:21].max()) - level, level - float(shape[5:21].min())
    if max(top, bottom) < QRS_LEAST_MV:
        return 0
    return 1 if top > 1.5 * bottom else -1 if bottom > 1.5 * top else 0


def arms_swapped(leads: tuple[str, ...], channels: NDArray[Any]) -> bool:
    """Return whether right and left arm look swapped."""
    names = [name_of(lead) for lead in leads]
    left = next((name for name in LEFT if name in names), None)
    if "I" not in names or left is None:
        return False
    one, chest = channels[names.index("I")], channels[names.index(left)]
    if one["quality"] < 0.5 or chest["quality"] < 0.5:
        return False
    return p_sign(one) == -1 and qrs_sign(one) == -1 and qrs_sign(chest) == 1 and p_sign(chest) != -1


def unfit(leads: tuple[str, ...], channels: NDArray[Any], traces: NDArray[np.float32]) -> bool:
    """Return whether the last four seconds of three or more limb leads do not follow from two of them."""
    here = [i for i, lead in enumerate(leads) if name_of(lead) in LIMB]
    if len({name_of(leads[i]) for i in here}) < 3:
        return False
    own = channels[here]
    usable = (own["lead_off"] == 0) & (own["flat"] == 0) & (own["saturated"] == 0) & (own["quality"] > 0.5)
    if not usable.all() or np.ptp(own["n"]) or np.ptp(own["start_n"]):
        return False
    count = int(UNFIT_S * float(own["analysis_rate"][0]))
    end = int(own["n"][0])
    if end - int(own["start_n"][0]) < 2 * count:
        return False
    seen = traces[here][:, np.arange(end - count, end) & MASK].astype(np.float64)
    seen -= seen.mean(axis=1, keepdims=True)
    mixture = np.array([LIMB[name_of(leads[i])] for i in here])
    rest = seen - mixture @ np.linalg.lstsq(mixture, seen, rcond=None)[0]
    strongest = float(seen.std(axis=1).max())
    return strongest > 0.05 and float(rest.std(axis=1).max()) > UNFIT_PART * strongest


def rest_of(shape: NDArray[np.float64], other: NDArray[np.float64], sign: float) -> NDArray[np.float64]:
    """Return, row by row, what ``sign * other`` leaves of a shape, against the energy of both, at the best small shift.

    Parameters
    ----------
    shape, other : ndarray, shape (n, SHAPE)

    Returns
    -------
    ndarray, shape (n,)
        0: the same; 1: nothing in common; 2: the opposite.
    """
    best = np.full(len(shape), 2.0)
    b = other[:, POINTS]
    b = b - b.mean(axis=1, keepdims=True)
    for shift in range(-2, 3):
        a = shape[:, POINTS + shift]
        a = a - a.mean(axis=1, keepdims=True)
        both = np.maximum((a * a).sum(axis=1) + (b * b).sum(axis=1), 1e-9)
        best = np.minimum(best, ((a - sign * b) ** 2).sum(axis=1) / both)
    return best


class Electrodes:
    """Remembers the signs of swapped leads, source by source."""

    def __init__(self) -> None:
        self._next_ns = 0
        self._last = np.zeros(0)  # stream index of each lead's beat seen last
        self._mirrored = np.zeros(0, dtype=np.int32)  # looks in a row; negative: upright again
        self._turned = np.zeros(0, dtype=bool)
        self._usual = np.zeros((0, SHAPE))  # what a turned lead looked like before
        self._arms: dict[str, int] = {}
        self._unfit: dict[str, int] = {}
        self._told: dict[str, str] = {}

    def assume(self, device_id: str) -> None:
        """Take the condition as told before a restart, so that its end will be told."""
        self._told[device_id] = ""

    def forget(self, device_id: str) -> None:
        """Forget a source that is no longer monitored."""
        for memory in (self._arms, self._unfit, self._told):
            memory.pop(device_id, None)

    def look(
        self,
        now_ns: int,
        patients: Iterable[Patient],
        rows: NDArray[Any],
        channels: NDArray[Any],
        traces: NDArray[Any],
    ) -> list[ConditionEvent]:
        """Look at all sources if it is time to; return the conditions that began or ended.

        Parameters
        ----------
        patients : iterable of Patient
            Those that are monitored.
        rows, channels, traces : ndarray
            As in ``seats``.
        """
        if 0 <= self._next_ns - now_ns <= LOOK_NS:
            return []
        self._next_ns = now_ns + LOOK_NS
        self._look_at_beats(channels)
        events = []
        firsts, turned = rows["row"].tolist(), self._turned.tolist()
        for patient in patients:
            first, leads = firsts[patient.row], patient.leads
            count = len(leads)
            found = [lead for k, lead in enumerate(leads) if turned[first + k]]
            if count >= 2:
                found += self._look_at_leads(patient, channels[first : first + count], traces[first : first + count])
            if not found and patient.device_id not in self._told:
                continue
            text = ", ".join(dict.fromkeys(found))
            if text == self._told.get(patient.device_id):
                continue
            if patient.device_id in self._told:
                del self._told[patient.device_id]
                events.append(ConditionEvent(patient.device_id, CODE, False, now_ns, now_ns))
            if found:
                self._told[patient.device_id] = text
                events.append(ConditionEvent(patient.device_id, CODE, True, now_ns, now_ns, args={"leads": text}))
        return events

    def _look_at_leads(self, patient: Patient, channels: NDArray[Any], traces: NDArray[Any]) -> list[str]:
        limb = [lead for lead in patient.leads if name_of(lead) in LIMB]
        if not limb:
            return []
        found: list[str] = []
        for memory, sign, named in (
            (self._arms, arms_swapped(patient.leads, channels), [lead for lead in limb if name_of(lead) == "I"]),
            (self._unfit, unfit(patient.leads, channels, traces), limb),
        ):
            looks = memory.get(patient.device_id, 0)
            looks = min(looks + 1, 2 * LOOKS) if sign else max(looks - 1, 0)
            memory[patient.device_id] = looks
            was = patient.device_id in self._told and looks > LOOKS // 2
            if looks >= 2 * LOOKS or was:
                found += named
        return found

    def _look_at_beats(self, channels: NDArray[Any]) -> None:
        more = len(channels) - len(self._last)
        if more > 0:
            self._last = np.append(self._last, np.zeros(more))
            self._mirrored = np.append(self._mirrored, np.zeros(more, dtype=np.int32))
            self._turned = np.append(self._turned, np.zeros(more, dtype=bool))
            self._usual = np.concatenate((self._usual, np.zeros((more, SHAPE))))
        begun_anew = channels["judged"] < USUAL_BEATS
        self._mirrored[begun_anew] = 0
        self._turned[begun_anew] = False
        new = ~begun_anew & (channels["held_sample"] != self._last) & (channels["dominant"] >= 0)
        at = np.flatnonzero(new)
        if not at.size:
            return
        self._last[at] = channels["held_sample"][at]
        shape = channels["held_shape"][at]
        turned = self._turned[at]
        usual = np.where(turned[:, None], self._usual[at], channels["shapes"][at, channels["dominant"][at]])
        same_width = np.abs(channels["held"][at, 5]) < WIDTH_LOG
        mirrored = (rest_of(shape, usual, -1.0) < MIRRORED_REST) & (same_width | turned)
        upright = rest_of(shape, usual, 1.0) < UPRIGHT_REST
        looks = self._mirrored[at]
        looks = np.where(mirrored, np.maximum(looks, 0) + 1, np.where(upright, np.minimum(looks, 0) - 1, 0))
        self._mirrored[at] = looks
        turns = at[(looks >= LOOKS) & ~turned]
        self._usual[turns] = channels["shapes"][turns, channels["dominant"][turns]]
        self._turned[turns] = True
        self._turned[at[(looks <= -LOOKS) & turned]] = False
