"""What is read off the ECG's rows: numbers, the display trace, the latest beats.

Responsible for giving the fields of the tables their names and units. Changes nothing. Not responsible for how they
come about (``kernel``, ``bank``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.ectopy import HISTORY
from edgeward.clinic.monitor.seats import Patient, Seats
from edgeward.clinic.monitor.state import MASK, RING

_OF_RHYTHM = (
    "heart_rate", "quality", "beat_width", "v_minute", "started", "beats", "last_beat", "off_mask", "primary"
)  # fmt: skip
_OF_STREAM = ("received_ns", "packets", "missing")


@dataclass(frozen=True, slots=True)
class Numerics:
    """The numbers of one patient. None: no value."""

    heart_rate: float | None
    quality: float | None
    beat_width_ms: float | None
    ventricular_per_min: float
    last_beat_sample: int
    age_ms: float
    lead_off: tuple[str, ...]
    primary: str
    packets: int
    missing: int
    stale: bool


class Look:
    """The numbers of some patients as they were at one moment; who asks for one gets it then.

    Parameters
    ----------
    seats : Seats
    rows : ndarray or list of int
    now_ns : int
    """

    def __init__(self, seats: Seats, rows: NDArray[np.intp] | Sequence[int], now_ns: int) -> None:
        self._by_row = seats.by_row
        self.rows = np.asarray(rows, dtype=np.intp)
        self.now_ns = now_ns
        self._columns = {name: seats.rows[name][self.rows] for name in _OF_RHYTHM}
        self._columns |= {name: seats.book[name][self.rows] for name in _OF_STREAM}

    def heart_rates(self) -> tuple[list[float], list[float | None], list[int]]:
        """Return per patient the heart rate (not a number: none), its quality, and when it was there."""
        started = self._columns["started"].tolist()
        quality = self._columns["quality"].tolist()
        return (
            self._columns["heart_rate"].tolist(),
            [one if begun else None for one, begun in zip(quality, started, strict=True)],
            np.minimum(self._columns["received_ns"], self.now_ns).tolist(),
        )

    def numerics(self, place: int) -> Numerics:
        """Return the numbers of the patient at a place of `rows`."""
        patient: Patient = self._by_row[self.rows[place]]
        rate, quality, width, ventricular, started, beats, last, mask, primary, received, packets, missing = (
            column[place].item() for column in self._columns.values()
        )
        age_ms = max(0.0, (self.now_ns - received) / 1e6)
        return Numerics(
            heart_rate=None if math.isnan(rate) else rate,
            quality=quality if started else None,
            beat_width_ms=width if beats else None,
            ventricular_per_min=ventricular,
            last_beat_sample=last if beats else -1,
            age_ms=age_ms,
            lead_off=tuple(n for i, n in enumerate(patient.leads) if mask >> i & 1) if mask else (),
            primary=patient.leads[primary],
            packets=packets,
            missing=missing,
            stale=age_ms >= patient.limits.silence_s * 1e3,
        )


def trace(
    seats: Seats, device_id: str, seconds: float = 2.0, *, since: int | None = None
) -> tuple[float, int, str, NDArray[np.int16], list[int]]:
    """Return the recent display trace of the lead listened to; see `bank.MonitorBank.trace`."""
    patient = seats.patients[device_id]
    row = seats.rows[patient.row]
    lead = int(row["primary"])
    at = int(row["row"]) + lead
    channel = seats.channels[at]
    rate = float(channel["analysis_rate"])
    end = int(channel["n"])
    start = end - int(seconds * rate) if since is None else since
    start = max(start, end - RING + 64, 0)
    index = np.arange(start, max(end, start), dtype=np.int64) & MASK
    samples = np.clip(np.rint(seats.traces[at][index] * 1e3), -32767, 32767).astype(np.int16)
    beats = []
    for k in range(min(int(row["beats"]), HISTORY)):
        stream = float(row["times"][(int(row["beats"]) - 1 - k) % HISTORY])
        position = int(channel["start_n"]) + (stream + float(channel["trace_delay"]) - int(channel["start_raw"])) / int(
            channel["decimation"]
        )
        if position >= 0:
            beats.append(round(position))
    return rate, start, patient.leads[lead], samples, sorted(beats)


def recent_beats(seats: Seats, device_id: str) -> NDArray[np.float64]:
    """Return the stream indices of the most recent beats of a patient, oldest first, at most `HISTORY`."""
    row = seats.rows[seats.patients[device_id].row]
    beats = int(row["beats"])
    order = np.arange(max(0, beats - HISTORY), beats) % HISTORY
    return np.asarray(row["times"][order], dtype=np.float64)
