"""What is read off the ECG's rows: numbers, the display trace, the latest beats.

Responsible for giving the fields of the tables their names and units. Changes nothing. Not responsible for how they
come about (``kernel``, ``bank``).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.ectopy import HISTORY
from edgeward.clinic.monitor.seats import Patient, Seats
from edgeward.clinic.monitor.state import MASK, RING

_OF_RHYTHM = (
    "heart_rate", "quality", "beat_width", "v_minute", "started", "beats", "off_mask", "primary"
)  # fmt: skip
_OF_STREAM = ("received_ns", "packets", "missing")


@dataclass(frozen=True, slots=True)
class Numerics:
    """The numbers of one patient. None: no value."""

    heart_rate: float | None
    quality: float | None
    beat_width_ms: float | None
    ventricular_per_min: float
    age_ms: float
    lead_off: tuple[str, ...]
    primary: str
    packets: int
    missing: int
    stale: bool


class Board:
    """The numbers of patients as they were when they were looked at last.

    Parameters
    ----------
    seats : Seats
    """

    def __init__(self, seats: Seats) -> None:
        self._seats = seats
        self._columns: dict[str, NDArray[Any]] = {}
        self._at = np.zeros(0, dtype=np.int64)

    def look(self, rows: NDArray[np.intp] | Sequence[int], now_ns: int) -> None:
        """Look at the patients in these rows."""
        seats = self._seats
        if self._at.size < seats.book.size:
            more = seats.book.size - self._at.size
            self._at = np.concatenate((self._at, np.zeros(more, dtype=np.int64)))
            for names, table in ((_OF_RHYTHM, seats.rows), (_OF_STREAM, seats.book)):
                for name in names:
                    new = np.zeros(more, dtype=table[name].dtype)
                    known = self._columns.get(name)
                    self._columns[name] = new if known is None else np.concatenate((known, new))
        for name in _OF_RHYTHM:
            self._columns[name][rows] = seats.rows[name][rows]
        for name in _OF_STREAM:
            self._columns[name][rows] = seats.book[name][rows]
        self._at[rows] = now_ns

    def heart_rates(self, rows: NDArray[np.intp]) -> tuple[list[float], list[float | None], list[int]]:
        """Return per row the heart rate (not a number: none), its quality, and when it was there."""
        columns = self._columns
        pairs = zip(columns["quality"][rows].tolist(), columns["started"][rows].tolist(), strict=True)
        return (
            columns["heart_rate"][rows].tolist(),
            [quality if started else None for quality, started in pairs],
            np.minimum(columns["received_ns"][rows], self._at[rows]).tolist(),
        )

    def at_ns(self, row: int) -> int:
        """Return when a row was looked at; 0: never."""
        return int(self._at[row]) if row < self._at.size else 0

    def numerics(self, row: int) -> Numerics:
        """Return the numbers of a patient who was looked at."""
        patient: Patient = self._seats.by_row[row]
        rate, quality, width, ventricular, started, beats, mask, primary, received, packets, missing = (
            column[row].item() for column in self._columns.values()
        )
        age_ms = max(0.0, (int(self._at[row]) - received) / 1e6)
        return Numerics(
            heart_rate=None if math.isnan(rate) else rate,
            quality=quality if started else None,
            beat_width_ms=width if beats else None,
            ventricular_per_min=ventricular,
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
    return rate, start, patient.leads[lead], samples, beats(seats, device_id)


def beats(seats: Seats, device_id: str) -> list[int]:
    """Return where the latest beats stand in the display trace of the lead listened to, oldest first."""
    row = seats.rows[seats.patients[device_id].row]
    channel = seats.channels[int(row["row"]) + int(row["primary"])]
    found = []
    for k in range(min(int(row["beats"]), HISTORY)):
        stream = float(row["times"][(int(row["beats"]) - 1 - k) % HISTORY])
        position = int(channel["start_n"]) + (stream + float(channel["trace_delay"]) - int(channel["start_raw"])) / int(
            channel["decimation"]
        )
        if position >= 0:
            found.append(round(position))
    return sorted(found)


def recent_beats(seats: Seats, device_id: str) -> NDArray[np.float64]:
    """Return the stream indices of the most recent beats of a patient, oldest first, at most `HISTORY`."""
    row = seats.rows[seats.patients[device_id].row]
    beats = int(row["beats"])
    order = np.arange(max(0, beats - HISTORY), beats) % HISTORY
    return np.asarray(row["times"][order], dtype=np.float64)
