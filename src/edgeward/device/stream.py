"""One wearable's stream of packets, without a network: what is in each packet, whatever happens to the patient.

Responsible for sequence numbers, sample indices, rhythm events laid over a real recording, and the marks that say which
sample an event begins or becomes decisive with. Pure: time enters only as the start time. Not responsible for sending
(`wearable`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgeward.device import rhythms
from edgeward.device.recordings import Recording, Samples, slope_energy
from edgeward.device.schedule import SENSOR_KINDS, Event
from edgeward.device.sensors import Sensors
from edgeward.waveform import MAX_SAMPLES, STATE_OFF, Block, Channel, Kind, WaveformPacket, encode, encode_channels

Phase = Literal["onset", "decisive", "end"]

_REJOIN_S = 0.12  # cross-fade back into the recording
_SNAP_S = 1.5  # a rhythm changes at the next quiet place, found within this time
_VT_BEATS = 5  # docs/findings.md: ventricular tachycardia is at least 5 beats


@dataclass(frozen=True, slots=True)
class Mark:
    """A sample that an event is judged by."""

    sample: int
    event: Event
    phase: Phase


@dataclass(frozen=True, slots=True)
class _Overlay:
    start: int
    units: Samples
    lead_off: bool

    @property
    def stop(self) -> int:
        return self.start + int(self.units.shape[1])


@dataclass(slots=True)
class WaveformStream:
    """The packets of one device from switching on to switching off.

    Attributes
    ----------
    recording, offset
        What is replayed, and from which sample of the loop on.
    packet_samples
        Samples per lead in a packet.
    start_ns
        Device time of sample 0, nanoseconds since the epoch.
    rng
        Source of noise in events.
    asystole_s
        How long without a beat is an asystole: places that event's decisive mark.
    sensors
        Sensors beside the ECG; None: packets are of version 1.
    position, sequence
        Index of the next sample; number of the next packet.
    """

    recording: Recording
    offset: int
    packet_samples: int
    start_ns: int
    rng: np.random.Generator
    asystole_s: float = 4.0
    sensors: Sensors | None = None
    position: int = 0
    sequence: int = 0
    _overlays: list[_Overlay] = field(default_factory=list)
    _marks: list[Mark] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not 1 <= self.packet_samples <= MAX_SAMPLES:
            raise ValueError(f"{self.packet_samples} samples per packet; allowed are 1 to {MAX_SAMPLES}")

    def next(self, flags: int = 0, count: int | None = None) -> tuple[WaveformPacket, list[Mark]]:
        """Return the next packet and the marks that fall into it. A shorter `count` is for the last one."""
        count = self.packet_samples if count is None else max(1, min(count, self.packet_samples))
        first = self.position
        packet = WaveformPacket(
            samples=self._signal(first, count),
            sequence=self.sequence & 0xFFFFFFFF,
            first_sample=first,
            start_ns=self.start_ns + round(first * 1e9 / self.recording.rate_hz),
            rate_hz=self.recording.rate_hz,
            gain_uv=self.recording.gain_uv,
            leads=self.recording.leads,
            lead_off=(self._lead_off(first, count),) * len(self.recording.leads),
            flags=flags,
        )
        self.sequence += 1
        return packet, self._advance(count)

    def next_bytes(self, flags: int = 0, count: int | None = None) -> tuple[bytes, list[Mark]]:
        """Return the next packet as it is sent, with the other sensors' channels if there are any, and its marks."""
        first, size = self.position, self.packet_samples if count is None else max(1, min(count, self.packet_samples))
        others = () if self.sensors is None else self.sensors.blocks(first, size)
        packet, marks = self.next(flags, count)
        if self.sensors is None:
            return encode(packet), marks
        leads = tuple(
            Block(
                Channel(name=name, kind=Kind.ECG, rate_hz=packet.rate_hz, gain=packet.gain_uv),
                first,
                row,
                STATE_OFF if off else 0,
            )
            for name, row, off in zip(packet.leads, packet.samples, packet.lead_off, strict=True)
        )
        data = encode_channels(leads + others, sequence=packet.sequence, start_ns=packet.start_ns, flags=flags)
        return data, marks

    def lose(self) -> list[Mark]:
        """Make a packet that never arrives; return its marks."""
        self.sequence += 1
        return self._advance(self.packet_samples)

    def hang(self) -> list[Mark]:
        """Let the time of one packet pass without making one; return its marks."""
        return self._advance(self.packet_samples)

    def mark(self, event: Event, phase: Phase, sample: int) -> None:
        """Remember that `sample` matters for `event`."""
        self._marks.append(Mark(sample, event, phase))

    def begin(self, event: Event, sample: int) -> None:
        """Let a rhythm event or a loose electrode begin at or shortly after `sample` (never before what is sent).

        Raises
        ------
        ValueError
            If the event is not about the signal.
        """
        rate = self.recording.rate_hz
        sample = max(sample, self.position)
        count = max(1, round(event.for_s * rate))
        if event.kind == "lead_off":
            hum = rhythms.lead_off(self.rng, count, rate)
            self._lay(sample, [hum * (0.9 if lead else 1.0) for lead in range(len(self.recording.leads))], off=True)
            self.mark(event, "onset", sample)
            self.mark(event, "decisive", sample)
        elif event.kind == "electrode_motion":
            moved = rhythms.electrode_motion(self.rng, count, rate)
            true = self._signal(sample, count) * self.recording.gain_uv
            self._lay(sample, [row + moved * (0.8 if lead else 1.0) for lead, row in enumerate(true)], off=False)
            self.mark(event, "onset", sample)
        elif event.kind in SENSOR_KINDS:
            self.mark(event, "onset", sample)
            if self.sensors is not None:
                happens = self.sensors.apnea if event.kind == "apnea" else self.sensors.sensor_off
                happens(sample / rate, (sample + count) / rate)
                if event.kind == "sensor_off":
                    self.mark(event, "decisive", sample)
        elif event.kind in ("asystole", "ventricular_tachycardia", "ventricular_fibrillation"):
            sample, back = self._quiet(sample), self._quiet(sample + count)
            count = back - sample
            self.mark(event, "onset", sample)
            self._lay(sample, self._rhythm(event, sample, count), off=False)
        else:
            raise ValueError(f"{event.kind} does not change the signal")
        self.mark(event, "end", sample + count)

    def _rhythm(self, event: Event, sample: int, count: int) -> list[NDArray[np.float64]]:
        rate = self.recording.rate_hz
        starts = self._signal(sample, 1)[:, 0] * self.recording.gain_uv
        rows = []
        beats = np.zeros(0, dtype=np.int64)
        seed = int(self.rng.integers(2**32))
        for lead, start in enumerate(starts):
            # The same beats in every lead, each lead looking at them from its own side.
            rng = np.random.default_rng(seed)
            sign = 1.0 if lead == 0 else (-0.6, 0.75)[(lead - 1) % 2]
            if event.kind == "asystole":
                row = rhythms.asystole(rng, count, rate, float(start))
            elif event.kind == "ventricular_tachycardia":
                row, peaks = rhythms.ventricular_tachycardia(rng, count, rate, float(start) * sign)
                row = row * sign
                beats = sample + peaks
                if lead == 0 and peaks.size >= _VT_BEATS:
                    self.mark(event, "decisive", sample + int(peaks[_VT_BEATS - 1]))
            else:
                row = rhythms.ventricular_fibrillation(rng, count, rate, float(start) * sign) * sign
            rows.append(row)
        if self.sensors is not None:
            self.sensors.rhythm(sample, sample + count, beats)
        if event.kind == "asystole":
            decisive = self._last_beat(sample) + round(self.asystole_s * rate)
            if decisive < sample + count:
                self.mark(event, "decisive", decisive)
        return rows

    def _lay(self, start: int, rows: list[NDArray[np.float64]], *, off: bool) -> None:
        units = np.clip(np.round(np.stack(rows) / self.recording.gain_uv), -32_768, 32_767).astype(np.int16)
        self._overlays.append(_Overlay(start, units, off))

    def _replay(self, first: int, count: int) -> Samples:
        return self.recording.stretch(self.offset + first, count)

    def _signal(self, first: int, count: int) -> Samples:
        units = self._replay(first, count)
        stop = first + count
        for overlay in self._overlays:
            low, high = max(first, overlay.start), min(stop, overlay.stop)
            if low >= high:
                continue
            patch = overlay.units[:, low - overlay.start : high - overlay.start].astype(np.float64)
            fade = max(1, int(_REJOIN_S * self.recording.rate_hz))
            weight = np.clip((overlay.stop - np.arange(low, high)) / fade, 0.0, 1.0)
            view = units[:, low - first : high - first]
            view[:] = np.round(weight * patch + (1 - weight) * view)
        return units

    def _lead_off(self, first: int, count: int) -> bool:
        return any(o.lead_off and o.start < first + count and first < o.stop for o in self._overlays)

    def _advance(self, count: int) -> list[Mark]:
        self.position += count
        past = [mark for mark in self._marks if mark.sample < self.position]
        self._marks = [mark for mark in self._marks if mark.sample >= self.position]
        self._overlays = [overlay for overlay in self._overlays if overlay.stop > self.position]
        return past

    def _quiet(self, sample: int) -> int:
        """Return the quietest place of the recording in the next 1.5 s: between beats, not within one."""
        count = int(_SNAP_S * self.recording.rate_hz)
        energy = slope_energy(self._replay(sample, count), self.recording.rate_hz, 0.12)
        margin = count // 12
        return sample + margin + int(np.argmin(energy[margin : count - margin]))

    def _last_beat(self, sample: int) -> int:
        """Return about where the last QRS complex before `sample` is: the last steep place."""
        rate = self.recording.rate_hz
        count = int(3.0 * rate)
        energy = slope_energy(self._replay(sample - count, count), rate, 0.08)
        steep = np.flatnonzero(energy > 0.25 * energy.max())
        last = int(steep[-1])
        first = max(0, last - int(0.15 * rate))
        return sample - count + first + int(np.argmax(energy[first : last + 1]))


def between(packets_s: float, rate_hz: float) -> int:
    """Return how many samples per lead make packets of about `packets_s` seconds."""
    return max(1, min(MAX_SAMPLES, round(packets_s * rate_hz)))


TruthWriter = Callable[[Mark, int], None]
"""Called with a mark and the time, nanoseconds since the epoch, at which its packet was handed to the network."""
