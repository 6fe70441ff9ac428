"""Which beds a screen shows, and what it must sound for: pure functions over the beds of the site.

Responsible for the choice alone, so that a site of thousands of beds sends a browser the few dozen on its page. Not
responsible for sending (``live``).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from edgeward.console.watch import alarm_order, bed_id_of, bed_order, natural
from edgeward.messages import Alarm, Bed

MAX_PAGE = 64


class WallWish(msgspec.Struct, frozen=True):
    """One page of a wall: `start` counts beds, not pages."""

    ward: str = ""
    order: Literal["place", "alarm"] = "place"
    alarmed: bool = False
    start: int = 0
    count: int = MAX_PAGE


def in_ward(beds: Iterable[Bed], ward: str) -> list[Bed]:
    """Return the beds of one ward; an empty name means the whole site."""
    return [bed for bed in beds if not ward or bed.ward == ward]


def choose(beds: Iterable[Bed], wish: WallWish) -> dict[str, Any]:
    """Return what a wall shows: ids in order, and how many there are in all.

    A page that begins beyond the end is the last one, so that a wall does not stand empty when beds leave.
    """
    everything = list(beds)
    found = in_ward(everything, wish.ward)
    alarmed = sum(bool(bed.alarms) for bed in found)
    if wish.alarmed:
        found = [bed for bed in found if bed.alarms]
    if wish.order == "alarm":
        found.sort(key=lambda bed: (bed.standby and not bed.alarms, bed_order(bed)))
    else:
        found.sort(key=lambda bed: (natural(bed.ward), natural(bed.label or bed_id_of(bed)), bed_id_of(bed)))
    count = min(max(1, wish.count), MAX_PAGE)
    start = min(max(0, wish.start), max(0, (len(found) - 1) // count * count))
    page = found[start : start + count]
    return {
        "k": "wall",
        "ids": [bed_id_of(bed) for bed in page],
        "start": start,
        "total": len(found),
        "alarmed": alarmed,
        "wards": wards(everything),
    }


def wards(beds: Iterable[Bed]) -> list[dict[str, Any]]:
    """Return the wards that have beds: name, number of beds, how many have an unacknowledged alarm."""
    found: dict[str, list[int]] = {}
    for bed in beds:
        row = found.setdefault(bed.ward, [0, 0])
        row[0] += 1
        row[1] += any(not alarm.acknowledged for alarm in bed.alarms)
    return [
        {"name": name, "beds": found[name][0], "alarmed": found[name][1]}
        for name in sorted(found, key=natural)
        if name or len(found) > 1
    ]


def sounding(alarm: Alarm, now_ns: int) -> bool:
    """Whether an alarm sounds: nobody acknowledged it and nobody paused it (IEC 60601-1-8:2020, 6.8)."""
    return not alarm.acknowledged and alarm.audio_paused_until_ns <= now_ns


def loudness(beds: Iterable[Bed], ward: str, now_ns: int) -> dict[str, Any]:
    """Return what a screen of `ward` signals: alarms by priority, those that sound, and until when others are paused.

    An alarm whose own ward is not said counts for every screen: rather too loud than unheard.
    """
    alarms = [alarm for bed in beds if not ward or bed.ward in ("", ward) for alarm in bed.alarms]
    waiting = [alarm for alarm in alarms if not alarm.acknowledged]
    loud = [alarm for alarm in waiting if sounding(alarm, now_ns)]
    paused = [alarm.audio_paused_until_ns for alarm in waiting if alarm.audio_paused_until_ns > now_ns]
    first = min(loud, key=alarm_order, default=None)
    return {
        "alarms": {p: sum(a.priority.value == p for a in waiting) for p in ("high", "medium", "low")},
        "acknowledged": len(alarms) - len(waiting),
        "sound": first.priority.value if first else "",
        "paused": len(paused),
        "paused_until": min(paused, default=0) // 1_000_000,
    }
