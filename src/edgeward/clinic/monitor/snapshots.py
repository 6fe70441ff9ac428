"""What the signal has taught about a patient, as bytes, and back.

Responsible for the form: everything of the patient's rows, stamped with the layout of the memory, so that only the same
version reads it. Not responsible for packets that are still queued (``bank``).
"""

from __future__ import annotations

import zlib

import numpy as np

from edgeward.clinic.monitor.patient import PATIENT
from edgeward.clinic.monitor.seats import Seats
from edgeward.clinic.monitor.state import CHANNEL, RING

#: Tells snapshots of one memory layout from those of another.
_STAMP = b"EWM1" + zlib.crc32(repr((PATIENT.descr, CHANNEL.descr, RING)).encode()).to_bytes(4, "big")
_COUNTS = ("sequence", "next_sample", "packets", "missing")


def snapshot(seats: Seats, device_id: str) -> bytes:
    """Return everything that is known of a patient.

    Raises
    ------
    KeyError
        If the device is not enrolled.
    """
    patient = seats.patients[device_id]
    first = int(seats.rows[patient.row]["row"])
    leads = slice(first, first + len(patient.leads))
    parts = (seats.rows[patient.row : patient.row + 1], seats.channels[leads], seats.traces[leads], seats.bands[leads])
    counts = np.array([seats.book[patient.row][name] for name in _COUNTS], dtype=np.int64)
    return _STAMP + counts.tobytes() + b"".join(part.tobytes() for part in parts)


def resume(seats: Seats, device_id: str, state: bytes) -> None:
    """Put back what `snapshot` gave. Limits stay.

    Raises
    ------
    KeyError
        If the device is not enrolled.
    ValueError
        If the state is of another version, or of a device with another rate or number of leads.
    """
    patient = seats.patients[device_id]
    first, leads = int(seats.rows[patient.row]["row"]), len(patient.leads)
    ring = RING * 4
    sizes = [len(_STAMP), 8 * len(_COUNTS), PATIENT.itemsize, leads * CHANNEL.itemsize, leads * ring, leads * ring]
    if len(state) != sum(sizes) or not state.startswith(_STAMP):
        raise ValueError(f"a state of {len(state)} bytes is not of this version and these {leads} leads")
    edges = np.cumsum(sizes)
    parts = [state[a:b] for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
    kept = np.frombuffer(parts[1], dtype=PATIENT)
    if float(kept["rate"][0]) != patient.rate_hz or int(kept["leads"][0]) != leads:
        raise ValueError(f"a state at {kept['rate'][0]} Hz does not fit a device at {patient.rate_hz} Hz")
    seats.rows[patient.row] = kept[0]
    seats.rows[patient.row]["row"] = first
    seats.channels[first : first + leads] = np.frombuffer(parts[2], dtype=CHANNEL)
    seats.traces[first : first + leads] = np.frombuffer(parts[3], dtype=np.float32).reshape(leads, RING)
    seats.bands[first : first + leads] = np.frombuffer(parts[4], dtype=np.float32).reshape(leads, RING)
    stream = seats.book[patient.row]
    for name, value in zip(_COUNTS, np.frombuffer(parts[0], dtype=np.int64), strict=True):
        stream[name] = value
    seats.set_limits(patient, patient.limits)
