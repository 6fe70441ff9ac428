"""All monitored patients of a site: packets in, numbers and conditions out.

Responsible for who sits in which row, for sequence numbers (lost, repeated, late packets, restarted devices), for
silence, and for handing everything queued to the compiled kernel at once. Pure apart from its memory: the caller
passes the time in. Not responsible for alarms (``alarms``), transport, decoding or publishing (``role``).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeward.clinic.monitor.beat_model import BeatModel, shipped
from edgeward.clinic.monitor.candidate import SHIPPED, Network
from edgeward.clinic.monitor.conditions import ConditionEvent
from edgeward.clinic.monitor.ectopy import HISTORY
from edgeward.clinic.monitor.kernel import BEAT, BLOCK, advance
from edgeward.clinic.monitor.limits import Limits
from edgeward.clinic.monitor.rhythm import CONDITIONS, PATIENT, TRANSITION, Condition
from edgeward.clinic.monitor.state import CHANNEL, MASK, MAX_LEADS, RING, Tuning, new_channel

#: Argument that carries a condition's value in its message.
VALUE_NAME = {
    Condition.ASYSTOLE: "seconds",
    Condition.VENTRICULAR_FIBRILLATION: "rate",
    Condition.VENTRICULAR_TACHYCARDIA: "rate",
    Condition.EXTREME_BRADYCARDIA: "rate",
    Condition.EXTREME_TACHYCARDIA: "rate",
    Condition.NOISY: "quality",
    Condition.VENTRICULAR_RUN: "beats",
    Condition.PAUSE: "seconds",
    Condition.FREQUENT_VENTRICULAR_BEATS: "count",
}
CODES = {condition: condition.name.lower() for condition in Condition}
SEQUENCE = 2**32
#: A packet this far behind is not a late one: the device has started again.
RESTART_BEHIND = 64
#: A jump ahead of more than this is no loss but another stream.
GAP_MOST_S = 6 * 3600.0
#: The packets-missing alarm ends after this long without a loss.
MISSING_CLEAR_NS = 15_000_000_000
BLOCKS_AT_ONCE = 256
#: Tells snapshots of one memory layout from those of another.
_STAMP = b"EWM1" + zlib.crc32(repr((PATIENT.descr, CHANNEL.descr, RING)).encode()).to_bytes(4, "big")
_EVENTS_PER_HOP = 48
_QUEUE_MOST = 1 << 22  # samples queued before `push` processes by itself


@dataclass(slots=True)
class Patient:
    """What Python keeps of one patient beside its row."""

    device_id: str
    row: int
    rate_hz: float
    leads: tuple[str, ...]
    gain_uv: float
    limits: Limits
    sequence: int = -1
    last_received_ns: int = 0
    packets: int = 0
    missing: int = 0
    refused: int = 0  # repeated or too late
    missing_ns: int = 0  # last loss
    lost: bool = False  # told that nothing comes
    losing: bool = False  # told that packets are missing
    next_sample: int = 0  # stream index after the newest packet
    resting: bool = False  # said that it stops: its silence is no alarm


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


class MonitorBank:
    """Patients as arrays.

    Parameters
    ----------
    limits : Limits, optional
        Limits of patients enrolled without their own.
    collect_beats : bool
        Keep every beat for `take_beats` (evaluation, training).
    model : BeatModel, optional
        Judges beats instead of the one that ships (cross-validation).
    tuning : Tuning, optional
        Other parameters of the QRS detector (selection).
    network : Network, optional
        Tells QRS from noise instead of the one that ships (cross-validation).
    """

    def __init__(
        self,
        limits: Limits | None = None,
        *,
        collect_beats: bool = False,
        model: BeatModel | None = None,
        tuning: Tuning | None = None,
        network: Network | None = None,
    ) -> None:
        self._model = model if model is not None else shipped()
        self._limits = limits or Limits()
        self._patients: dict[str, Patient] = {}
        self._by_row: list[Patient] = []
        self._rows = np.zeros(16, dtype=PATIENT)
        self._channels = np.zeros(32, dtype=CHANNEL)
        self._traces = np.zeros((32, RING), dtype=np.float32)
        self._bands = np.zeros((32, RING), dtype=np.float32)
        self._channel_count = 0
        self._queue: list[tuple[int, int, int, int, NDArray[np.int16], int]] = []
        self._queued_samples = 0
        self._pending: list[ConditionEvent] = []
        self._collect = collect_beats
        self._tuning = tuning
        self._network = network if network is not None else SHIPPED
        self._beats: list[NDArray[Any]] = []
        self._no_beats = np.zeros(0, dtype=BEAT)

    # ------------------------------------------------------------------ who

    @property
    def device_ids(self) -> list[str]:
        """Devices in the order of their first packet."""
        return list(self._patients)

    def __contains__(self, device_id: object) -> bool:
        """Whether the device is enrolled."""
        return device_id in self._patients

    def enrol(
        self,
        device_id: str,
        *,
        rate_hz: float,
        leads: tuple[str, ...],
        gain_uv: float,
        limits: Limits | None = None,
        now_ns: int = 0,
    ) -> None:
        """Make room for a device, or start its signal anew if it is known; conditions that hold go on holding.

        Parameters
        ----------
        rate_hz : float
            100 to 2000.
        leads : tuple of str
            1 to 12 names.
        gain_uv : float
            Microvolts per unit, more than 0.
        now_ns : int
            From now on silence counts.

        Raises
        ------
        ValueError
            If rate, gain or the number of leads is outside its range.
        """
        if not 1 <= len(leads) <= MAX_LEADS:
            raise ValueError(f"{len(leads)} leads; allowed are 1 to {MAX_LEADS}")
        channel = new_channel(rate_hz, gain_uv, self._tuning)
        known = self._patients.get(device_id)
        if known is not None and self._queue:
            told = self.process(now_ns)  # takes what is pending with it
            self._pending += told
        if known is not None and len(known.leads) >= len(leads):
            row, first = known.row, int(self._rows[known.row]["row"])
        else:
            row = known.row if known is not None else len(self._by_row)
            first = self._channel_count
            self._grow(row + 1, first + len(leads))
            self._channel_count = first + len(leads)
        self._channels[first : first + len(leads)] = channel
        self._traces[first : first + len(leads)] = 0.0
        self._bands[first : first + len(leads)] = 0.0
        active = self._rows[row]["active"].copy()
        self._rows[row] = np.zeros(1, dtype=PATIENT)[0]
        self._rows[row]["active"] = active
        self._rows[row]["rate"] = rate_hz
        self._rows[row]["hop"] = int(0.5 * rate_hz)
        self._rows[row]["leads"] = len(leads)
        self._rows[row]["row"] = first
        self._rows[row]["heart_rate"] = math.nan
        if known is None:
            known = Patient(device_id, row, rate_hz, leads, gain_uv, limits or self._limits, last_received_ns=now_ns)
            self._patients[device_id] = known
            self._by_row.append(known)
        else:
            known.rate_hz, known.leads, known.gain_uv = rate_hz, leads, gain_uv
            known.sequence = -1
            known.next_sample = 0
        self.set_limits(device_id, limits or known.limits)

    def _grow(self, rows: int, channels: int) -> None:
        while len(self._rows) < rows:
            self._rows = np.concatenate((self._rows, np.zeros_like(self._rows)))
        while len(self._channels) < channels:
            self._channels = np.concatenate((self._channels, np.zeros_like(self._channels)))
            self._traces = np.concatenate((self._traces, np.zeros_like(self._traces)))
            self._bands = np.concatenate((self._bands, np.zeros_like(self._bands)))

    def set_limits(self, device_id: str, limits: Limits) -> None:
        """Change the limits of a patient; they hold from the next sample on.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        patient = self._patients[device_id]
        patient.limits = limits
        row = self._rows[patient.row : patient.row + 1]
        for name in ("asystole_s", "extreme_bradycardia", "extreme_tachycardia", "ventricular_tachycardia_rate",
                     "ventricular_tachycardia_beats", "pause_s", "frequent_ventricular_beats"):  # fmt: skip
            row[name] = getattr(limits, name)

    # ------------------------------------------------------------------ packets

    def push(
        self,
        device_id: str,
        samples: NDArray[np.int16],
        *,
        first_sample: int,
        sequence: int,
        received_ns: int,
        lead_off: tuple[bool, ...] = (),
    ) -> None:
        """Queue one packet. A repeated packet, or one overtaken by its successors, is counted and not used.

        Parameters
        ----------
        samples : ndarray, shape (leads, n), int16
        first_sample : int
            Stream index of the first sample.
        sequence : int
            Packet number, modulo 2**32.
        received_ns : int
            When it arrived, by this machine's clock.
        lead_off : tuple of bool, optional
            Per lead: is its electrode off.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        ValueError
            If shape or type of `samples` do not fit the enrolment.
        """
        patient = self._patients[device_id]
        if samples.ndim != 2 or samples.shape[0] != len(patient.leads) or samples.dtype != np.int16:
            raise ValueError(
                f"samples have shape {samples.shape} and type {samples.dtype}; "
                f"this device is enrolled with {len(patient.leads)} leads of int16"
            )
        if samples.shape[1] == 0:
            raise ValueError("a packet without samples")
        if first_sample < 0:
            raise ValueError(f"sample index {first_sample} is negative")
        patient.packets += 1
        patient.resting = False
        patient.last_received_ns = max(patient.last_received_ns, received_ns)
        if patient.lost:
            patient.lost = False
            self._pending.append(ConditionEvent(device_id, "signal_lost", False, received_ns, received_ns))
        expected = patient.next_sample
        if patient.sequence >= 0:
            ahead = (sequence - patient.sequence + SEQUENCE // 2) % SEQUENCE - SEQUENCE // 2
            jump = (first_sample - expected) / patient.rate_hz
            again = (
                ahead <= -RESTART_BEHIND
                or jump > GAP_MOST_S
                or (ahead > 0 and (jump < -GAP_MOST_S or first_sample + samples.shape[1] <= expected))
                or (ahead <= 0 and first_sample == 0 and sequence == 0 and expected > samples.shape[1])
            )
            if again:  # the device has begun a new stream
                self.enrol(device_id, rate_hz=patient.rate_hz, leads=patient.leads, gain_uv=patient.gain_uv,
                           now_ns=received_ns)  # fmt: skip
            elif ahead <= 0:
                patient.refused += 1
                return
            elif ahead > 1:
                patient.missing += ahead - 1
                patient.missing_ns = received_ns
                if not patient.losing:
                    patient.losing = True
                    self._pending.append(
                        ConditionEvent(
                            device_id,
                            "packets_missing",
                            True,
                            received_ns,
                            received_ns,
                            onset_sample=expected,
                            decisive_sample=first_sample,
                            args={"count": float(ahead - 1)},
                        )
                    )
        patient.sequence = sequence
        mask = sum(1 << i for i, off in enumerate(lead_off) if off)
        patient.next_sample = first_sample + samples.shape[1]
        self._queue.append((patient.row, samples.shape[1], first_sample, mask, samples, received_ns))
        self._queued_samples += samples.size
        if self._queued_samples > _QUEUE_MOST:
            told = self.process(received_ns)  # takes what is pending with it
            self._pending += told

    def process(self, now_ns: int) -> list[ConditionEvent]:
        """Take everything queued through the kernel; return the conditions that began or ended, in order."""
        queue, self._queue, self._queued_samples = self._queue, [], 0
        events, self._pending = self._pending, []
        for start in range(0, len(queue), BLOCKS_AT_ONCE):
            part = queue[start : start + BLOCKS_AT_ONCE]
            blocks = np.zeros(len(part), dtype=BLOCK)
            table = np.array([entry[:4] for entry in part], dtype=np.int64)
            blocks["patient"], blocks["samples"], blocks["first"] = table[:, 0], table[:, 1], table[:, 2]
            blocks["off_mask"] = table[:, 3]
            sizes = np.array([entry[4].size for entry in part], dtype=np.int64)
            blocks["offset"] = np.cumsum(sizes) - sizes
            flat = np.concatenate([entry[4].ravel() for entry in part])
            hops = int((table[:, 1] // np.maximum(self._rows["hop"][table[:, 0]], 1)).sum()) + 2 * len(part)
            out = np.empty(hops * _EVENTS_PER_HOP, dtype=TRANSITION)
            told = np.zeros(hops * 8 * MAX_LEADS, dtype=BEAT) if self._collect else self._no_beats
            found, heard = advance(
                self._rows,
                self._channels,
                self._traces,
                self._bands,
                flat,
                blocks,
                out,
                told,
                self._model,
                self._network,
            )
            if heard:
                self._beats.append(told[:heard].copy())
            for told_event in out[:found]:
                entry = part[int(told_event["block"])]
                events.append(self._event(told_event, entry[2] + entry[1], entry[5], now_ns))
        return events

    def _event(self, told: Any, end: int, received_ns: int, now_ns: int) -> ConditionEvent:
        """Return what the kernel told of a packet that ended before stream index `end`."""
        patient = self._by_row[int(told["patient"])]
        condition = Condition(int(told["condition"]))
        onset, decisive = int(told["onset"]), int(told["decisive"])
        args: dict[str, float | str] = {}
        if told["on"]:
            if condition in VALUE_NAME:
                args[VALUE_NAME[condition]] = round(float(told["value"]), 2)
            if condition in {Condition.LEAD_OFF, Condition.ALL_LEADS_OFF}:
                mask = int(told["value"])
                args["leads"] = ", ".join(name for i, name in enumerate(patient.leads) if mask >> i & 1)
        return ConditionEvent(
            patient.device_id,
            CODES[condition],
            bool(told["on"]),
            now_ns,
            received_ns,
            onset_sample=onset,
            decisive_sample=decisive,
            # The packet's last sample was just measured when it arrived, give or take the way here.
            onset_ns=received_ns - int((end - onset) / patient.rate_hz * 1e9) if onset >= 0 else 0,
            args=args,
        )

    # ------------------------------------------------------------------ time

    def tick(self, now_ns: int) -> list[ConditionEvent]:
        """Take the passing of time: silence is a condition, and losses are forgotten; return what began or ended.

        Call it at least twice a second. `now_ns` may be any clock that also gives `received_ns`; a step backwards
        delays nothing but this condition.
        """
        events, self._pending = self._pending, []
        for patient in self._by_row:
            silent_s = (now_ns - patient.last_received_ns) / 1e9
            if silent_s < -1.0:  # the clock was set back: count from now, or silence would stay unseen for that long
                patient.last_received_ns = now_ns
            elif silent_s >= patient.limits.silence_s and not patient.resting and not patient.lost:
                patient.lost = True
                events.append(
                    ConditionEvent(
                        patient.device_id, "signal_lost", True, now_ns, now_ns, args={"seconds": round(silent_s, 1)}
                    )
                )
            if patient.losing and not 0 <= now_ns - patient.missing_ns < MISSING_CLEAR_NS:
                patient.losing = False
                events.append(ConditionEvent(patient.device_id, "packets_missing", False, now_ns, now_ns))
        return events

    def rest(self, device_id: str) -> None:
        """Take a device's word that it stops on purpose: its silence is no alarm until it sends again.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        self._patients[device_id].resting = True

    def remove(self, device_id: str) -> None:
        """Stop monitoring a device. Its row stays reserved until the next start.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        patient = self._patients.pop(device_id)
        patient.resting, patient.losing = True, False

    def assume(self, device_id: str, codes: Collection[str]) -> None:
        """Take conditions as holding that held before a restart, so that their end will be told.

        The device must be enrolled and not yet have sent. Codes that this bank does not tell are left alone.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        patient = self._patients[device_id]
        patient.lost = "signal_lost" in codes
        patient.losing = "packets_missing" in codes  # its last loss is long ago: it ends with the next tick
        for condition, code in CODES.items():
            if code in codes:
                self._rows[patient.row]["active"][condition] = 1

    # ------------------------------------------------------------------ starting again

    def snapshot(self, device_id: str) -> bytes:
        """Return everything that the signal has taught about a patient, about 25 kB a lead.

        A bank that resumes from it and is given the packets that followed goes on exactly as this one does. Packets
        still queued are not in it: call `process` first. Only the same version can read it.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        RuntimeError
            If packets are queued.
        """
        if self._queue:
            raise RuntimeError("packets are queued; a snapshot without them would lose them: call process first")
        patient = self._patients[device_id]
        row = self._rows[patient.row]
        first = int(row["row"])
        leads = slice(first, first + len(patient.leads))
        parts = (self._rows[patient.row : patient.row + 1], self._channels[leads], self._traces[leads],
                 self._bands[leads])  # fmt: skip
        counts = np.array([patient.sequence, patient.next_sample, patient.packets, patient.missing], dtype=np.int64)
        return _STAMP + counts.tobytes() + b"".join(part.tobytes() for part in parts)

    def resume(self, device_id: str, state: bytes) -> None:
        """Put back what `snapshot` gave; the device must be enrolled with the same rate and leads. Limits stay.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        ValueError
            If the state is of another version, or of a device with another rate or number of leads.
        """
        patient = self._patients[device_id]
        row = self._rows[patient.row]
        first, leads = int(row["row"]), len(patient.leads)
        ring = RING * 4
        sizes = [len(_STAMP), 32, PATIENT.itemsize, leads * CHANNEL.itemsize, leads * ring, leads * ring]
        if len(state) != sum(sizes) or not state.startswith(_STAMP):
            raise ValueError(f"a state of {len(state)} bytes is not of this version and these {leads} leads")
        edges = np.cumsum(sizes)
        parts = [state[a:b] for a, b in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True)]
        kept = np.frombuffer(parts[1], dtype=PATIENT)
        if float(kept["rate"][0]) != patient.rate_hz or int(kept["leads"][0]) != leads:
            raise ValueError(f"a state at {kept['rate'][0]} Hz does not fit a device at {patient.rate_hz} Hz")
        self._rows[patient.row] = kept[0]
        self._rows[patient.row]["row"] = first
        self._channels[first : first + leads] = np.frombuffer(parts[2], dtype=CHANNEL)
        self._traces[first : first + leads] = np.frombuffer(parts[3], dtype=np.float32).reshape(leads, RING)
        self._bands[first : first + leads] = np.frombuffer(parts[4], dtype=np.float32).reshape(leads, RING)
        counts = np.frombuffer(parts[0], dtype=np.int64)
        patient.sequence, patient.next_sample, patient.packets, patient.missing = (int(v) for v in counts)
        self.set_limits(device_id, patient.limits)

    # ------------------------------------------------------------------ numbers and pictures

    def numerics(self, device_id: str, now_ns: int) -> Numerics:
        """Return the numbers of a patient.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        return self.numerics_of([device_id], now_ns)[0]

    def numerics_of(self, device_ids: Sequence[str], now_ns: int) -> list[Numerics]:
        """Return the numbers of many patients, in their order.

        Raises
        ------
        KeyError
            If a device is not enrolled.
        """
        patients = [self._patients[device_id] for device_id in device_ids]
        rows = [patient.row for patient in patients]
        names = (
            "heart_rate", "quality", "beat_width", "v_minute", "started", "beats", "last_beat", "off_mask", "primary"
        )  # fmt: skip
        columns = [self._rows[name][rows].tolist() for name in names]
        found = []
        for patient, rate, quality, width, ventricular, started, beats, last, mask, primary in zip(
            patients, *columns, strict=True
        ):
            age_ms = max(0.0, (now_ns - patient.last_received_ns) / 1e6)
            found.append(
                Numerics(
                    heart_rate=None if math.isnan(rate) else rate,
                    quality=quality if started else None,
                    beat_width_ms=width if beats else None,
                    ventricular_per_min=ventricular,
                    last_beat_sample=last if beats else -1,
                    age_ms=age_ms,
                    lead_off=tuple(n for i, n in enumerate(patient.leads) if mask >> i & 1) if mask else (),
                    primary=patient.leads[primary],
                    packets=patient.packets,
                    missing=patient.missing,
                    stale=age_ms >= patient.limits.silence_s * 1e3,
                )
            )
        return found

    def trace(
        self, device_id: str, seconds: float = 2.0, *, since: int | None = None
    ) -> tuple[float, int, str, NDArray[np.int16], list[int]]:
        """Return the recent display trace of the lead listened to.

        Parameters
        ----------
        seconds : float
            How much, at most; about 8 s are kept.
        since : int, optional
            Index (at the returned rate) from which to return, instead of `seconds`.

        Returns
        -------
        rate_hz : float
            125 to 250 for any device.
        start : int
            Index of the first sample at that rate.
        lead : str
        samples : ndarray, int16
            Microvolts, 0.5 - 40 Hz.
        beats : list of int
            Indices, at that rate, of the most recent beats (at most 16).

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        patient = self._patients[device_id]
        row = self._rows[patient.row]
        lead = int(row["primary"])
        at = int(row["row"]) + lead
        channel = self._channels[at]
        rate = float(channel["analysis_rate"])
        end = int(channel["n"])
        start = end - int(seconds * rate) if since is None else since
        start = max(start, end - RING + 64, 0)
        index = np.arange(start, max(end, start), dtype=np.int64) & MASK
        samples = np.clip(np.rint(self._traces[at][index] * 1e3), -32767, 32767).astype(np.int16)
        beats = []
        for k in range(min(int(row["beats"]), HISTORY)):
            stream = float(row["times"][(int(row["beats"]) - 1 - k) % HISTORY])
            position = int(channel["start_n"]) + (
                stream + float(channel["trace_delay"]) - int(channel["start_raw"])
            ) / int(channel["decimation"])
            if position >= 0:
                beats.append(round(position))
        return rate, start, patient.leads[lead], samples, sorted(beats)

    def recent_beats(self, device_id: str) -> NDArray[np.float64]:
        """Return the stream indices of the most recent beats of a patient, oldest first, at most `HISTORY`.

        Raises
        ------
        KeyError
            If the device is not enrolled.
        """
        row = self._rows[self._patients[device_id].row]
        beats = int(row["beats"])
        order = np.arange(max(0, beats - HISTORY), beats) % HISTORY
        return np.asarray(row["times"][order], dtype=np.float64)

    def take_beats(self) -> NDArray[Any]:
        """Return and forget the collected beats, dtype `BEAT`."""
        beats, self._beats = self._beats, []
        return np.concatenate(beats) if beats else self._no_beats.copy()

    def statistics(self) -> dict[str, int]:
        """Return counts over all patients: packets, missing, refused."""
        return {
            "patients": len(self._by_row),
            "packets": sum(p.packets for p in self._by_row),
            "missing": sum(p.missing for p in self._by_row),
            "refused": sum(p.refused for p in self._by_row),
        }


def warm_up() -> None:
    """Compile the kernels, or load them from the cache, by taking one second of silence through a bank."""
    bank = MonitorBank()
    bank.enrol("warm-up", rate_hz=250.0, leads=("I",), gain_uv=1.0)
    bank.push("warm-up", np.zeros((1, 250), dtype=np.int16), first_sample=0, sequence=0, received_ns=0)
    bank.process(0)


assert len(CODES) == CONDITIONS
