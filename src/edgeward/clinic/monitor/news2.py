"""National Early Warning Score 2.

Responsible for the table of the Royal College of Physicians (National Early Warning Score (NEWS) 2, London 2017, chart
1) and the clinical response to it (chart 4). Pure. An input that is missing or too old is named; it is never guessed,
and without it there is no total. Not responsible for where the inputs come from, and not for children: NEWS2 is for 16
years and older, and not for pregnancy.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Literal

from edgeward.messages import News2

#: Inputs, in the order of the chart. ``systolic`` and ``pulse`` are chosen from what the bed has (`inputs_of`).
INPUTS = ("respiratory_rate", "spo2", "supplemental_oxygen", "systolic", "pulse", "consciousness", "temperature")
URGENT, EMERGENCY = 5, 7
#: Where each input may come from, the better first.
SOURCES: dict[str, tuple[str, ...]] = {
    "respiratory_rate": ("respiratory_rate",),
    "spo2": ("spo2",),
    "supplemental_oxygen": ("supplemental_oxygen",),
    "systolic": ("abp_systolic", "nibp_systolic"),
    "pulse": ("heart_rate", "pulse_rate"),
    "consciousness": ("consciousness",),
    "temperature": ("temperature",),
}

#: (upper end of the band, score), the last band is open. Values are rounded as charted: whole numbers, temperature 0.1.
_BANDS: dict[str, tuple[tuple[float, int], ...]] = {
    "respiratory_rate": ((8, 3), (11, 1), (20, 0), (24, 2), (float("inf"), 3)),
    "systolic": ((90, 3), (100, 2), (110, 1), (219, 0), (float("inf"), 3)),
    "pulse": ((40, 3), (50, 1), (90, 0), (110, 1), (130, 2), (float("inf"), 3)),
    "temperature": ((35.0, 3), (36.0, 1), (38.0, 0), (39.0, 1), (float("inf"), 2)),
}
_SPO2_1 = ((91, 3), (93, 2), (95, 1), (float("inf"), 0))
_SPO2_2_LOW = ((83, 3), (85, 2), (87, 1), (92, 0))
_SPO2_2_OXYGEN = ((94, 1), (96, 2), (float("inf"), 3))


def _band(bands: tuple[tuple[float, int], ...], value: float) -> int:
    return next(score for upper, score in bands if value <= upper)


def score(name: str, value: float, *, scale2: bool = False, oxygen: bool | None = None) -> int:
    """Return the score of one input.

    Parameters
    ----------
    name : str
        One of `INPUTS`.
    value : float
        /min, %, mm[Hg], Cel; supplemental oxygen 0 or 1; consciousness 0 (alert) to 4 (see `edgeward.parameters`).
    scale2 : bool
        SpO2 scale 2, for a prescribed target of 88-92 %.
    oxygen : bool, optional
        Whether the patient breathes supplemental oxygen; scale 2 needs it above 92 %.

    Raises
    ------
    KeyError
        If there is no such input.
    ValueError
        If scale 2 is asked for above 92 % and it is not said whether the patient breathes oxygen.
    """
    if name == "supplemental_oxygen":
        return 2 if value >= 0.5 else 0
    if name == "consciousness":
        return 3 if value >= 0.5 else 0
    rounded = math.floor(value * 10 + 0.5) / 10 if name == "temperature" else math.floor(value + 0.5)
    if name != "spo2":
        return _band(_BANDS[name], rounded)
    if not scale2:
        return _band(_SPO2_1, rounded)
    if rounded <= _SPO2_2_LOW[-1][0]:
        return _band(_SPO2_2_LOW, rounded)
    if oxygen is None:
        raise ValueError("SpO2 scale 2 needs to know whether the patient breathes oxygen")
    return _band(_SPO2_2_OXYGEN, rounded) if oxygen else 0


def news2(
    inputs: Mapping[str, float], *, stale: Collection[str] = (), scale2: bool = False, age_ms: float = 0.0
) -> News2:
    """Return the score of what is known.

    Parameters
    ----------
    inputs : mapping
        Inputs that count, of `INPUTS`.
    stale : collection of str
        Inputs that were given, too long ago.
    scale2 : bool
        SpO2 scale 2.
    age_ms : float
        Of the oldest of the inputs, if it is not live.
    """
    oxygen = inputs["supplemental_oxygen"] >= 0.5 if "supplemental_oxygen" in inputs else None
    scores: dict[str, int] = {}
    for name in INPUTS:
        if name not in inputs:
            continue
        if name == "spo2" and scale2 and oxygen is None and math.floor(inputs[name] + 0.5) > _SPO2_2_LOW[-1][0]:
            continue  # 0 on air, up to 3 on oxygen: the missing input is named below
        scores[name] = score(name, inputs[name], scale2=scale2, oxygen=oxygen)
    old = [name for name in INPUTS if name in stale and name not in inputs]
    missing = [name for name in INPUTS if name not in inputs and name not in stale]
    at_least = sum(scores.values())
    complete = len(scores) == len(INPUTS)
    return News2(
        total=at_least if complete else None,
        scores=scores,
        missing=missing,
        stale=old,
        scale2=scale2,
        response=_response(at_least, scores) if complete else "",
        at_least=at_least,
        age_ms=age_ms,
    )


def _response(total: int, scores: Mapping[str, int]) -> Literal["routine", "ward", "urgent", "emergency"]:
    if total >= EMERGENCY:
        return "emergency"
    if total >= URGENT or 3 in scores.values():
        return "urgent"
    return "ward" if total else "routine"


def calls_still(code: str, before: Mapping[str, int], result: News2) -> bool:
    """Return whether a score still calls for `code` where inputs that it has no more count as they did before.

    Parameters
    ----------
    before
        Scores per input when it called for `code`.
    """
    scores = {**before, **result.scores}
    total = sum(scores.values())
    if code == "news2_emergency":
        return total >= EMERGENCY
    return total >= URGENT or (len(scores) == len(INPUTS) and 3 in scores.values())


def due(result: News2) -> str:
    """Return the code of the alarm that a score calls for, empty if none.

    What is known of an incomplete score is the least it can be: from 5 and 7 on it calls for the same. A single 3
    counts only in a complete score; the limits of that parameter alarm without it.
    """
    if result.response == "emergency" or result.at_least >= EMERGENCY:
        return "news2_emergency"
    return "news2_urgent" if result.response == "urgent" or result.at_least >= URGENT else ""
