"""What screens draw: the newest stretch of each trace of a source, read off what the signals keep anyway.

Responsible for which stretch has not been sent yet, for where it lies in time (one clock for all traces of a source, so
that a pulse stands where its beat does), and for saying why there is nothing to draw. Reads only. Not responsible for
who looks (``screens``) or for the signals (``bank``, ``signals``).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor import readings
from edgeward.clinic.monitor.bank import MonitorBank
from edgeward.clinic.monitor.seats import Patient
from edgeward.clinic.monitor.signals import SignalBank
from edgeward.clinic.monitor.state import MASK, RING
from edgeward.messages import Trace, Wave, wanted
from edgeward.waveform import MISSING, STATE_CALIBRATING, STATE_OFF, Block

FIRST_S = 2.0  # of an ECG, for whoever begins to look
MOST_HZ = 250.0  # more than a screen can draw
_SPARE = 64  # of the ring: it may be written while it is read
_GAP_LEAST = 8  # so many zeros on end are no signal


@dataclass(slots=True)
class _Place:
    """How far a lead was sent, and where its samples of then lay."""

    n: int
    start_n: int
    start_raw: int


@dataclass(slots=True)
class _Sent:
    patient: Patient | None = None
    leads: dict[str, _Place] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Stretch:
    """Samples of one lead that follow each other without a gap."""

    start: int
    at_s: float
    samples: NDArray[np.int16]


class Traces:
    """What was sent of each source, and what was not.

    Parameters
    ----------
    bank : MonitorBank
    signals : SignalBank
    """

    def __init__(self, bank: MonitorBank, signals: SignalBank) -> None:
        self._bank, self._signals = bank, signals
        self._sent: dict[str, _Sent] = {}

    def forget(self, source_ids: Collection[str]) -> None:
        """Nobody looks at these sources any more."""
        for source_id in source_ids:
            self._sent.pop(source_id, None)

    def read(self, source_id: str, wishes: Collection[str] = ()) -> Trace | None:
        """Return what has come of a source since the last time; None if it sends no signals.

        Parameters
        ----------
        wishes : collection of str
            What is read beside the lead that the rhythm is read from: see `messages.wanted`.
        """
        ecg = source_id in self._bank
        if not ecg and source_id not in self._signals:
            return None
        sent = self._sent.setdefault(source_id, _Sent())
        offers = [(channel.name, channel.kind.name.lower()) for channel in self._signals.channels(source_id)]
        waves = list(self._others(source_id, wishes))
        if not ecg:
            return Trace(device_id=source_id, rate_hz=0.0, start=0, lead="", samples=b"", waves=waves, offers=offers)
        patient = self._bank.seats.patients[source_id]
        if sent.patient is not patient:
            sent.patient, sent.leads = patient, {}
        row = self._bank.seats.rows[patient.row]
        primary = int(row["primary"])
        first = _Stretch(0, 0.0, np.zeros(0, dtype=np.int16))
        for k, name in enumerate(patient.leads):
            if k != primary and not wanted(name, "ecg", wishes):
                sent.leads.pop(name, None)
                continue
            at = int(row["row"]) + k
            channel = self._bank.seats.channels[at]
            stretches = self._lead(sent, name, channel, self._bank.seats.traces[at])
            if k == primary and stretches:
                first = stretches.pop()
            waves += [
                Wave(
                    name=name,
                    rate_hz=float(channel["analysis_rate"]),
                    at_s=one.at_s,
                    samples=one.samples.tobytes(),
                    state=_state(channel),
                    quality=float(channel["quality"]),
                )
                for one in stretches
            ]
        channel = self._bank.seats.channels[int(row["row"]) + primary]
        return Trace(
            device_id=source_id,
            rate_hz=float(channel["analysis_rate"]),
            start=first.start,
            lead=patient.leads[primary],
            samples=first.samples.tobytes(),
            beats=readings.beats(self._bank.seats, source_id),
            at_s=first.at_s,
            state=_state(channel),
            quality=float(channel["quality"]) if row["started"] else None,
            waves=waves,
            offers=[(name, "ecg") for name in patient.leads] + offers,
        )

    def _lead(self, sent: _Sent, name: str, channel: Any, ring: NDArray[np.float32]) -> list[_Stretch]:
        """Return the stretches of a lead that were not sent: one, or two around a gap; the newest last, if empty."""
        rate = float(channel["analysis_rate"])
        end, start_n, start_raw = int(channel["n"]), int(channel["start_n"]), int(channel["start_raw"])
        oldest = max(0, end - RING + _SPARE)
        place = sent.leads.get(name)
        if place is not None and (place.n > end or place.start_n > start_n):
            place = None  # it began anew
        found: list[_Stretch] = []
        begin = end - round(FIRST_S * rate) if place is None else place.n
        if place is not None and place.start_n != start_n and place.n < start_n:
            found += [_before_gap(one) for one in self._stretch(channel, ring, max(place.n, oldest), start_n, place)]
        place = sent.leads[name] = _Place(end, start_n, start_raw)
        found += self._stretch(channel, ring, max(begin, oldest, start_n), end, place)
        return found or [_Stretch(end, _time(channel, end, place), np.zeros(0, dtype=np.int16))]

    @staticmethod
    def _stretch(channel: Any, ring: NDArray[np.float32], begin: int, end: int, place: _Place) -> list[_Stretch]:
        if begin >= end:
            return []
        index = np.arange(begin, end, dtype=np.int64) & MASK
        samples = np.clip(np.rint(ring[index] * 1e3), -32767, 32767).astype("<i2")
        return [_Stretch(begin, _time(channel, begin, place), samples)]

    def _others(self, source_id: str, wishes: Collection[str]) -> Iterator[Wave]:
        for block, quality, off in self._signals.take_blocks(source_id):
            channel = block.channel
            kind = channel.kind.name.lower()
            if not wanted(channel.name, kind, wishes):
                continue
            state = "calibrating" if block.state & STATE_CALIBRATING else ""
            state = "off" if block.state & STATE_OFF else off or state
            samples, rate = _thinned(block)
            yield Wave(
                name=channel.name,
                kind=kind,
                unit=channel.unit,
                rate_hz=rate,
                at_s=block.first_sample / channel.rate_hz,
                samples=b"" if state == "off" else samples.tobytes(),
                gain=channel.gain,
                offset=channel.offset,
                state=state,
                quality=quality,
            )


def _before_gap(stretch: _Stretch) -> _Stretch:
    """Return a stretch without the zeros that stand where nothing was received: they must not look like an asystole."""
    there = np.flatnonzero(stretch.samples)
    samples = stretch.samples[: int(there[-1]) + 1 if there.size else 0].copy()
    edges = np.flatnonzero(np.diff(np.concatenate(([0], (samples == 0).astype(np.int8), [0]))))
    for begin, end in edges.reshape(-1, 2).tolist():
        if end - begin >= _GAP_LEAST:
            samples[begin:end] = MISSING
    return _Stretch(stretch.start, stretch.at_s, samples)


def _time(channel: Any, index: int, place: _Place) -> float:
    """Return when, in seconds since the stream began, what stands at this index of the display trace was."""
    raw = place.start_raw + (index - place.start_n) * int(channel["decimation"]) - float(channel["trace_delay"])
    return raw / float(channel["rate"])


def _state(channel: Any) -> str:
    if channel["lead_off"]:
        return "off"
    return "saturated" if channel["saturated"] else "flat" if channel["flat"] else ""


def _thinned(block: Block) -> tuple[NDArray[np.int16], float]:
    """Return samples at no more than `MOST_HZ`: means of neighbours, none where one of them is missing."""
    samples, rate = block.samples.astype("<i2", copy=False), block.channel.rate_hz
    step = int(np.ceil(rate / MOST_HZ))
    if step == 1:
        return samples, rate
    groups = samples[: samples.size // step * step].reshape(-1, step)
    means = np.rint(groups.mean(axis=1)).astype("<i2")
    means[(groups == MISSING).any(axis=1)] = MISSING
    return means, rate / step
