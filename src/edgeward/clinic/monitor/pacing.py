"""What a patient's pacemaker does: its pulses in the ECG, beats that follow them, and a heart that does not answer.

Responsible for patients of whom somebody has said that they are paced (`BedSettings.paced`); for all others it costs
nothing. Finds pacing pulses, tells ``pacing_without_capture``, and keeps back what would be said of paced beats as if
the heart had made them. Pure apart from its memory. Pulses are taken out of every patient's ECG (``front_end``), and
what a pulse leaves behind is told from a beat (``jumps``), whatever is said of the patient: the flag only adds to that.
Not responsible for beats (``detector``) or alarms (``engine``).

*Capture.* The detector tells an asystole when it counts no beats. Were it to count what pulses leave behind, it would
be silent. So the ECG is looked at once more, without it: leave out 120 ms from each pulse on; if nothing else moves for
as long as an asystole takes, the heart has not answered. A captured beat moves the signal for 300 ms and more (paced
QRS 120 to 200 ms, then T).

*Paced beats.* Atrial fibrillation is told from intervals and P waves; where a pacemaker makes the beats there is
neither. Couplets, runs, bigeminy and the count of ventricular beats are kept back while each of the last beats follows
a pulse. Lethal rhythms never are.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from edgeward import waveform
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.waveform import WaveformPacket

Signal = NDArray[np.float64]

WITHOUT_CAPTURE = "pacing_without_capture"
SPIKE_S = 0.002  # as in ``state``: IEC 60601-2-27, 201.12.1.101.12 asks for 0.1 to 2 ms
LEAST_RATE_HZ = 200.0  # sampled more slowly, a pulse cannot be told from a QRS
LEAST_MV = 0.2
#: A pulse is at least this part of what moves around it: the top of a QRS is rounder.
STANDS_OUT = 0.5
AROUND_S = 0.012
#: And so many times the usual change from sample to sample.
OVER_NOISE = 6.0
SAME_SPIKE_S = 0.02  # one pulse in several leads, or its two edges; an atrial and a ventricular one are 80 ms apart
#: After a pulse so long is left out: the pulse, and most of its overshoot (IEC 60601-2-27: up to 100 ms).
BLIND_S = (0.03, 0.12)
#: What moves less than this, peak to peak, is no heart; less still where this patient's beats are small.
QUIET_MV = (0.08, 0.2)
QUIET_PART = 0.3
BIN_S = 0.25
#: The least pulses in the time of an asystole, and how old the last may be: else nobody paces.
SPIKES, LAST_S = 2, 2.5
#: Activity in so many quarters of a second of the last two: the heart is back.
BACK_BINS = 3
KEEP_S = 14.0
#: An index so far back is another stream (as in ``streams``).
ANEW_S = 30.0
#: A beat that a pulse made: the QRS comes so long after its pulse (an atrial one is earlier).
PACED_S = (-0.02, 0.35)
VENTRICULAR_S = (-0.02, 0.14)
#: This part of the latest beats decides.
MOSTLY = 0.75
LATEST = 12
_SPIKES_KEPT = 128
#: Kept back while the beats are paced ones.
OF_ATRIA = frozenset({"atrial_fibrillation"})
OF_VENTRICLES = frozenset({"ventricular_run", "couplet", "bigeminy", "trigeminy", "frequent_ventricular_beats"})


def median_of_three(x: Signal, lag: int) -> Signal:
    """Return the median of three samples `lag` apart, shape (leads, n - 2 lag): what is narrower vanishes."""
    a, b, c = x[:, : -2 * lag], x[:, lag:-lag], x[:, 2 * lag :]
    return np.asarray(np.maximum(np.minimum(a, b), np.minimum(np.maximum(a, b), c)))


def find_spikes(x: Signal, rate_hz: float) -> NDArray[np.int64]:
    """Return the samples at which pacing pulses stand.

    Parameters
    ----------
    x : ndarray, shape (leads, n)
        mV.
    """
    lag, around = int(SPIKE_S * rate_hz) + 1, math.ceil(AROUND_S * rate_hz)
    margin = lag + around
    if x.shape[1] <= 2 * margin + 1:
        return np.zeros(0, dtype=np.int64)
    clean = median_of_three(x, lag)
    height = np.abs(x[:, lag:-lag] - clean)[:, around:-around]
    near = np.lib.stride_tricks.sliding_window_view(clean, 2 * around + 1, axis=1)
    moves = near.max(axis=2) - near.min(axis=2)
    usual = np.median(height, axis=1, keepdims=True)
    found = (height >= LEAST_MV) & (height >= STANDS_OUT * moves) & (height >= OVER_NOISE * usual)
    at = np.flatnonzero(found.any(axis=0))
    if not at.size:
        return at
    first = np.concatenate(([True], np.diff(at) > SAME_SPIKE_S * rate_hz))
    return np.asarray(at[first] + margin)


@dataclass(slots=True)
class _Source:
    """What is remembered of one ECG."""

    rate_hz: float
    leads: int
    asystole_s: float
    raw: Signal  # (leads, n) mV, the latest `KEEP_S`
    next_index: int = -1  # stream index after `raw`
    searched: int = 0  # pulses were looked for up to here
    begun: int = 0  # stream index at which `raw` begins to be whole
    spikes: deque[int] = field(default_factory=lambda: deque(maxlen=_SPIKES_KEPT))
    sizes: deque[float] = field(default_factory=lambda: deque(maxlen=60))  # peak to peak of each second with a beat
    told: bool | None = None
    received_ns: int = 0
    seen: bool = True  # looked at since the last packet


class Pacing:
    """The paced patients of a site.

    Parameters
    ----------
    beats : callable
        Gives the stream indices of a source's latest beats, oldest first.
    """

    def __init__(self, beats: Callable[[str], NDArray[np.float64]]) -> None:
        self._beats = beats
        self._wanted: dict[str, float] = {}  # source -> how long an asystole takes
        self._sources: dict[str, _Source] = {}
        self._withheld: dict[tuple[str, str], ConditionEvent] = {}
        self._over: list[ConditionEvent] = []

    def __contains__(self, source_id: object) -> bool:
        """Whether somebody said that this source's patient is paced."""
        return source_id in self._wanted

    def __bool__(self) -> bool:
        """Whether there is anybody to look at."""
        return bool(self._wanted) or bool(self._over)

    def want(self, source_id: str, paced: bool, asystole_s: float, now_ns: int) -> None:
        """Take it that a source's patient is paced, or is not."""
        if paced:
            self._wanted[source_id] = asystole_s
            if source_id in self._sources:
                self._sources[source_id].asystole_s = asystole_s
            return
        if self._wanted.pop(source_id, None) is None:
            return
        self._sources.pop(source_id, None)
        self._over.append(ConditionEvent(source_id, WITHOUT_CAPTURE, False, now_ns, now_ns))
        for key in [key for key in self._withheld if key[0] == source_id]:
            self._over.append(self._withheld.pop(key))

    def forget(self, source_id: str) -> None:
        """Forget a source altogether; its events are for nobody."""
        self._wanted.pop(source_id, None)
        self._sources.pop(source_id, None)
        for key in [key for key in self._withheld if key[0] == source_id]:
            del self._withheld[key]

    def spikes(self, source_id: str) -> list[int]:
        """Return the stream indices of the latest pacing pulses of a source."""
        kept = self._sources.get(source_id)
        return list(kept.spikes) if kept else []

    # ------------------------------------------------------------------ signal

    def take_packet(self, source_id: str, data: bytes, received_ns: int) -> None:
        """Take a packet as it came; what cannot be read, or holds no ECG, is for others to complain of."""
        try:
            packet = waveform.read(data).ecg
        except waveform.PacketError:
            return
        if packet is not None:
            self.take(source_id, packet, received_ns)

    def take(self, source_id: str, packet: WaveformPacket, received_ns: int) -> None:
        """Take one packet of the ECG of a paced patient. What was overtaken or comes twice is not used."""
        if source_id not in self._wanted or packet.rate_hz < LEAST_RATE_HZ:
            return
        x = packet.samples * (packet.gain_uv / 1e3)
        x[[bool(off) for off in packet.lead_off]] = 0.0
        kept = self._sources.get(source_id)
        count, first = x.shape[1], packet.first_sample
        anew = kept is None or (kept.rate_hz, kept.leads) != (packet.rate_hz, x.shape[0])
        if kept is None or anew or first < kept.next_index - ANEW_S * packet.rate_hz:
            told = kept.told if kept else None
            kept = self._sources[source_id] = _Source(
                packet.rate_hz, x.shape[0], self._wanted[source_id], np.zeros((x.shape[0], 0)), told=told
            )
        if first < kept.next_index:
            return
        if first != kept.next_index:  # a gap
            kept.raw = np.zeros((x.shape[0], 0))
            kept.begun = kept.searched = first
        kept.raw = np.concatenate((kept.raw, x), axis=1)[:, -int(KEEP_S * packet.rate_hz) :]
        kept.next_index = first + count
        kept.received_ns = max(kept.received_ns, received_ns)
        kept.seen = False
        self._search(kept)

    @staticmethod
    def _search(kept: _Source) -> None:
        margin = 2 * (int(SPIKE_S * kept.rate_hz) + 1 + math.ceil(AROUND_S * kept.rate_hz))
        from_index = max(kept.begun, kept.searched - margin, kept.next_index - kept.raw.shape[1])
        part = kept.raw[:, from_index - kept.next_index :] if from_index < kept.next_index else kept.raw[:, :0]
        for at in (from_index + find_spikes(part, kept.rate_hz)).tolist():
            if not kept.spikes or at - kept.spikes[-1] > SAME_SPIKE_S * kept.rate_hz:
                kept.spikes.append(at)
        kept.searched = kept.next_index

    # ------------------------------------------------------------------ conditions

    def look(self, now_ns: int) -> list[ConditionEvent]:
        """Return what began or ended: pacing without capture, and what was kept back and need be no more."""
        events, self._over = self._over, []
        for source_id, kept in self._sources.items():
            if kept.seen:
                continue
            kept.seen = True
            events += self._judge(source_id, kept, now_ns)
        for key, event in list(self._withheld.items()):
            if not self._made_by_pacemaker(*key):
                del self._withheld[key]
                events.append(event)
        return events

    def _judge(self, source_id: str, kept: _Source, now_ns: int) -> list[ConditionEvent]:
        window = int(kept.asystole_s / BIN_S) + 1
        moved = _movement(kept)
        if moved is None or len(moved) < window:
            return []
        size = float(np.max(moved[-4:]))
        usual = float(np.median(kept.sizes)) if len(kept.sizes) >= 20 else math.inf
        quiet = float(np.clip(QUIET_PART * usual, *QUIET_MV)) if math.isfinite(usual) else QUIET_MV[0]
        active = moved > quiet
        since = kept.next_index - kept.asystole_s * kept.rate_hz
        pulses = [at for at in kept.spikes if at >= since]
        paced = len(pulses) >= SPIKES and kept.next_index - pulses[-1] <= LAST_S * kept.rate_hz
        if paced and not active[-window:].any():
            if kept.told:
                return []
            kept.told = True
            first = kept.next_index - int(_quiet_bins(active) * BIN_S * kept.rate_hz)
            args: dict[str, float | str] = {"seconds": round((kept.next_index - first) / kept.rate_hz, 1)}
            return [
                ConditionEvent(
                    source_id, WITHOUT_CAPTURE, True, now_ns, kept.received_ns, onset_sample=max(0, first),
                    decisive_sample=kept.next_index - 1, args=args,
                )
            ]  # fmt: skip
        if size > quiet:
            kept.sizes.append(size)
        if kept.told is not False and active[-int(2.0 / BIN_S) :].sum() >= BACK_BINS:
            kept.told = False  # also of what held before a restart
            end = kept.next_index - 1
            return [ConditionEvent(source_id, WITHOUT_CAPTURE, False, now_ns, kept.received_ns, decisive_sample=end)]
        return []

    def filter(self, events: Iterable[ConditionEvent]) -> list[ConditionEvent]:
        """Return the events without those that speak of paced beats as of the heart's own."""
        told = []
        for event in events:
            key = event.source_id, event.code
            if event.source_id not in self._wanted or event.code not in OF_ATRIA | OF_VENTRICLES:
                told.append(event)
            elif event.present and self._made_by_pacemaker(*key):
                self._withheld[key] = event
            elif event.present or self._withheld.pop(key, None) is None:
                told.append(event)
        return told

    def _made_by_pacemaker(self, source_id: str, code: str) -> bool:
        kept = self._sources.get(source_id)
        if kept is None or not kept.spikes:
            return False
        low, high = PACED_S if code in OF_ATRIA else VENTRICULAR_S
        beats = self._beats(source_id)[-LATEST:]
        beats = beats[beats >= kept.spikes[0]]
        if beats.size < 4:
            return False
        spikes = np.array(kept.spikes, dtype=np.float64)
        before = spikes[np.searchsorted(spikes, beats - low * kept.rate_hz, side="right").clip(1) - 1]
        after = (beats - before) / kept.rate_hz
        paced = (after >= low) & (after <= high)
        # An event of the ventricles is about single beats: one that the pacemaker did not make is enough.
        return bool(paced.mean() >= MOSTLY if code in OF_ATRIA else paced.all())


def _movement(kept: _Source) -> NDArray[np.float64] | None:
    """Return how much the ECG moves in each quarter of a second, pulses left out, mV peak to peak; the latest last.

    None if no lead can be judged.
    """
    rate = kept.rate_hz
    size = int(BIN_S * rate)
    lag = int(SPIKE_S * rate) + 1
    if kept.raw.shape[1] < 8 * size:
        return None
    usable = np.ptp(kept.raw[:, -8 * size :], axis=1) > 0.0
    if not usable.any():
        return None
    x = median_of_three(np.pad(kept.raw[usable], ((0, 0), (lag, lag)), mode="edge"), lag)
    count = x.shape[1]
    place = np.arange(count)
    start = kept.next_index - kept.raw.shape[1]
    blind = np.zeros(count, dtype=bool)
    for at in kept.spikes:
        a, b = int(at - start - BLIND_S[0] * rate), int(at - start + BLIND_S[1] * rate)
        if b > 0 and a < count:
            blind[max(0, a) : b] = True
    if blind.all():
        return None
    wide, narrow = int(0.6 * rate) | 1, int(0.016 * rate) | 1
    moved = np.zeros(count // size)
    for row in x:
        whole = np.interp(place, place[~blind], row[~blind])
        smooth = _mean(whole, narrow) - _mean(whole, wide)
        bins = smooth[count - moved.size * size :].reshape(moved.size, size)
        moved = np.maximum(moved, np.ptp(bins, axis=1))
    return moved


def _mean(x: Signal, width: int) -> Signal:
    padded = np.pad(x, width // 2, mode="edge")
    return np.asarray(np.convolve(padded, np.full(width, 1.0 / width), mode="valid"))


def _quiet_bins(active: NDArray[np.bool_]) -> int:
    """Return for how many quarters of a second nothing has moved, up to now."""
    last = np.flatnonzero(active)
    return int(active.size - 1 - last[-1]) if last.size else int(active.size)
