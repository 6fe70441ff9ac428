"""Who sits where: the patients of an ECG bank, and the arrays that hold what is known of each.

Responsible for the rows (one per patient in the tables of rhythm and stream, one per lead in those of the signal), for
making room, for beginning a signal anew, and for limits. Not responsible for packets or time (``bank``).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.patient import PATIENT
from edgeward.clinic.monitor.state import CHANNEL, MAX_LEADS, RING, Tuning, new_channel
from edgeward.clinic.monitor.streams import STREAM, new_stream

#: Kinds of devices whose filters are remembered; a device chooses its rate and gain itself.
DESIGNS_MOST = 64


@dataclass(slots=True)
class Patient:
    """What does not change from packet to packet."""

    device_id: str
    row: int
    rate_hz: float
    leads: tuple[str, ...]
    gain_uv: float
    limits: Limits


def twice(rows: NDArray[Any]) -> NDArray[Any]:
    """Return the rows and as many empty ones, whose memory is not touched yet."""
    more = np.zeros((2 * len(rows), *rows.shape[1:]), dtype=rows.dtype)
    more[: len(rows)] = rows
    return more


class Seats:
    """Patients and their rows.

    Parameters
    ----------
    tuning : Tuning, optional
        Other parameters of the QRS detector.

    Attributes
    ----------
    rows : ndarray of `patient.PATIENT`
    book : ndarray of `streams.STREAM`
        What packets say of their stream.
    channels, traces, bands : ndarray
        Per lead: its state, its display trace, its QRS band.
    """

    def __init__(self, tuning: Tuning | None = None) -> None:
        self.patients: dict[str, Patient] = {}
        self.by_row: list[Patient] = []
        self.rows = np.zeros(16, dtype=PATIENT)
        self.book = np.zeros(16, dtype=STREAM)
        self.channels = np.zeros(32, dtype=CHANNEL)
        self.traces = np.zeros((32, RING), dtype=np.float32)
        self.bands = np.zeros((32, RING), dtype=np.float32)
        self._channel_count = 0
        self._tuning = tuning
        self._designs: dict[tuple[float, float], NDArray[Any]] = {}  # filters are designed once, not for each patient

    def enrol(
        self, device_id: str, *, rate_hz: float, leads: tuple[str, ...], gain_uv: float, limits: Limits, now_ns: int
    ) -> Patient:
        """Make room for a device, or start its signal anew if it is known; conditions that hold go on holding.

        Raises
        ------
        ValueError
            If rate, gain or the number of leads is outside its range.
        """
        if not 1 <= len(leads) <= MAX_LEADS:
            raise ValueError(f"{len(leads)} leads; allowed are 1 to {MAX_LEADS}")
        channel = self._design(rate_hz, gain_uv)
        known = self.patients.get(device_id)
        if known is not None and len(known.leads) >= len(leads):
            row, first = known.row, int(self.rows[known.row]["row"])
        else:
            row = known.row if known is not None else len(self.by_row)
            first = self._channel_count
            self._grow(row + 1, first + len(leads))
            self._channel_count = first + len(leads)
        self.channels[first : first + len(leads)] = channel
        self.traces[first : first + len(leads)] = 0.0
        self.bands[first : first + len(leads)] = 0.0
        active = self.rows[row]["active"].copy()
        self.rows[row] = np.zeros(1, dtype=PATIENT)[0]
        self.rows[row]["active"] = active
        self.rows[row]["rate"] = rate_hz
        self.rows[row]["hop"] = int(0.5 * rate_hz)
        self.rows[row]["leads"] = len(leads)
        self.rows[row]["row"] = first
        self.rows[row]["heart_rate"] = math.nan
        if known is None:
            known = Patient(device_id, row, rate_hz, leads, gain_uv, limits)
            self.patients[device_id] = known
            self.by_row.append(known)
            new_stream(self.book, row, rate_hz, now_ns)
        else:
            known.rate_hz, known.leads, known.gain_uv = rate_hz, leads, gain_uv
            stream = self.book[row]
            stream["sequence"], stream["next_sample"], stream["plain"] = -1, 0, 0
            stream["rate"] = rate_hz
        self.set_limits(known, limits)
        return known

    def _design(self, rate_hz: float, gain_uv: float) -> NDArray[Any]:
        found = self._designs.get((rate_hz, gain_uv))
        if found is None:
            found = new_channel(rate_hz, gain_uv, self._tuning)
            if len(self._designs) < DESIGNS_MOST:
                self._designs[rate_hz, gain_uv] = found
        return found

    def _grow(self, rows: int, channels: int) -> None:
        while len(self.rows) < rows:
            self.rows, self.book = twice(self.rows), twice(self.book)
        while len(self.channels) < channels:
            self.channels, self.traces, self.bands = twice(self.channels), twice(self.traces), twice(self.bands)

    def set_limits(self, patient: Patient, limits: Limits) -> None:
        """Change the limits of a patient; they hold from the next sample on."""
        patient.limits = limits
        row = self.rows[patient.row : patient.row + 1]
        for name in ("asystole_s", "extreme_bradycardia", "extreme_tachycardia", "ventricular_tachycardia_rate",
                     "ventricular_tachycardia_beats", "pause_s", "frequent_ventricular_beats"):  # fmt: skip
            row[name] = getattr(limits, name)
        self.book[patient.row]["silence_ns"] = round(limits.silence_s * 1e9)
