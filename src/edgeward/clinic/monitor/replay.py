"""Tells which alarms a recording raises, and when in the recording.

Responsible for feeding a recording through the monitor and for writing the changes with sample times. Not responsible
for the alarms themselves (``alarms``) or for reading files (``records``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgeward.clinic.monitor.alarms import AlarmChange, BedAlarms
from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.records import GAIN_UV, Recording, read_recording


def replay(record: str | Path, *, limits: Limits | None = None, packet_s: float = 1.0) -> list[dict[str, Any]]:
    """Return the alarm changes of a WFDB record, in order.

    Parameters
    ----------
    record : path
        With or without ``.hea``, ``.dat``.
    limits : Limits, optional
    packet_s : float
        Length of the packets. It decides when a change would be known at the bedside (``known_s``), not what is
        found.

    Returns
    -------
    list of dict
        ``state`` (raised, ended; ``raised`` with ``present`` false: the condition is over, the alarm is latched),
        ``code``, ``priority``, ``technical``, ``latching``, ``present``, ``args`` (why), ``onset_sample``, ``onset_s``,
        ``decisive_sample``, ``decisive_s``, ``end_sample``, ``end_s`` (null while present), ``sample``, ``time_s`` (of
        this change) and ``known_s``.

    Raises
    ------
    RecordError
        If the record cannot be read.
    """
    return replay_recording(read_recording(record), limits=limits, packet_s=packet_s)


def replay_recording(
    recording: Recording, *, limits: Limits | None = None, packet_s: float = 1.0
) -> list[dict[str, Any]]:
    """Return the alarm changes of a recording; see `replay`."""
    bank = MonitorBank(limits)
    bank.enrol(recording.name, rate_hz=recording.rate_hz, leads=recording.leads, gain_uv=GAIN_UV)
    alarms = BedAlarms()
    changes: list[dict[str, Any]] = []
    for number, (first, samples, off) in enumerate(recording.packets(packet_s)):
        now_ns = int((first + samples.shape[1]) / recording.rate_hz * 1e9)
        bank.push(recording.name, samples, first_sample=first, sequence=number, received_ns=now_ns, lead_off=off)
        for event in bank.process(now_ns):
            changes += [_row(change, recording.rate_hz) for change in alarms.take(event)]
    return changes


def _row(change: AlarmChange, rate_hz: float) -> dict[str, Any]:
    alarm = change.alarm
    sample = alarm.decisive_sample if alarm.present else alarm.end_sample

    def seconds(index: int) -> float | None:
        return round(index / rate_hz, 3) if index >= 0 else None

    return {
        "state": change.state,
        "code": alarm.code,
        "number": alarm.number,
        "priority": str(alarm.priority),
        "technical": alarm.rule.technical,
        "latching": alarm.rule.latching,
        "present": alarm.present,
        "args": alarm.args,
        "sample": sample,
        "time_s": seconds(sample),
        "onset_sample": alarm.onset_sample,
        "onset_s": seconds(alarm.onset_sample),
        "decisive_sample": alarm.decisive_sample,
        "decisive_s": seconds(alarm.decisive_sample),
        "end_sample": alarm.end_sample if not alarm.present else None,
        "end_s": seconds(alarm.end_sample) if not alarm.present else None,
        "known_s": round(change.at_ns / 1e9, 3),
    }
